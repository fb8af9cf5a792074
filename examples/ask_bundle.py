"""Ask the current bundle of a store about image files.

    python examples/ask_bundle.py cascade-data/engines street.jpg another.png

Prints for each the labels that remain (its prediction set), what the cascade does with it, and a probability.
"""

from contextlib import closing
from pathlib import Path

import typer

from engines import LiveBundle, Store, load_bundle
from stage1 import CascadeError, Stage1Error

# A module, because the package has no name for it.
from stage1.preprocess import preprocess


def ask(live: LiveBundle, path: Path) -> str:
    """What a bundle says of an image file."""
    try:
        pixels = preprocess(path.read_bytes(), live.preprocess)
    except (Stage1Error, OSError) as error:
        return str(error)
    outputs = live.engine.infer(pixels[None])
    decisions = live.policy.decide(outputs)
    labels = ", ".join(map(str, decisions.prediction_set(0)))
    probability = live.calibrator.probability(outputs)[0]
    return f"{{{labels}}} {decisions.action(0)}, probability of roadwork {probability:.4f}"


def main(store: Path, images: list[Path]) -> None:
    """Ask the current bundle of a store about image files."""
    home = Store(store)
    try:
        pointer = home.current()
        if pointer is None:
            raise SystemExit(f"{store}: no bundle is current")
        # Every hash and every golden image is checked before it may answer. It is asked one image at a time.
        live = load_bundle(home.path(pointer.bundle), most=1)
    except CascadeError as error:
        raise SystemExit(str(error)) from error
    with closing(live):
        print(f"bundle {live.bundle_id}, {live.params.status}")
        for path in images:
            print(f"{path}: {ask(live, path)}")


if __name__ == "__main__":
    typer.run(main)
