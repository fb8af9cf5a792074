"""The command line: instant help, clear errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from miner.cli.main import app

HEAVY = {"torch", "transformers", "peft", "bittensor", "onnxruntime", "scipy", "numpy"}
TRAINING = {"torch", "transformers", "peft", "safetensors"}


def imported_by(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_help_imports_nothing_heavy() -> None:
    assert not imported_by("import miner.cli") & HEAVY


def test_a_live_miner_loads_no_training_package_and_no_bittensor_sdk() -> None:
    assert not imported_by("import miner.process") & (TRAINING | {"bittensor"})


COMMANDS = (
    "demo",
    "mine",
    "retrain",
    "plan",
    "engines activate",
    "engines compile",
    "engines bench",
    "scenes",
    "doctor",
    "nightly",
    "stage2 check",
    "stage2 evaluate",
    "stage2 report",
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(command: str) -> None:
    status, output = run(*command.split(), "--help")
    assert status == 0
    assert "Usage" in output


def test_retraining_without_labels_says_what_is_missing(tmp_path: Path) -> None:
    status, output = run("retrain", "--data", str(tmp_path), "--workspace", str(tmp_path / "w"), "--preset", "tiny")
    assert status == 1
    assert "labels.csv" in output


def test_an_unknown_preset_names_the_known_ones(tmp_path: Path) -> None:
    status, output = run("retrain", "--data", str(tmp_path), "--preset", "huge")
    assert status == 2
    assert "standard, tiny" in output


def test_an_unknown_setting_is_refused_by_name(tmp_path: Path) -> None:
    status, output = run("mine", "--set", f"state={tmp_path}", "--set", "axon.prt=1")
    assert status == 2
    assert "axon.prt" in output


def test_mining_without_a_wallet_says_where_it_looked(tmp_path: Path) -> None:
    status, output = run("mine", "--set", f"wallet.path={tmp_path}")
    assert status == 3
    assert str(tmp_path) in output.replace("\n", "")


def test_an_empty_store_lists_nothing_and_says_what_makes_a_bundle(tmp_path: Path) -> None:
    status, output = run("engines", "list", "--store", str(tmp_path))
    assert status == 0
    assert "cascade retrain" in output


def test_activating_an_unknown_bundle_fails(tmp_path: Path) -> None:
    status, output = run("engines", "activate", "0123", "--store", str(tmp_path))
    assert status == 1
    assert "0123" in output


def test_a_malformed_change_shows_the_form(tmp_path: Path) -> None:
    status, output = run("mine", "--set", f"{tmp_path}")
    assert status == 2
    assert "KEY=VALUE" in output


def test_the_demo_does_not_empty_a_directory_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    status, output = run("demo", "--directory", str(tmp_path))
    assert status == 4
    assert "not empty" in output
    assert (tmp_path / "thesis.tex").exists()


CHECK = ("retrain", "--data", "x", "--check-settings")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CHECK, "--set", "gate.keep=3", "--set", 'gate={"keep":4}'), "gate and gate.keep are both given"),
        ((*CHECK, "--set", 'gate={"keep":4}', "--set", "gate.keep=3"), "gate and gate.keep are both given"),
        ((*CHECK, "--set", "gate.keep=3", "--set", "gate.keep=4"), "gate.keep is given twice"),
        (("mine", "--port", "9000", "--set", "axon.port=9001"), "axon.port is given twice"),
        (("mine", "--port", "9000", "--set", 'axon={"port": 9001}'), "axon and axon.port are both given"),
        ((*CHECK, "--set", 'gate={"keep": 3, "keep": 4}'), "a name is given twice in one object"),
        ((*CHECK, "--set", "train_supervised.learning_rate=Infinity"), "Infinity is not a finite number"),
        ((*CHECK, "--set", "train_supervised.learning_rate=inf"), "Input should be a finite number"),
        ((*CHECK, "--set", "gate.coverage_margin=NaN"), "NaN is not a finite number"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    status, output = run(*arguments)
    assert status == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1


def test_an_option_may_name_a_path_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell does not expand `--data=~/roads`, nor a variable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CASCADE_STORE", "~/engines")
    assert f"{tmp_path}/engines: no bundles" in run("engines", "list")[1]
    _, output = run("retrain", "--data=~/roads", "--workspace=~/w", "--preset", "tiny")
    assert f"{tmp_path}/roads: no such directory" in output
    assert run("scenes", "~/drawn", "--count", "1")[0] == 0
    assert (tmp_path / "drawn" / "labels.csv").exists()


@pytest.mark.parametrize(
    "labels",
    [
        "image,label\nmine.jpg,1\n",
        "",
        "image,label,group,source,daytime,weather,visibility\na.jpg,1,g,natix,day,dry,1\n",
    ],
)
def test_scenes_are_not_drawn_over_labels_of_a_person(tmp_path: Path, labels: str) -> None:
    (tmp_path / "labels.csv").write_text(labels)
    status, output = run("scenes", str(tmp_path), "--count", "1")
    assert status == 1
    assert "lists other pictures than synthetic scenes; name another directory" in output.replace("\n", " ")
    assert (tmp_path / "labels.csv").read_text() == labels
    assert not (tmp_path / "images").exists()


def test_scenes_are_drawn_over_scenes(tmp_path: Path) -> None:
    assert run("scenes", str(tmp_path), "--count", "1")[0] == 0
    status, output = run("scenes", str(tmp_path), "--count", "8")
    assert status == 0
    # Some scenes are seen in two frames, and each frame is a row.
    pictures = len((tmp_path / "labels.csv").read_text().splitlines()) - 1
    assert pictures > 8
    assert f"8 synthetic scenes in {tmp_path}, in {pictures} pictures" in output.replace("\n", " ")


class TestPlan:
    def test_gives_the_known_sample_sizes(self) -> None:
        status, output = run("plan", "--single-use", "--delta", "0.1", "--alpha", "0.02")
        assert status == 0
        numbers = [line.split()[3:] for line in output.splitlines() if line.strip().startswith("roadwork that exits")]
        assert numbers == [["114", "194", "265", "333", "462", "768"]]
        assert "With fewer than 114 nothing can be certified" in output

    def test_a_later_night_takes_more(self) -> None:
        _, output = run("plan", "--nights", "--uses", "3")
        assert "night 4 on these rows is tested at 0.0038" in output

    def test_a_later_look_takes_as_many_until_there_is_none_left(self) -> None:
        _, output = run("plan", "--uses", "3")
        assert "look 4 of 6 at these rows is tested at 0.0167" in output
        _, output = run("plan", "--uses", "6")
        assert "looked at 6 times, and 6 looks share delta: what follows is for a fresh fold" in output

    def test_counts_what_is_to_be_labelled_and_not_only_what_reaches_val_calib(self) -> None:
        _, output = run("plan", "--single-use", "--calib-share", "0.2")
        row = next(line.split() for line in output.splitlines() if line.strip().startswith("0.50"))
        assert int(row[4]) == 5 * int(row[3])

    def test_says_how_likely_what_is_there_succeeds(self) -> None:
        _, output = run("plan", "--single-use", "--have", "300")
        assert "With 300 groups of roadwork that exit it succeeds with probability 0.81." in output

    def test_a_model_that_misses_too_much_is_told_so(self) -> None:
        status, output = run("plan", "--miss-rate", "0.03")
        assert status == 0
        assert "no number of groups up to 10,000,000 is enough" in output

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (("--looks", "5000"), "looks is 5000, it must be from 1 to 1000"),
            (("--uses", "1000000"), "earlier_uses is 1000000, it must be from 0 to 100000"),
            (("--mode", "balanced", "--alpha", "0.5"), "subgroup_slack * alpha is 1, which certifies nothing"),
            (("--mode", "coverage", "--have", "300"), "--have counts roadwork that exits"),
            (("--nights", "--single-use"), "give one of them"),
        ],
    )
    def test_what_makes_no_question_is_told_in_one_line(self, options: tuple[str, ...], why: str) -> None:
        status, output = run("plan", *options)
        assert status == 2
        assert why in output
        assert len(output.splitlines()) == 1

    def test_it_counts_groups_and_says_so_of_every_number(self) -> None:
        for options in ((), ("--mode", "balanced"), ("--mode", "coverage"), ("--have", "300")):
            output = run("plan", *options)[1]
            assert "All counts are groups, not images" in output
            assert "images in" not in output
            assert "all in val_calib   to label" in output

    def test_a_model_close_to_the_bound_takes_very_many(self) -> None:
        output = run("plan", "--miss-rate", "0.0195")[1]
        assert "905069" in output

    def test_subgroups_are_planned_for_one_by_one(self) -> None:
        _, output = run("plan", "--mode", "balanced", "--subgroups", "3")
        assert "And in each of 3 subgroups, for its own bound of 4.0%" in output

    def test_a_coverage_is_planned_for_with_its_miss_rate(self) -> None:
        _, output = run("plan", "--mode", "coverage", "--coverage", "0.8", "--expected-coverage", "0.85")
        assert "at least 80.0% of the images exit" in output
        assert "miss rate certified" in output
        _, output = run("plan", "--mode", "coverage", "--coverage", "0.9", "--expected-coverage", "0.85")
        assert "no number of groups up to 10,000,000 is enough" in output
