"""The examples, run as a user runs them, say what the library says."""

from __future__ import annotations

import ast
import csv
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, log_expit, ndtr

from engines.live.load.load_bundle import load_bundle
from engines.store.file_names import CONFIG, PAGE, PARAMS
from engines.store.store import Store
from offline.config import RunConfig
from offline.report.gate_section import NOT_JUDGED
from offline.report.training_section import NOT_COMPARED
from offline.stages import STAGE_NAMES
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import losses_allowed, power, trials_needed
from stage1.exit_rule import apply_exit_rule
from stage1.outputs import Stage1Outputs
from stage1.preprocess import preprocess

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENES = 160


def run(script: str, *arguments: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """One example in a process of its own."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_every_example_is_run_here() -> None:
    calls = (node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Call))
    named = {
        ast.literal_eval(call.args[0]) for call in calls if isinstance(call.func, ast.Name) and call.func.id == "run"
    }
    assert named == {path.name for path in EXAMPLES.iterdir() if path.is_file()}


# certify_scores.py


def rows_of(table: Path, name: str, outputs_of: Callable[..., Stage1Outputs]) -> LabelledOutputs:
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == name]
    score, trust = (np.array([row[c] for row in rows], np.float32) for c in ("roadwork_score", "select_score"))
    labels = np.array([row["label"] for row in rows], np.int8)
    return LabelledOutputs(
        outputs_of(score, trust), labels, [row["row"] for row in rows], [row["group"] for row in rows]
    )


def test_a_drawn_table_is_certified_and_what_is_certified_is_true(
    tmp_path: Path, outputs_of: Callable[..., Stage1Outputs]
) -> None:
    table = tmp_path / "scores.csv"
    said = run("certify_scores.py", table, "--example", "--alpha", 0.03, cwd=tmp_path).stdout
    params = ScrcParams.read(tmp_path / PARAMS)
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    expected = calibrate(
        rows_of(table, "val_select", outputs_of),
        rows_of(table, "val_calib", outputs_of),
        CalibrationSettings(alpha=0.03, gate="select_score"),
        CalibrationContext(digest, digest),
    )
    assert params == expected
    assert said == f"CERTIFIED: {params.statement}\n"
    assert "at most 3.0%" in said
    # The law that the table is drawn from, with many more rows: the rule keeps its promise.
    rng = np.random.default_rng(1)
    score = rng.normal(1.5, 1.0, 400_000).astype(np.float32)
    trust = (np.abs(score) + rng.normal(0, 0.5, len(score))).astype(np.float32)
    assert params.rule is not None
    labels = apply_exit_rule(score, trust, tau=params.rule.tau, t0=params.rule.t0, t1=params.rule.t1)
    assert 0.005 < np.sum(labels == 0) / np.sum(labels >= 0) <= 0.03


def test_a_table_without_selection_scores_is_certified_on_its_roadwork_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random(2400) < 0.5).astype(int)
    scores = rng.normal(3 * labels - 1.5)
    lines = ["row,group,label,roadwork_score,set"]
    lines += [
        f"{row},{row},{label},{score},{'val_select' if row < 800 else 'val_calib'}"
        for row, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    run("certify_scores.py", "scores.csv", "--alpha", 0.04, cwd=tmp_path)
    rule = ScrcParams.read(tmp_path / PARAMS).rule
    assert rule is not None
    # The gate asks the margin, which everything passes.
    assert (rule.tau, rule.gate_score) == (0.0, "margin")
    missed, found = ndtr(rule.t0 - 1.5), ndtr(1.5 - rule.t1)
    assert 0.01 < missed / (missed + found) <= 0.04


def test_too_small_a_table_certifies_nothing_and_says_what_it_takes(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    places = [f"{row},place {row},{row % 2},{row % 2 - 0.5},{row % 4}" for row in range(200)]
    rows = [f"{place},{'val_select' if row < 100 else 'val_calib'}" for row, place in enumerate(places)]
    table.write_text("\n".join(["row,group,label,roadwork_score,select_score,set", *rows]))
    said = run("certify_scores.py", table, "--delta", 0.2, "--uses", 1, cwd=tmp_path).stdout
    params = ScrcParams.read(tmp_path / PARAMS)
    assert params.status == "INFEASIBLE"
    assert params.prior_uses == 1
    needed = trials_needed(0, 0.02, 0.2 / 6)
    assert said == f"INFEASIBLE: {params.reason}\n"
    assert f"Label at least {needed - 50} more roadwork groups" in said
    # And no table is written over one that is there.
    before = table.read_bytes()
    assert "FileExistsError" in run("certify_scores.py", table, "--example", cwd=tmp_path, status=1).stderr
    assert table.read_bytes() == before


# plan_calibration.py


def test_a_plan_of_calibration_has_the_power_that_it_names(tmp_path: Path) -> None:
    alpha, delta, rate = 0.03, 0.05, 0.01
    said = run("plan_calibration.py", "--alpha", alpha, "--delta", delta, "--miss-rate", rate, cwd=tmp_path).stdout
    level = delta / 6
    assert f"fewer than {trials_needed(0, alpha, level)} roadwork" in said
    line = r"probability (\S+), val_calib holds (\d+) images: of (\d+) with roadwork (\d+) exit, and at most (\d+) of"
    plans = {float(wanted): tuple(map(int, counts)) for wanted, *counts in re.findall(line, said)}
    assert list(plans) == [0.5, 0.8, 0.9]
    for wanted, (images, positives, exited, losses) in plans.items():
        assert losses == losses_allowed(exited, alpha, level)
        assert wanted <= power(exited, rate, alpha, level) < wanted + 0.2
        assert 0.8 * positives == pytest.approx(exited, abs=1)
        assert 0.3 * images == pytest.approx(positives, abs=1)
    hopeless = run("plan_calibration.py", "--alpha", alpha, "--miss-rate", alpha, cwd=tmp_path).stdout
    assert "No number of images is enough" in hopeless
    assert "To succeed" not in hopeless


# custom_stage2.py


def test_a_stage_2_of_ones_own_answers_is_late_and_fails(tmp_path: Path) -> None:
    said = run("custom_stage2.py", cwd=tmp_path).stdout
    verdict = r"outcome=<Outcome\.(\w+): '\w+'>, probability=(\S+), latency_ms=([\d.]+), server='orange'"
    answered, late, failed = re.findall(verdict, said)
    # A quarter of the picture is orange.
    assert answered[:2] == ("ANSWERED", "0.25")
    assert float(answered[2]) >= 100
    assert late[:2] == ("TIMEOUT", "None")
    assert float(late[2]) < 5000
    assert failed[:2] == ("ERROR", "None")
    assert "not a picture" in said


# run_night.py and ask_bundle.py


@dataclass(frozen=True)
class Night:
    """A directory with `scenes/`, `workspace/` and `engines/`, and what was said while they were made."""

    home: Path
    said: str

    @property
    def store(self) -> Store:
        return Store(self.home / "engines")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    home = tmp_path_factory.mktemp("night")
    return Night(home, run("run_night.py", "scenes", "--scenes", SCENES, cwd=home).stdout)


def test_a_night_from_python_publishes_a_bundle(night: Night) -> None:
    lines = night.said.splitlines()
    states = [line.split(": ") for line in lines if line.partition(":")[0] in STAGE_NAMES]
    assert states == [[name, state] for name in STAGE_NAMES for state in ("running", "done")]
    frames = len((night.home / "scenes" / "labels.csv").read_text().splitlines()) - 1
    assert frames > SCENES
    steps = [re.fullmatch(r"  .* (\d+) of (\d+)", line) for line in lines if line.startswith("  ")]
    assert steps
    assert all(step is not None and 0 <= int(step[1]) <= int(step[2]) for step in steps)
    [row] = night.store.bundles()
    assert row.current
    params = ScrcParams.read(row.path / PARAMS)
    bundle, certificate, report = lines[-3:]
    assert bundle == f"bundle {row.manifest.bundle_id} is current in engines"
    assert certificate == f"{params.status}: {params.reason or params.statement}"
    page = (night.home / report.removeprefix("report: ")).read_text()
    of_bundle = (row.path / PAGE).read_text()
    before, after = of_bundle.split(NOT_JUDGED)
    between, end = after.split(NOT_COMPARED)
    assert page.startswith(before)
    assert page.endswith(end)
    assert between in page
    assert "PROMOTE" in page[len(before) : page.index(between)]
    config = RunConfig.read(row.path / CONFIG)
    assert (config.preset, config.preprocess.size_px, config.train_supervised.epochs) == ("tiny", 64, 1)


ANSWER = re.compile(r"(.+): \{(.+)\} (EXIT|DEFER), probability of roadwork (\S+)")


def test_the_bundle_of_the_night_is_asked_about_pictures(night: Night) -> None:
    pictures = sorted((night.home / "scenes" / "images").iterdir())[:3]
    other = night.home / "scenes" / "labels.csv"
    said = run("ask_bundle.py", "engines", pictures[0], other, *pictures[1:], cwd=night.home).stdout
    pointer = night.store.current()
    assert pointer is not None
    with closing(load_bundle(night.store.path(pointer.bundle), most=1)) as live:
        first, *answers = said.splitlines()
        assert first == f"bundle {pointer.bundle}, {live.params.status}"
        refused = answers.pop(1)
        assert refused.startswith(f"{other}: not a readable JPEG")
        for picture, line in zip(pictures, answers, strict=True):
            outputs = live.engine.infer(preprocess(picture.read_bytes(), live.preprocess)[None])
            found = ANSWER.fullmatch(line)
            assert found is not None
            name, labels, action, probability = found.groups()
            decisions = live.policy.decide(outputs)
            assert (name, action) == (str(picture), decisions.action(0))
            assert labels == ", ".join(map(str, decisions.prediction_set(0)))
            assert float(probability) == pytest.approx(live.calibrator.probability(outputs)[0], abs=1e-4)


def test_a_certified_bundle_exits_what_is_clear_and_defers_the_rest(
    tmp_path: Path, publisher: Callable[[Store], Callable[..., str]]
) -> None:
    bundle = publisher(Store(tmp_path / "engines"))("one")
    # The engine's roadwork score is 0.04 (red - blue), its selection score 0.04 green.
    colours = {"red": (250, 250, 0), "blue": (0, 250, 250), "grey": (120, 250, 120)}
    for name, colour in colours.items():
        Image.new("RGB", (48, 48), colour).save(tmp_path / f"{name}.png")
    said = run("ask_bundle.py", "engines", *(f"{name}.png" for name in colours), cwd=tmp_path).stdout
    first, *answers = said.splitlines()
    assert first == f"bundle {bundle}, CERTIFIED"
    matches = [ANSWER.fullmatch(line) for line in answers]
    assert [match and match.group(1, 2, 3) for match in matches] == [
        ("red.png", "1", "EXIT"),
        ("blue.png", "0", "EXIT"),
        ("grey.png", "0, 1", "DEFER"),
    ]
    for match, (red, _, blue) in zip(matches, colours.values(), strict=True):
        assert match is not None
        score = 0.04 * (red - blue)
        # Its calibrator is beta calibration with these slopes.
        calibrated = expit(0.9 * log_expit(score) - 0.8 * log_expit(-score) + 0.1)
        assert float(match[4]) == pytest.approx(calibrated, abs=1e-4)
