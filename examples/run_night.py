"""One night from Python: train, certify and publish a bundle, with a display of one's own.

    python examples/run_night.py scenes --scenes 160    # draws labelled synthetic scenes there first
    python examples/run_night.py roads                  # your own images, with a labels.csv

Killed, it goes on after the last finished stage when it is started again.
"""

from pathlib import Path

import typer

from offline import load_config, run_night

# A module, because the package has no name for it.
from offline.data.sources.synthetic_streets import write_scenes
from stage1 import CascadeError

# About the smallest night there is, of a model that has seen too little to be certified, or to be better than chance.
CHANGES = {
    "model.backbone.layers": 2,
    "preprocess.size_px": 64,
    "train_supervised.epochs": 1,
    "gate.least_mcc": -1.0,
    "compare_training.baseline": False,
}


class Lines:
    """An `offline.Progress` that prints one line for each stage."""

    def stage(self, name: str, state: str) -> None:
        """A stage is `running`, `done` or `cached`."""
        print(f"{name}: {state}", flush=True)

    def step(self, done: int, total: int, note: str = "") -> None:
        """The running stage has done a part of its work."""
        print(f"  {note} {done} of {total}", end="\r", flush=True)


def main(data: Path, workspace: Path = Path("workspace"), store: Path = Path("engines"), scenes: int = 0) -> None:
    """Run one night on a directory of labelled images."""
    if scenes and not (data / "labels.csv").exists():
        list(write_scenes(data, scenes=scenes))
    config = load_config("tiny", changes=CHANGES)
    try:
        outcome = run_night(data, workspace=workspace, store=store, config=config, progress=Lines())
    except CascadeError as error:
        raise SystemExit(str(error)) from error
    # They are there because the night was not to end before it published.
    assert outcome.publication is not None
    assert outcome.params is not None
    print(f"bundle {outcome.publication.bundle} is {'current' if outcome.current else 'not current'} in {store}")
    print(f"{outcome.params.status}: {outcome.params.reason or outcome.params.statement}")
    print(f"report: {outcome.run / 'report.html'}")


if __name__ == "__main__":
    typer.run(main)
