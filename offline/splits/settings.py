"""Settings of the splits: shares, what makes rows dependent, and what the sets are balanced by."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from offline.data.values import word
from stage1.settings import Section, UserPath

Split = Literal["train", "val_select", "val_calib", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# Those that a certificate rests on: one chooses the thresholds, the other tests them.
CERTIFYING: tuple[Split, ...] = ("val_select", "val_calib")
# Those that certify or report.
EXAMS: tuple[Split, ...] = ("val_calib", "test")
# Bits in which the perceptual hashes of two copies of a picture differ at most, with a margin; see `hash_distance`.
COPIES_DISTANCE = 40


class ContrastDifficulty(Section):
    """A picture of little contrast (night, fog, a dirty lens) is difficult; needs no model.

    Attributes:
        kind: tells it from the others.
    """

    kind: Literal["contrast"] = "contrast"


class ColumnDifficulty(Section):
    """A number in the labels file; larger is more difficult.

    Attributes:
        kind: tells it from the others.
        column: name of the metadata column.
    """

    kind: Literal["column"] = "column"
    column: str = "difficulty"


class BundleDifficulty(Section):
    """A picture that a published bundle is unsure of is difficult.

    The bundle is a fixed, older one: tonight's model would choose its own exam.

    Attributes:
        kind: tells it from the others.
        path: the bundle's directory.
    """

    kind: Literal["bundle"] = "bundle"
    path: UserPath


Difficulty = Annotated[ContrastDifficulty | ColumnDifficulty | BundleDifficulty, Field(discriminator="kind")]


class SplitSettings(Section):
    """How rows are grouped and groups are split. A changed setting never moves a group that has been placed.

    A metadata column is found by its name or by the end of a dotted one: `vid_id` also finds `video_info.vid_id`.

    Attributes:
        seed: seed of the tie-breaking hash.
        train: share that trains.
        val_select: share that chooses checkpoints and the candidates of a calibration.
        val_calib: share that certifies.
        test: share that reports.
        calibration_folds: val_calib is cut into so many folds by group; a calibration uses the one used least.
        train_only: values of `source` whose rows may only train, in any spelling.
        sequence_columns: rows of one source with the same value in one of these columns are one group.
        gps_cell_m: side in metres of the cell in which rows are one group if they were taken within
            `gps_minutes`; None switches the rule off.
        gps_minutes: minutes that may lie between two rows of one cell that are one group.
        roadwork_days: rows with roadwork of one cell are one group if less than so many days lie between one and the
            next, because one construction site is missed or found again and again; None for no such rule.
        roadwork_chain: a new group that this rule makes of more than so many others only trains, because it would be
            no more than one unit of an exam; None for no limit. A camera that passes a site daily for `roadwork_days`
            brings 45 visits. What is longer is a street or a city whose drives tie its sites together.
        hash_distance: rows whose perceptual hashes differ in at most so many of 256 bits are one group; None for no
            such rule. Copies of a picture (compressed again, resized, brighter, shifted or cropped by 1 %) differ in at
            most 36 bits; pictures of different places in at least 54.
        strata: metadata columns whose values every set should hold alike.
        difficulty: the frozen scorer of difficulty.
        difficulty_bins: number of difficulty quantiles that every set should hold alike.
        strata_version: the quantiles are cut once for each version; raise it to cut them again. Another scorer
            or number of bins cuts them again by itself; no group moves.
    """

    seed: int = 0
    train: float = Field(default=0.5, gt=0, lt=1)
    val_select: float = Field(default=0.15, gt=0, lt=1)
    val_calib: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.15, gt=0, lt=1)
    calibration_folds: int = Field(default=1, ge=1)
    train_only: tuple[str, ...] = ()
    sequence_columns: tuple[str, ...] = (
        "vid_id",
        "seq_id",
        "video_id",
        "sequence_id",
        "sequence",
        "sequence_key",
        "videoname",
    )
    gps_cell_m: float | None = Field(default=50.0, gt=0)
    gps_minutes: float = Field(default=10.0, gt=0)
    roadwork_days: float | None = Field(default=45.0, gt=0)
    roadwork_chain: int | None = Field(default=50, ge=1)
    hash_distance: int | None = Field(default=COPIES_DISTANCE, ge=0, lt=128)
    strata: tuple[str, ...] = ("daytime", "weather")
    difficulty: Difficulty = ContrastDifficulty()
    difficulty_bins: int = Field(default=5, ge=1)
    strata_version: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        total = sum(self.shares.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, val_select, val_calib and test sum to {total:g}, expected 1")
        return self

    @property
    def copies_distance(self) -> int:
        """Bits in which a picture without a label may differ from a row that judges and is still taken for a copy.

        That of the rows; where they are not compared, or only for equal hashes, that of copies all the same.
        """
        return self.hash_distance or COPIES_DISTANCE

    @property
    def training_sources(self) -> frozenset[str]:
        """`train_only` in the spelling that rows have."""
        return frozenset(map(word, self.train_only))

    @property
    def shares(self) -> dict[Split, float]:
        """Share of each split."""
        return {name: getattr(self, name) for name in SPLITS}
