"""A config that holds only some of its fields: whoever reads another one fails, and does not get a default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from offline.errors import PipelineError
from stage1.settings import override

ALL = "*"
ModelT = TypeVar("ModelT", bound=BaseModel)


def narrowed(settings: ModelT, paths: Iterable[str]) -> ModelT:
    """The same settings with only these fields.

    Args:
        settings: a tree of models.
        paths: dotted paths of fields or of whole sections; `*` for everything.

    Returns:
        Of the same class. A field that is not there raises AttributeError, and is in no dump.

    Raises:
        PipelineError: there is no such field.
    """
    wanted: dict[str, list[str]] = {}
    for path in paths:
        if path == ALL:
            return settings
        name, _, inside = path.partition(".")
        wanted.setdefault(name, []).append(inside)
    values: dict[str, Any] = {}
    for name in type(settings).model_fields:
        if name not in wanted:
            continue
        parts = wanted.pop(name)
        value = getattr(settings, name)
        whole = "" in parts or not isinstance(value, BaseModel)
        values[name] = value if whole else narrowed(value, parts)
    if wanted:
        raise PipelineError(f"{type(settings).__name__} has no field {next(iter(wanted))!r}")
    return only(type(settings), values)


def only(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    """An instance with these values and no others, which are not checked; who reads another one gets an AttributeError.

    Args:
        model: its class.
        values: by the name of the field.
    """
    found = model.model_construct()
    # It may be frozen, and `model_construct` fills in defaults.
    object.__setattr__(found, "__dict__", dict(values))
    return found


def paths_in(settings: BaseModel) -> Iterator[str]:
    """Dotted paths of what a view holds, as `narrowed` takes them."""
    for name in settings.__dict__:
        value = settings.__dict__[name]
        if isinstance(value, BaseModel) and value.__dict__.keys() != type(value).model_fields.keys():
            yield from (f"{name}.{inside}" for inside in paths_in(value))
        else:
            yield name


def overridden(view: ModelT, changes: Mapping[str, Any]) -> ModelT:
    """A view with some values replaced, which holds these and what it held.

    Args:
        view: what `narrowed` returns.
        changes: new values by dotted path.

    Raises:
        SettingsError: a path or a value does not exist or does not fit.
        PipelineError: a changed field is part of what the view does not hold as a section.
    """
    # What the view lacks is a default here, and is taken away again.
    return narrowed(override(view, changes), [*paths_in(view), *changes])


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a dumped config by their dotted paths; an empty mapping is a value."""
    for name, value in tree.items():
        path = f"{before}{name}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value
