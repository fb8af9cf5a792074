"""What all settings share: one base class, one way to change a value by its dotted name, one text for what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from stage1.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)


def expanded(path: Path | str) -> Path:
    """A path with `~` and `~name` at its beginning replaced by the home directory.

    Raises:
        ValueError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: no home directory is known for it; write the whole path") from error


# A path that a person gives, in a file, a variable or an option.
UserPath = Annotated[Path, AfterValidator(expanded)]


class Section(BaseModel):
    """A part of a tree of settings: it cannot be changed once made, and an unknown name or an infinity is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_crossing(paths: Iterable[str]) -> None:
    """Refuse dotted paths of which one is a part of another, because then their order would decide.

    Raises:
        SettingsError: two are; names them.
    """
    given = sorted(paths)
    for whole in given:
        for part in given:
            if part.startswith(f"{whole}."):
                raise SettingsError(
                    f"{whole} and {part} are both given, and one is a part of the other: give one of them"
                )


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of plain values with some of them replaced or added.

    Args:
        tree: nested dictionaries; not changed.
        changes: new values by dotted path, for example `{"train_supervised.epochs": 5}`.

    Raises:
        SettingsError: a path leads through something that has no parts, or is a part of another one.
    """
    check_crossing(changes)
    found = deepcopy(dict(tree))
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise SettingsError(f"{path}: {parent!r} is a single value and has no parts")
        node[leaf] = value
    return found


def dotted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree as values by dotted path; a name that has a dot in it already is a path, and its value is taken whole.

    Args:
        tree: nested dictionaries, as a TOML table is: `{"gate": {"keep": 3}, "model.backbone": {"kind": "random"}}`.

    Raises:
        SettingsError: a value is given in two ways.
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        parts = {name: value}
        if isinstance(value, Mapping) and value and "." not in name:
            parts = {f"{name}.{path}": leaf for path, leaf in dotted(value).items()}
        twice = sorted(found.keys() & parts)
        if twice:
            raise SettingsError(f"{twice[0]} is given twice: give it once")
        found |= parts
    check_crossing(found)
    return found


def override(settings: Model, changes: Mapping[str, Any]) -> Model:
    """Settings with some values replaced.

    Args:
        settings: where to start.
        changes: new values by dotted path.

    Raises:
        SettingsError: a path or a value does not exist or does not fit; names each.
    """
    try:
        return type(settings).model_validate(merged(settings.model_dump(), changes))
    except ValidationError as error:
        raise SettingsError(problems(error)) from error


def problems(error: ValidationError) -> str:
    """Everything that a model has against its values, each with its dotted name, in one line."""
    return "; ".join(f"{_name(problem['loc'])}: {problem['msg']}" for problem in error.errors(include_url=False))


def first_problem(error: ValidationError, *, otherwise: str) -> str:
    """The first thing that a model has against its values, with its dotted name.

    Args:
        error: of the model.
        otherwise: what to call the whole.
    """
    problem = error.errors(include_url=False)[0]
    return f"{_name(problem['loc']) or otherwise}: {problem['msg']}"


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
