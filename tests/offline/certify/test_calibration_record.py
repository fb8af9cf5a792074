"""What a certificate was computed from can be read again, with the columns that it read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.store.file_names import CALIBRATION
from offline.certify.calibration_record import CalibrationRecord, write_record
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.outputs import Stage1Outputs


def labelled(prefix: str) -> LabelledOutputs:
    outputs = Stage1Outputs(np.zeros((3, 2), np.float32), np.zeros(3, np.float32))
    ids = [f"{prefix}{number}.jpg" for number in range(3)]
    metadata = {"tags.time_of_day": ["dusk", "", "day"], "weather": ["rain", "", ""]}
    return LabelledOutputs(outputs, np.array([0, 1, 1], np.int8), ids, ids, metadata)


@pytest.mark.parametrize("spelled", ["time_of_day", "Time of Day", "tags.time_of_day"])
def test_a_column_is_recorded_and_found_again_in_the_spelling_of_the_setting(tmp_path: Path, spelled: str) -> None:
    sets = {"val_select": labelled("s"), "val_calib": labelled("c")}
    write_record(tmp_path, sets, key="night", about=(spelled,), calib_share=1.0)
    record = CalibrationRecord.read(tmp_path / CALIBRATION)
    assert [row.about for row in record.val_calib] == [{spelled: "dusk"}, {spelled: ""}, {spelled: "day"}]
    for name, read in record.outputs(tmp_path).items():
        assert read.column(spelled).tolist() == sets[name].column(spelled).tolist() == ["dusk", "unknown", "day"]
