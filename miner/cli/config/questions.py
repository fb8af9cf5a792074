"""What `cascade init` asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from stage1.errors import SettingsError
from stage1.settings import expanded, first_problem

NONE = "none"
PORT, ADMIN_PORT, LAST_PORT = 8091, 8092, 65535
NETUIDS = {"finney": 72, "test": 323}
Ask = Callable[[str, str], str]


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: dotted name of the setting that the answer is for.
        text: what is asked.
        default: what an empty answer means; `none` where the setting may stay as it is.
        hint: told before it is asked.
    """

    name: str
    text: str
    default: str
    hint: str = ""


def questions(found: Mapping[str, list[str]]) -> list[Question]:
    """All questions, in their order.

    Args:
        found: hotkeys of each wallet on this machine.
    """
    wallet = next(iter(found)) if len(found) == 1 else "default"
    listed = ", ".join(f"{name} ({', '.join(keys)})" for name, keys in found.items())
    hotkeys = found.get(wallet, [])
    return [
        Question(
            "wallet.name",
            "Wallet",
            wallet,
            f"Wallets here: {listed}."
            if listed
            else "There is no wallet here yet: `btcli wallet new-hotkey` makes one.",
        ),
        Question(
            "wallet.hotkey",
            "Hotkey, or several with commas between them",
            hotkeys[0] if len(hotkeys) == 1 else "default",
        ),
        Question("chain.network", "Network: finney, test, or a WebSocket URL", "finney"),
        Question(
            "chain.external_ip",
            "Address that validators reach, auto, or none",
            "auto",
            "With auto, services on the internet are asked for it. With none, it must be on the chain already.",
        ),
        Question("axon.port", "Port of the axon, open to the internet", str(PORT)),
        # The default of it depends on what is answered before.
        Question("admin.port", "Port for status and metrics, on 127.0.0.1 alone, or none", str(ADMIN_PORT)),
        Question("stage2.engine", "Directory of an engine for Stage-2, or none", NONE),
        Question("retrain.data", "Directory with labels.csv to train on every night, or none", NONE),
    ]


def answers(asked: list[Question], ask: Ask, given: Mapping[str, str], settings: type[BaseModel]) -> dict[str, Any]:
    """Plain values by dotted name.

    Args:
        asked: the questions.
        ask: puts one, with its default, to a person, and returns the answer.
        given: answers by dotted name that need not be asked.
        settings: their class, which says what fits.

    Raises:
        SettingsError: one that was given does not fit.
    """
    values: dict[str, Any] = {}
    for question in asked:
        if question.name in given:
            values |= dict(_meant(question.name, given[question.name].strip(), settings))
        else:
            default = _free_port(values) if question.name == "admin.port" else question.default
            values |= _answered(replace(question, default=default), ask, settings)
    return values


def _free_port(values: Mapping[str, Any]) -> str:
    """The usual one, or the first after those of the axons, of which each hotkey has one."""
    first = values.get("axon.port", PORT)
    after = first + len(values.get("hotkeys", ["one"]))
    free = after if first <= ADMIN_PORT < after else ADMIN_PORT
    return str(free) if free <= LAST_PORT else NONE


def _answered(question: Question, ask: Ask, settings: type[BaseModel]) -> dict[str, Any]:
    """Asked until the answer fits, each time with what was wrong in front of it."""
    hint = question.hint
    while True:
        answer = ask(f"{hint}\n{question.text}".strip(), question.default)
        try:
            return dict(_meant(question.name, answer.strip(), settings))
        except SettingsError as error:
            hint = f"{error}."


def _meant(name: str, answer: str, settings: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """What an answer says, as settings."""
    if answer.lower() == NONE:
        if name == "chain.external_ip":
            yield "chain.publish_endpoint", False
        elif name in {"wallet.name", "wallet.hotkey", "chain.network", "axon.port"}:
            raise SettingsError(f"{name}: one is needed")
        return
    if name == "wallet.hotkey" and "," in answer:
        keys = [key.strip() for key in answer.split(",") if key.strip()]
        if not keys:
            raise SettingsError(f"{name}: one is needed")
        if len(set(keys)) < len(keys):
            raise SettingsError(f"{name}: a hotkey is given twice; give each once")
        yield "hotkeys", _fitting("hotkeys", keys, settings)
        return
    if name == "retrain.data" and not (expanded_path(answer) / "labels.csv").is_file():
        raise SettingsError(f"{name}: there is no labels.csv in {answer}")
    yield name, _fitting(name, int(answer) if answer.isdecimal() and name.endswith(".port") else answer, settings)
    if name == "chain.network" and answer in NETUIDS:
        yield "chain.netuid", NETUIDS[answer]
    if name == "retrain.data":
        yield "retrain.enabled", True


def expanded_path(text: str) -> Path:
    """A path that a person wrote.

    Raises:
        SettingsError: it names a user that is not there.
    """
    try:
        return expanded(text)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _fitting(name: str, value: object, settings: type[BaseModel]) -> object:
    """The value itself, if the setting takes it."""
    parent, _, leaf = name.rpartition(".")
    section: Any = settings.model_fields[parent].annotation if parent else settings
    field = section.model_fields[leaf]
    try:
        # A bare type has no list of what else must hold.
        fitting: Any = Annotated[field.annotation, field]
        TypeAdapter(fitting).validate_python(value)
    except ValidationError as error:
        raise SettingsError(f"{name}: {first_problem(error, otherwise=name).partition(': ')[2]}") from error
    return value


def wallets_here(directory: Path) -> dict[str, list[str]]:
    """Hotkeys of each wallet in a directory, by name; none where it cannot be read."""
    try:
        return {
            wallet.name: sorted(key.name for key in (wallet / "hotkeys").iterdir() if key.is_file())
            for wallet in sorted(directory.iterdir())
            if (wallet / "hotkeys").is_dir()
        }
    except OSError:
        return {}
