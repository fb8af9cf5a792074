"""Import this before the reference miner starts, and `--neuron.image_detector CASCADE` is the live bundle.

Both layouts of the reference miner are known: that of January 2026, `base_miner`, and that of May, `natix.miner`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from miner.errors import StartError
from miner.upstream.detector import register_detector

LAYOUTS = ("natix.miner", "base_miner")


def _layout() -> str:
    for layout in LAYOUTS:
        # Of the package above first: a name whose package is not there raises.
        parts = layout.split(".")
        above = [".".join(parts[: end + 1]) for end in range(len(parts))]
        if all(find_spec(name) is not None for name in [*above, f"{layout}.registry"]):
            return layout
    raise StartError(
        f"the reference miner is not there: neither {' nor '.join(f'{layout}.registry' for layout in LAYOUTS)} can be "
        "imported; start in its directory"
    )


LAYOUT = _layout()
CascadeDetector = register_detector(
    import_module(f"{LAYOUT}.registry").DETECTOR_REGISTRY, import_module(f"{LAYOUT}.detectors").FeatureDetector
)
