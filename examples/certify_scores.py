"""Certify an exit rule from a table of scores, whatever model they come from.

    python examples/certify_scores.py scores.csv --example    # draws such a table first
    python examples/certify_scores.py scores.csv --alpha 0.01 --uses 1

Columns: `row` and `group` (names), `label` (0 or 1), `roadwork_score` (log-odds of roadwork), `set` (`val_select` or
`val_calib`), and, if the gate is to ask it, `select_score` (larger is safer to trust). Prints what is certified, or why
nothing is, and writes it to `scrc_params.json` beside the table. `--uses` says how often the rows of val_calib have
certified.
"""

import csv
import hashlib
from pathlib import Path

import numpy as np
import typer

from stage1 import CalibrationContext, CalibrationSettings, LabelledOutputs, Stage1Outputs, calibrate


def draw(path: Path) -> None:
    """Write a table with a known law: one row in three is roadwork, scores are normal around 1.5 or -1.5."""
    rng = np.random.default_rng(0)
    with path.open("x", newline="") as file:  # "x" never writes over a table that is there
        table = csv.writer(file)
        table.writerow(("row", "group", "label", "roadwork_score", "select_score", "set"))
        for row in range(3000):
            label = int(rng.random() < 1 / 3)
            score = rng.normal(1.5 if label else -1.5)
            name = "val_select" if row < 1000 else "val_calib"
            table.writerow((f"{row}.jpg", f"place {row}", label, score, abs(score) + rng.normal(0, 0.5), name))


def read(path: Path, name: str) -> LabelledOutputs:
    """The rows of one set."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == name]
    score = np.array([float(row["roadwork_score"]) for row in rows], np.float32)
    # Without a selection score the gate asks the margin, which every image passes.
    select_score = np.array([float(row.get("select_score", 0)) for row in rows], np.float32)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], axis=1), select_score)
    labels = np.array([int(row["label"]) for row in rows], np.int8)
    return LabelledOutputs(outputs, labels, [row["row"] for row in rows], [row["group"] for row in rows])


def main(scores: Path, example: bool = False, alpha: float = 0.02, delta: float = 0.10, uses: int = 0) -> None:
    """Certify an exit rule from a table of scores."""
    if example:
        draw(scores)
    # A certificate is true of what made the scores. To serve in a bundle it must name that engine and preprocessing
    # by their hashes; here the hash of the table stands for both.
    digest = hashlib.sha256(scores.read_bytes()).hexdigest()
    context = CalibrationContext(engine_sha256=digest, preprocess_sha256=digest, prior_uses=uses)
    select, calib = read(scores, "val_select"), read(scores, "val_calib")
    gate = "select_score" if select.outputs.select_score.any() else "margin"
    params = calibrate(select, calib, CalibrationSettings(alpha=alpha, delta=delta, gate=gate), context)
    params.write(scores.with_name("scrc_params.json"))
    print(f"{params.status}: {params.reason or params.statement}")


if __name__ == "__main__":
    typer.run(main)
