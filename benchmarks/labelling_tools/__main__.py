"""A hundred pictures of the harvest to FiftyOne and to Label Studio, labelled there, and back.

    FIFTYONE_PYTHON=... MONGOD=... LABEL_STUDIO_PYTHON=... python -m benchmarks.labelling_tools

`scripts/labelling_tools` makes the environments first. A tool without its variable is left out, and said so. The status
is 1 if not every label came back.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.faults.running import free_port
from benchmarks.labelling_tools.label_studio import label_studio
from benchmarks.labelling_tools.round_trip import (
    PICTURES,
    exported_to,
    filled_store,
    mongod,
    through_fiftyone,
    through_label_studio,
)


def main() -> int:
    """Run what there is, and print a line for each way back."""
    variables = {name: os.environ.get(name) for name in ("FIFTYONE_PYTHON", "MONGOD", "LABEL_STUDIO_PYTHON")}
    back: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        store, truth = filled_store(home / "store")
        if variables["FIFTYONE_PYTHON"] and variables["MONGOD"]:
            exported_to("fiftyone", store, home / "to_fiftyone")
            with mongod(Path(variables["MONGOD"]), home / "mongod", free_port()) as database:
                told = through_fiftyone(
                    Path(variables["FIFTYONE_PYTHON"]), database, home / "to_fiftyone", truth, home / "of_fiftyone"
                )
            print(f"FiftyOne {told['version']}: {told['samples']} samples loaded, classes {told['classes']}")
            back |= {f"FiftyOne, {way}": number for way, number in told["back"].items()}
        else:
            print("FiftyOne: left out, FIFTYONE_PYTHON and MONGOD are not set")
        if variables["LABEL_STUDIO_PYTHON"]:
            export = home / "to_label_studio"
            exported_to("labelstudio", store, export)
            with label_studio(Path(variables["LABEL_STUDIO_PYTHON"]), home / "studio", export, free_port()) as server:
                told = through_label_studio(server, export, truth, home / "of_label_studio")
            print(
                f"Label Studio {told['version']}: {told['tasks']} tasks, {told['served']} pictures served as they are"
            )
            back |= {f"Label Studio, {kind}": number for kind, number in told["back"].items()}
        else:
            print("Label Studio: left out, LABEL_STUDIO_PYTHON is not set")
    for way, number in back.items():
        print(f"{way}: {number} of {PICTURES} labels came back as they were given")
    return int(any(number != PICTURES for number in back.values()))


if __name__ == "__main__":
    sys.exit(main())
