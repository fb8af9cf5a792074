"""The pages: every command and setting in them exists, what can be run is run, and every link leads somewhere.

A block of code is run in a directory with a few scenes in `roads` and a store of two bundles; BUNDLE stands for the id
of one of them. A block after a comment such as `<!-- parse only: needs a chain -->` is only parsed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from engines.store.bundle import Provenance
from engines.store.store import Store
from miner.axon import http_connection
from miner.axon.http_connection import Unread
from miner.axon.proofs import STALE_CLAIM
from miner.axon.refusals import Refusal, Unauthenticated
from miner.cli.main import app
from miner.cli.options import INTERRUPTED, parsed_changes
from miner.errors import StartError, WalletError
from miner.settings import load_settings
from miner.upstream.flag_table import FLAGS
from offline.config import PRESETS, load_config
from offline.data.sources.synthetic_streets import write_scenes
from offline.errors import TrainingInterrupted
from offline.stages import STAGE_NAMES
from stage1.errors import CascadeError, SettingsError
from stage1.settings import dotted

ROOT = Path(__file__).parents[2]
PACKAGES = ("stage1", "engines", "offline", "stage2_bridge", "miner")
NAMED = "|".join((*PACKAGES, "benchmarks", "tests"))
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
USING, NIGHT, ARCHITECTURE, REPLIES = (
    ROOT / "docs" / f"{name}.md" for name in ("using", "night", "architecture", "replies")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LANGUAGES = {"sh", "python", "toml", "text", "mermaid"}
REASONS = {
    "needs a chain",
    "needs a GPU",
    "needs a network",
    "needs a bundle of yours",
    "starts the demo or the suite",
    "takes minutes",
    "serves until it is stopped",
    "needs Label Studio",
}
FILE_SUFFIXES = {"json", "jsonl", "plan", "toml", "csv", "onnx", "npz", "html", "safetensors", "py", "md", "env"}

Check = Callable[[list[str]], None]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why it is only parsed, empty if it is run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    lines = page.read_text().splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        marked = re.fullmatch(r"<!-- parse only: (.*) -->", lines[start - 1])
        text = "\n".join(lines[start + 1 : end]) + "\n"
        yield Block(page, start + 2, lines[start].removeprefix("```"), text, marked[1] if marked else "")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
# What is made from the code speaks of names inside of values, and is compared with the code as a whole.
WRITTEN = [page for page in PAGES if not page.read_text().startswith("<!-- Made by ")]
each_written_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)


def each_block(*languages: str, run: bool = False) -> pytest.MarkDecorator:
    """All blocks in some languages, or those of them that are run."""
    wanted = [block for block in BLOCKS if block.language in languages and not (run and block.reason)]
    return pytest.mark.parametrize("block", wanted, ids=str)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What stands between backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands_of(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").replace("2>&1", "").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if re.fullmatch(r"\d?>>?.*", token) or (not words and re.match(r"[A-Z_]+=", token)):
                # A redirection is no argument, nor is a variable before a command.
                continue
            if token[0] not in "&|;":
                words.append(token)
            elif words:
                yield words
                words = []


@cache
def program() -> Any:
    return typer.main.get_command(app)


def subcommand(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, and the rest of them."""
    command, rest = program(), list(words)
    while hasattr(command, "commands"):
        name = rest.pop(0) if rest else ""
        assert name in command.commands, f"cascade {' '.join(words)}: no such command"
        command = command.commands[name]
    return command, rest


def options_of(command: Any) -> set[str]:
    if hasattr(command, "commands"):
        return {option for part in command.commands.values() for option in options_of(part)}
    return {"--help", *(option for parameter in command.params for option in parameter.opts)}


def check_cascade(words: list[str]) -> None:
    """Names, options and values, as the program itself parses them, and every changed setting."""
    command, rest = subcommand(words)
    given = command.make_context(command.name, rest).params
    changes = parsed_changes(given.get("change"))
    if command.name == "retrain":
        load_config(given["preset"], None, changes)
    elif changes:
        load_settings(None, changes)


def check_make(words: list[str]) -> None:
    target, *variables = words
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), f"make {target}"
    for variable in variables:
        name, _, value = variable.partition("=")
        assert name == "ARGS"
        arguments = shlex.split(value)
        check_cascade(["demo", *arguments]) if target == "demo" else check_pytest(arguments)


def check_pytest(words: list[str]) -> None:
    markers = [marker.partition(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    for option, word in zip(["", *words], words, strict=False):
        if option == "-m":
            assert word in markers
        elif word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), word


def check_python(words: list[str]) -> None:
    option, *modules = words
    if option.endswith(".py"):
        return
    module, *arguments = modules
    assert option == "-m"
    assert find_spec(module) is not None, f"no module {module}"
    if module.startswith("benchmarks."):
        place = ROOT / module.replace(".", "/")
        text = (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
        assert all(f'"{word}"' in text for word in arguments if word.startswith("--")), arguments


def check_pip(words: list[str]) -> None:
    for option, word in zip(["", *words], words, strict=False):
        assert option != "-r" or (ROOT / word).exists(), word
        if extra := re.fullmatch(r"\.\[(.*)\]", word):
            assert extra[1] in PROJECT["project"]["optional-dependencies"], word


def check_curl(words: list[str]) -> None:
    path = words[-1].partition("/")[2]
    assert f'Route("/{path}"' in (ROOT / "miner/admin/api.py").read_text(), words[-1]


def check_docker(words: list[str]) -> None:
    """A call of compose names services of ours, and what runs in one is a command that there is."""
    compose, action, *rest = words
    assert compose == "compose"
    assert action in {"build", "run", "up"}
    services = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yaml").read_text())["services"]
    named = [place for place, word in enumerate(rest) if word in services]
    assert named or action == "up"
    if action == "run":
        check_cascade(rest[named[0] + 1 :])


def check_script(words: list[str], *, name: str) -> None:
    """A script says in its head which options it takes."""
    head = (ROOT / "scripts" / name).read_text().split("set -euo", maxsplit=1)[0]
    assert all(word in head for word in words if word.startswith("-"))


CHECKS: dict[str, Check] = {
    "cascade": check_cascade,
    "make": check_make,
    "pytest": check_pytest,
    "python": check_python,
    "python3": check_python,
    "pip": check_pip,
    "curl": check_curl,
    "docker": check_docker,
    "scripts/images": partial(check_script, name="images"),
    # Of any machine.
    **dict.fromkeys(
        (".", "cat", "cd", "cp", "echo", "export", "grep", "head", "kill", "mkdir", "printf"), lambda _words: None
    ),
    **dict.fromkeys(("apt-get", "git", "label-studio", "sed", "sleep"), lambda _words: None),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without settings, and an environment without any."""
    for name in [name for name in os.environ if name.startswith("CASCADE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def supposed(
    tmp_path_factory: pytest.TempPathFactory, write_onnx: Any, write_bundle_files: Any, provenance: Provenance
) -> tuple[Path, str]:
    """A directory as the pages suppose it, and the id of a bundle in it."""
    home = tmp_path_factory.mktemp("supposed")
    for _ in write_scenes(home / "roads", scenes=4, seed=0, difficulty=0.25):
        pass
    store, bundles = Store(home / "cascade-data/engines"), []
    for number in range(2):
        made = tmp_path_factory.mktemp("made")
        engine = write_onnx(made / "model.onnx", shift=float(number))
        files = write_bundle_files(made / "files", engine=engine, golden_shift=float(number))
        bundles.append(store.publish(files, provenance))
        store.activate(bundles[-1], now=datetime(2026, 1, 1, tzinfo=UTC))
    return home, bundles[0]


@pytest.fixture
def bundle(supposed: tuple[Path, str], elsewhere: Path) -> str:
    """The id of a bundle, in a working directory that is a copy of that one."""
    home, bundle = supposed
    shutil.copytree(home, elsewhere, dirs_exist_ok=True)
    return bundle


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a shell finds programs; `cascade` is this very one."""
    cascade = tmp_path_factory.mktemp("bin") / "cascade"
    cascade.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m miner.cli "$@"\n')
    cascade.chmod(0o755)
    return f"{cascade.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_of_a_kind_that_is_checked(block: Block) -> None:
    assert block.language in LANGUAGES
    assert block.reason in REASONS | {""}


@each_block("sh")
def test_commands_exist_and_take_their_options(block: Block) -> None:
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    found = list(commands_of(block.text))
    assert found
    for name, *words in found:
        CHECKS[name.removeprefix(".venv/bin/")](words)


@each_block("sh", run=True)
def test_commands_run(block: Block, bundle: str, path: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", re.sub(r"\bBUNDLE\b", bundle, block.text)],
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"


@each_block("python")
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@each_block("python", run=True)
@pytest.mark.usefixtures("bundle")
def test_python_runs(block: Block, elsewhere: Path) -> None:
    (elsewhere / "block.py").write_text(block.text)
    runpy.run_path("block.py")


@each_block("toml")
def test_settings_files_fit(block: Block, elsewhere: Path) -> None:
    tomllib.loads(block.text)
    if block.text.startswith("# cascade.toml\n"):
        (elsewhere / "cascade.toml").write_text(block.text)
        settings = load_settings()
        load_config(settings.retrain.preset, None, dotted(settings.night))
        assert settings.retrain.data is not None or not settings.night


@each_written_page
def test_commands_options_and_settings_in_the_text_exist(page: Path) -> None:
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    trees = [json.loads(tree.model_dump_json()) for tree in (load_settings(), PRESETS["standard"])]
    for span in spans(page):
        first, *rest = span.split()
        if first == "cascade" and rest and "COMMAND" not in rest:
            command = program() if rest == ["engines"] else subcommand(rest)[0]
            assert {word for word in rest if word.startswith("-")} <= options_of(command), span
        elif re.fullmatch(r"--[a-z-]+", first):
            known = options_of(program()) | FLAGS.keys()
            assert first in known or f'"{first}"' in benchmarks, span
        elif re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+(=.*)?", first):
            path = first.partition("=")[0].split(".")
            if not FILE_SUFFIXES & set(path) and any(path[0] in tree for tree in trees):
                assert any(is_in(tree, path) for tree in trees), f"no setting {first}"


def is_in(tree: Any, path: list[str]) -> bool:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", prose(page)):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_written_page
def test_files_modules_and_functions_in_the_text_exist(page: Path) -> None:
    for path in re.findall(rf"(?<![\w/.])((?:{NAMED})/[\w./]*)", page.read_text()):
        assert "NAME" in path or (ROOT / path).exists(), path
    for span in spans(page):
        if found := re.fullmatch(rf"((?:{NAMED})(?:\.\w+)*):([\w.]+)", span):
            assert defines(ROOT / f"{found[1].replace('.', '/')}.py", found[2]), span
        elif re.fullmatch(rf"(?:{NAMED})(?:\.\w+)+", span) and span.rpartition(".")[2] not in FILE_SUFFIXES:
            place = ROOT / span.replace(".", "/")
            there = place.is_dir() or place.with_suffix(".py").is_file()
            assert there or defines(place.parent.with_suffix(".py"), place.name), span


def defines(module: Path, name: str) -> bool:
    """Whether a module has such a function, class or method."""
    body: list[ast.stmt] = ast.parse(module.read_text()).body if module.is_file() else []
    for part in name.split("."):
        found = [node for node in body if getattr(node, "name", None) == part]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def tables_of(page: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Heading and rows of every table of a page, the head of the table first."""
    heading, rows = "", list[list[str]]()
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            yield heading, [row for row in rows if not row[0].startswith("---")]
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def test_the_tables_of_stages_and_statuses_are_those_of_the_code() -> None:
    tables = {heading: rows[1:] for page in (NIGHT, USING) for heading, rows in tables_of(page)}
    assert [row[0].strip("`") for row in tables["A run"]] == list(STAGE_NAMES)
    raised = (CascadeError, SettingsError, WalletError, StartError, TrainingInterrupted)
    assert {int(row[0]) for row in tables["Exit statuses"]} == {0, INTERRUPTED, *(kind.exit_status for kind in raised)}


def test_the_table_of_replies_is_that_of_the_code() -> None:
    """Every status with every reason under which it is counted."""
    [rows] = [rows[1:] for heading, rows in tables_of(REPLIES) if heading == "Requests without an answer"]
    refused = {(kind.status, kind.kind) for kind in kinds_of(Refusal) if kind is not Unauthenticated}
    # The reasons of one status are given where it is raised.
    refused |= {(Unauthenticated.status, Unauthenticated("").kind)}
    modules = ("proofs", "nonces", "wires/legacy_protocol", "wires/btauth_protocol")
    refused |= {(Unauthenticated.status, reason) for reason in constants_of("Unauthenticated", *modules)}
    refused |= {(Unauthenticated.status, STALE_CLAIM)}
    unread = {(why.status.value, why.kind) for why in vars(http_connection).values() if isinstance(why, Unread)}
    assert len(unread) == 5
    refused |= unread | {(503, "connections")}
    assert {(int(row[0]), row[1].strip("`")) for row in rows} == refused
    assert {*constants_of("add", "http_connection", place=0)} == {"connections", "evicted"}


def kinds_of(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    """All kinds of a refusal, those of kinds among them."""
    for each in kind.__subclasses__():
        yield each
        yield from kinds_of(each)


def constants_of(function: str, *modules: str, place: int = -1) -> Iterator[str]:
    """The words that calls of a function have as one of their arguments, in modules of the axon."""
    for module in modules:
        for node in ast.walk(ast.parse((ROOT / "miner" / "axon" / f"{module}.py").read_text())):
            if isinstance(node, ast.Call) and len(node.args) > 1:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                word = node.args[place]
                if name == function and isinstance(word, ast.Constant):
                    yield str(word.value)


def test_the_tree_of_rooms_is_that_of_the_code() -> None:
    (tree,) = [block.text for block in blocks_of(ARCHITECTURE) if "  baselines/" in block.text]
    written, path = set(), list[str]()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = [*path[:depth], line.split("/")[0].strip()]
        written.add("/".join(path))
    modules = [module for package in PACKAGES for module in (ROOT / package).rglob("*.py")]
    assert written == {module.parent.relative_to(ROOT).as_posix() for module in modules}
