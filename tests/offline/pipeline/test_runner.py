"""The pipeline engine: content keys, atomic commits, resuming."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import offline.pipeline.content_key
from engines.store.store import Store
from offline.config import RunConfig
from offline.errors import PipelineBusy, PipelineError
from offline.night import stages as stages_of_a_night
from offline.pipeline.choice import Choice
from offline.pipeline.content_key import PACKAGES, own_modules, root_source
from offline.pipeline.reads import Reads
from offline.pipeline.runner import Pipeline
from offline.pipeline.settings_view import ALL
from offline.pipeline.stage import MANIFEST, Stage, StageContext
from stage1.settings import override

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Data:
    """Data that are nothing but their hash."""

    sha256: str


class Recorder:
    """Remembers what each stage did."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []

    def stage(self, name: str, state: str) -> None:
        self.states.append((name, state))

    def step(self, done: int, total: int, note: str = "") -> None:
        pass

    def ran(self) -> list[str]:
        return [name for name, state in self.states if state == "running"]

    def cached(self) -> list[str]:
        return [name for name, state in self.states if state == "cached"]


def writes(name: str) -> Callable[[StageContext], None]:
    """A stage that writes what it read, its epochs and its seed."""

    def run(context: StageContext) -> None:
        read = "".join((path / f"{need}.txt").read_text() for need, path in sorted(context.inputs.items()))
        epochs = context.config.train_supervised.epochs if name == "train" else ""
        (context.out / f"{name}.txt").write_text(f"{name}({read}{epochs})")

    return run


def stages(**overrides: Callable[[StageContext], None]) -> tuple[Stage, ...]:
    """split -> train -> export, of which only train depends on the training settings."""
    plan = (("split", (), ("splits",)), ("train", ("split",), ("train_supervised",)), ("export", ("train",), ()))
    return tuple(
        Stage(name, needs, reading(needs, settings), overrides.get(name, writes(name)))
        for name, needs, settings in plan
    )


def reading(
    needs: tuple[str, ...], settings: tuple[str, ...] = (), outside: tuple[Path, ...] = ()
) -> Callable[..., Any]:
    """Some settings, the data, and all files of other stages."""
    return lambda _: Reads(settings, dict.fromkeys(needs, (ALL,)), outside=outside)


def run(
    home: Path,
    plan: tuple[Stage, ...] | None = None,
    *,
    config: RunConfig | None = None,
    data: str = "data",
    only: str | None = None,
) -> tuple[Path, Recorder]:
    seen = Recorder()
    return made(home, plan, config=config, data=data, seen=seen).run(Choice(only=only)), seen


def made(
    home: Path,
    plan: tuple[Stage, ...] | None = None,
    *,
    config: RunConfig | None = None,
    data: str = "data",
    seen: Recorder | None = None,
) -> Pipeline:
    return Pipeline(
        stages=plan or stages(),
        workspace=home / "workspace",
        store=Store(home / "store"),
        data=Data(data),
        config=config or RunConfig(),
        now=lambda: NOW,
        progress=seen or Recorder(),
    )


def test_a_run_links_every_stages_files_and_its_config(tmp_path: Path) -> None:
    home, seen = run(tmp_path)
    assert seen.ran() == ["split", "train", "export"]
    assert (home / "export.txt").read_text() == "export(train(split()12))"
    assert RunConfig.read(home / "config.json") == RunConfig()


def test_a_file_that_a_later_stage_made_anew_is_the_one_that_is_linked(tmp_path: Path) -> None:
    def judges(context: StageContext) -> None:
        (context.out / "train.txt").write_text(f"judged: {(context.inputs['train'] / 'train.txt').read_text()}")

    home, _ = run(tmp_path, stages(export=judges))
    assert (home / "train.txt").read_text() == "judged: train(split()12)"
    assert (next((tmp_path / "workspace" / "stages" / "train").glob("*/train.txt"))).read_text() == "train(split()12)"


def test_running_again_does_nothing(tmp_path: Path) -> None:
    first, _ = run(tmp_path)
    second, seen = run(tmp_path)
    assert (first, seen.ran(), seen.cached()) == (second, [], ["split", "train", "export"])


def test_a_changed_setting_reruns_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path)
    home, seen = run(tmp_path, config=override(RunConfig(), {"train_supervised.epochs": 3}))
    assert (seen.cached(), seen.ran()) == (["split"], ["train", "export"])
    assert (home / "export.txt").read_text() == "export(train(split()3))"


def test_a_stage_whose_inputs_came_out_the_same_is_not_run_again(tmp_path: Path) -> None:
    def constant(context: StageContext) -> None:
        (context.out / "train.txt").write_text("always the same")

    run(tmp_path, stages(train=constant))
    changed = override(RunConfig(), {"train_supervised.epochs": 3})
    assert run(tmp_path, stages(train=constant), config=changed)[1].ran() == ["train"]


@pytest.mark.parametrize("change", ["content", "another file", "gone"])
def test_what_a_stage_reads_outside_the_workspace_is_part_of_its_key(tmp_path: Path, change: str) -> None:
    """A directory of images to which some were added overnight, an adapter that was trained anew under its old name."""
    place = tmp_path / "images"
    place.mkdir()
    (place / "first").write_bytes(b"1")
    reads = reading(("split",), ("train_supervised",), (place,))
    plan = tuple(replace(stage, reads=reads) if stage.name == "train" else stage for stage in stages())
    run(tmp_path, plan)
    assert run(tmp_path, plan)[1].ran() == []
    if change == "content":
        (place / "first").write_bytes(b"22")
    elif change == "another file":
        (place / "second").write_bytes(b"1")
    else:
        (place / "first").unlink()
    assert "train" in run(tmp_path, plan)[1].ran()


@pytest.mark.parametrize(
    ("reads", "what"),
    [
        (lambda context: context.config.seed, "train reads RunConfig.seed"),
        (lambda context: context.config.train_supervised.batch_size, r"train reads TrainSettings\.batch_size"),
        (lambda context: context.inputs["split"] / "other.txt", "other.txt of split is read"),
    ],
    ids=["setting", "part of a section", "file"],
)
def test_a_stage_that_reads_more_than_it_declares_fails(
    tmp_path: Path, reads: Callable[[StageContext], object], what: str
) -> None:
    """Else a change of what it reads would not run it again, and the night would go on with something stale."""

    def run_train(context: StageContext) -> None:
        reads(context)
        writes("train")(context)

    def declared(_: RunConfig) -> Reads[Any]:
        return Reads(("train_supervised.epochs",), {"split": ("split.txt",)})

    plan = tuple(replace(stage, reads=declared) if stage.name == "train" else stage for stage in stages())
    run(tmp_path / "right", plan)
    wrong = tuple(replace(stage, run=run_train) if stage.name == "train" else stage for stage in plan)
    with pytest.raises(PipelineError, match=what):
        run(tmp_path / "wrong", wrong)


def test_a_file_that_a_stage_does_not_read_does_not_run_it_again(tmp_path: Path) -> None:
    def split(context: StageContext) -> None:
        (context.out / "split.txt").write_text("the same")
        (context.out / "report.txt").write_text(str(context.config.splits.seed))

    plan = tuple(
        replace(stage, reads=lambda _: Reads(("train_supervised",), {"split": ("split.txt",)}))
        if stage.name == "train"
        else stage
        for stage in stages(split=split)
    )
    run(tmp_path, plan)
    changed = override(RunConfig(), {"splits.seed": 3})
    assert run(tmp_path, plan, config=changed)[1].ran() == ["split"]


def test_a_guard_sees_everything_and_may_refuse(tmp_path: Path) -> None:
    def guard(context: StageContext) -> None:
        assert (context.inputs["split"] / "split.txt").exists()
        if context.config.seed == 1:
            raise ValueError("no")

    plan = tuple(replace(stage, guard=guard) if stage.name == "train" else stage for stage in stages())
    run(tmp_path, plan)
    assert run(tmp_path, plan, config=override(RunConfig(), {"seed": 2}))[1].ran() == []
    changed = override(RunConfig(), {"seed": 1, "train_supervised.epochs": 2})
    with pytest.raises(ValueError, match="no"):
        run(tmp_path, plan, config=changed)


def test_other_data_rerun_everything(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, data="other")[1].ran() == ["split", "train", "export"]


def test_one_stage_runs_with_what_it_needs(tmp_path: Path) -> None:
    home, seen = run(tmp_path, only="train")
    assert seen.ran() == ["split", "train"]
    assert not (home / "export.txt").exists()


def test_an_unknown_stage_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="split, train, export"):
        run(tmp_path, only="bake")


def test_a_stage_that_fails_leaves_nothing_and_the_next_run_resumes_there(tmp_path: Path) -> None:
    def fails(context: StageContext) -> None:
        (context.out / "half.txt").write_text("half")
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        run(tmp_path, stages(train=fails))
    assert not [path for path in (tmp_path / "workspace" / "stages" / "train").rglob("*") if path.is_file()]
    _, seen = run(tmp_path)
    assert (seen.cached(), seen.ran()) == (["split"], ["train", "export"])


@pytest.mark.parametrize("damage", ["change", "delete", "manifest"])
def test_a_damaged_stage_is_run_again(tmp_path: Path, damage: str) -> None:
    run(tmp_path)
    [home] = (tmp_path / "workspace" / "stages" / "train").iterdir()
    match damage:
        case "change":
            (home / "train.txt").write_text("changed")
        case "delete":
            (home / "train.txt").unlink()
        case "manifest":
            (home / MANIFEST).write_text("{")
    again, seen = run(tmp_path)
    assert seen.ran() == ["train"]
    assert (again / "train.txt").read_text() == "train(split()12)"


def test_a_second_run_in_the_same_workspace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    with FileLock(tmp_path / "workspace" / ".lock"), pytest.raises(PipelineBusy, match="another run"):
        run(tmp_path)


def test_a_stage_with_effects_outside_runs_every_time(tmp_path: Path) -> None:
    def publish(context: StageContext) -> None:
        with (tmp_path / "published").open("a") as handle:
            handle.write(context.key)

    plan = (*stages(), Stage("publish", ("export",), reading(("export",)), publish, always=True))
    run(tmp_path, plan)
    assert run(tmp_path, plan)[1].ran() == ["publish"]
    assert len((tmp_path / "published").read_text()) == 32


def test_what_is_not_finished_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="split of this config and this data is not kept here"):
        made(tmp_path).check_finished("train")
    run(tmp_path)
    made(tmp_path).check_finished("train")
    changed = override(RunConfig(), {"train_supervised.epochs": 3})
    with pytest.raises(PipelineError, match="train of this config and this data is not kept here"):
        made(tmp_path, config=changed).check_finished("export")
    with pytest.raises(PipelineError, match="no stage is called"):
        made(tmp_path).check_finished("nothing")


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def used_by(function: Callable[[StageContext], None]) -> set[str]:
    """Modules of this program that a stage's function calls into, wherever it imports them."""
    names = set(function.__code__.co_names)
    known = (getattr(vars(sys.modules[function.__module__]).get(name), "__module__", "") for name in names)
    imports = re.findall(r"^ +from (\S+) import ([\w, ]+)", inspect.getsource(function), flags=re.MULTILINE)
    named = [(module, name.strip()) for module, names in imports for name in names.split(",")]
    inside = [f"{module}.{name}" if is_module(f"{module}.{name}") else module for module, name in named]
    return {module for module in (*known, *inside) if str(module).partition(".")[0] in PACKAGES}


@pytest.mark.parametrize(
    "stage", [stage for stage in stages_of_a_night() if not stage.always], ids=lambda stage: stage.name
)
def test_a_stages_key_covers_all_code_that_it_runs(stage: Stage) -> None:
    module = stage.run.__module__
    assert module == f"offline.stages.{stage.name}"
    assert used_by(stage.run) <= set(own_modules([module]))


def test_a_stages_key_covers_what_is_found_by_name() -> None:
    """Which backend computes is known when the night runs, and by then the key is made."""
    backends = {"engines.backends.onnxruntime", "engines.backends.openvino", "engines.backends.tensorrt.engine"}
    assert backends <= set(own_modules(["offline.stages.export"]))


def test_a_stages_key_does_not_cover_what_only_a_type_checker_reads() -> None:
    assert "offline.config" not in own_modules(["offline.stages.splits"])


def test_code_reaches_as_far_as_imports_do() -> None:
    modules = own_modules(["offline.stages.calibrate_scrc"])
    assert {
        "offline.certify.calibration_ledger",
        "stage1.certificate.labelled_outputs",
        "stage1.certificate.statistics.binomial",
        "engines.engine",
    } <= set(modules)
    assert "offline.learning.supervised.train" not in modules


def test_a_module_that_is_imported_by_its_name_from_a_package_counts() -> None:
    """`from stage1.certificate import statements` runs the module, and not only the package."""
    assert "stage1.certificate.statements" in own_modules(["stage1.certificate.calibrate"])
    assert "stage1.certificate" not in own_modules(["stage1.certificate.calibrate"])


@pytest.fixture
def stage_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[StageContext], None]]:
    """The function of a stage that has a file to itself, which says this."""
    made = itertools.count()

    def write(text: str) -> Callable[[StageContext], None]:
        # Modules of other tests stay imported.
        name = re.sub(r"\W", "_", f"stage_file_{tmp_path}_{next(made)}")
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(tmp_path)
        found: Callable[[StageContext], None] = importlib.import_module(name).run
        return found

    return write


IMPORTS = """
    def run(context):
        from {module} import {name}
        (context.out / "{stage}.txt").write_text("{stage}()")
"""


def test_a_change_deep_in_the_code_runs_the_stage_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage_of: Callable[[str], Callable[[StageContext], None]]
) -> None:
    """A certificate computed with a mistake in the binomial test must not be taken from the cache."""
    code = {
        "split": ("stage1.preprocess", "preprocess"),
        "train": ("stage1.certificate", "calibrate"),
        "export": ("stage1.metrics.classification", "accuracy"),
    }
    plan = stages(
        **{
            stage: stage_of(IMPORTS.format(stage=stage, module=module, name=name))
            for stage, (module, name) in code.items()
        }
    )
    run(tmp_path, plan)
    assert run(tmp_path, plan)[1].ran() == []
    real = offline.pipeline.content_key._source
    changed = lambda module: real(module) + "# mended" * (module == "stage1.certificate.statistics.binomial")  # noqa: E731
    monkeypatch.setattr(offline.pipeline.content_key, "_source", changed)
    assert run(tmp_path, plan)[1].ran() == ["train"]


def test_a_changed_stage_function_runs_again(
    tmp_path: Path, stage_of: Callable[[str], Callable[[StageContext], None]]
) -> None:
    run(tmp_path)
    other = stage_of("def run(context):\n    (context.out / 'train.txt').write_text('another function')")
    assert run(tmp_path, stages(train=other))[1].ran() == ["train", "export"]
    assert run(tmp_path, stages(train=other))[1].ran() == []


def test_a_function_without_a_file_is_told_by_its_name() -> None:
    assert root_source(eval("lambda: None", {"__name__": "nowhere"})) == "<lambda>"


def test_a_module_without_source_is_an_error(
    tmp_path: Path, stage_of: Callable[[str], Callable[[StageContext], None]]
) -> None:
    plan = stages(split=stage_of(IMPORTS.format(stage="split", module="stage1.nothing", name="thing")))
    with pytest.raises(PipelineError, match=r"stage1\.nothing has no source file"):
        run(tmp_path, plan)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_runner import run, stages, writes

    def dies(context):
        writes({stage!r})(context)
        os.kill(os.getpid(), signal.SIGKILL)

    run(Path({home!r}), stages(**{{{stage!r}: dies}}))
"""


@pytest.mark.parametrize(("stage", "cached"), [("split", 0), ("train", 1), ("export", 2)])
def test_a_run_killed_in_a_stage_resumes_after_the_last_finished_one(tmp_path: Path, stage: str, cached: int) -> None:
    script = textwrap.dedent(KILLED.format(tests=str(Path(__file__).parent), stage=stage, home=str(tmp_path)))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    home, seen = run(tmp_path)
    assert (seen.cached(), seen.ran()) == (["split", "train"][:cached], ["split", "train", "export"][cached:])
    assert (home / "export.txt").read_text() == "export(train(split()12))"
    assert not list((tmp_path / "workspace" / "stages").glob("*/.partial-*"))


def test_what_a_killed_run_left_beside_the_stages_goes_with_the_next(tmp_path: Path) -> None:
    """Engines that were tried for scoring, what a plan was rehearsed on, and half of a file."""
    run(tmp_path)
    workspace = tmp_path / "workspace"
    for name in (".scoring-abc", ".rehearsal-abc"):
        (workspace / name).mkdir()
        (workspace / name / "engine").write_bytes(b"large")
    (workspace / ".contents.json.1.abcd.partial").write_bytes(b"half")
    a_day_ago = time.time() - 2 * 86_400
    os.utime(workspace / ".rehearsal-abc", (a_day_ago, a_day_ago))
    # Whoever plans holds no lock, so what is fresh may be in use; that of the run alone is not.
    (workspace / ".rehearsal-now").mkdir()
    os.utime(workspace / ".contents.json.1.abcd.partial", (a_day_ago, a_day_ago))
    run(tmp_path)
    left = {path.name for path in workspace.iterdir() if path.name.startswith(".")}
    assert left == {".lock", ".rehearsal-now"}


def test_a_run_killed_at_any_step_on_the_file_system_is_finished_by_the_next(tmp_path: Path) -> None:
    child = Path(__file__).with_name("pipeline_child.py")
    subprocess.run([sys.executable, str(child), str(tmp_path / "homes")], check=True, timeout=1800)
    homes = sorted((tmp_path / "homes").iterdir(), key=lambda path: int(path.name))
    assert len(homes) > 30
    cached = []
    for home in homes:
        finished, seen = run(home)
        assert (finished / "export.txt").read_text() == "export(train(split()12))"
        assert not list((home / "workspace" / "stages").glob("*/.partial-*"))
        cached.append(len(seen.cached()))
    # What was finished stays finished, however much later the kill came.
    assert cached == sorted(cached)
    assert set(cached) == {0, 1, 2, 3}


def deciding(context: StageContext) -> None:
    (context.out / "choice.txt").write_text("3")


def chosen(config: RunConfig, home: Path) -> RunConfig:
    return override(config, {"train_supervised.epochs": int((home / "choice.txt").read_text())})


def plan_with_a_choice(choose: Callable[[StageContext], None] = deciding) -> tuple[Stage, ...]:
    """draw depends on the training settings and comes before the choice, train and export come after it."""
    split, train, export = stages()
    both = ("split", "draw")
    draw = Stage("draw", ("split",), reading(("split",), ("train_supervised",)), writes("draw"))
    choice = Stage("choice", ("split",), reading(("split",), ("seed",)), choose, decides=chosen)
    return split, draw, choice, replace(train, needs=both, reads=reading(both, ("train_supervised",))), export


def test_later_stages_follow_what_a_stage_decided_and_earlier_ones_are_made_anew(tmp_path: Path) -> None:
    home, seen = run(tmp_path, plan_with_a_choice())
    assert seen.ran() == ["split", "draw", "choice", "draw", "train", "export"]
    assert (home / "train.txt").read_text() == "train(draw(split())split()3)"
    # The config of the run is what was asked for, so that it can be asked for again.
    assert RunConfig.read(home / "config.json") == RunConfig()
    again = run(tmp_path, plan_with_a_choice())[1]
    assert again.ran() == []


def test_the_key_of_a_later_stage_depends_on_the_choice_and_not_on_how_it_was_made(tmp_path: Path) -> None:
    def noisily(context: StageContext) -> None:
        deciding(context)
        (context.out / "seconds.txt").write_text("17.2")

    run(tmp_path, plan_with_a_choice())
    seen = run(tmp_path, plan_with_a_choice(noisily), config=override(RunConfig(), {"seed": 1}))[1]
    assert seen.ran() == ["choice"]


def test_a_single_stage_waits_for_the_choice_before_it_though_it_reads_nothing_of_it(tmp_path: Path) -> None:
    seen = run(tmp_path, plan_with_a_choice(), only="train")[1]
    assert "choice" in seen.ran()
    assert "choice" not in run(tmp_path / "other", plan_with_a_choice(), only="draw")[1].ran()


def test_a_kept_run_of_the_chosen_config_needs_no_choice(tmp_path: Path) -> None:
    run(tmp_path, plan_with_a_choice())
    kept = override(RunConfig(), {"train_supervised.epochs": 3, "seed": 5})
    made(tmp_path, plan_with_a_choice(), config=kept).check_finished("train")
