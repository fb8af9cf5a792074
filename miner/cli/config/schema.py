"""The JSON schema of a `cascade.toml`, for editors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from miner.cli.config.descriptions import descriptions

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def settings_schema(settings: type[BaseModel], night: type[BaseModel]) -> dict[str, Any]:
    """The schema of a settings file; nothing in it is required, because everything has a default.

    Args:
        settings: of the miner.
        night: of the nightly run, whose table `night` holds changes to its config.
    """
    whole = _described(settings)
    run = _described(night)
    # Two sections of one name differ: those of the night get a name of their own.
    definitions = {f"night-{name}": part for name, part in run.pop("$defs", {}).items()}
    renamed = _renamed({**run, "$defs": definitions}, "#/$defs/", "#/$defs/night-")
    whole.setdefault("$defs", {}).update(renamed.pop("$defs"))
    # A dotted name, as in `"train_supervised.epochs" = 20`, is taken there as well.
    renamed |= {"additionalProperties": True, "default": {}, "description": whole["properties"]["night"]["description"]}
    whole["properties"]["night"] = renamed
    _drop_required(whole)
    return {"$schema": DIALECT, "title": "Settings of cascade mine", **whole}


def _described(model: type[BaseModel]) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema()
    classes = _classes(model)
    schema.pop("description", None)
    _describe(schema, descriptions(model))
    for name, part in schema.get("$defs", {}).items():
        if name in classes:
            _describe(part, descriptions(classes[name]))
    for part in schema.get("properties", {}).values():
        # What has no text of its own is a section, which has.
        section = schema.get("$defs", {}).get(part.get("$ref", "").removeprefix("#/$defs/"), {})
        if "description" not in part and "description" in section:
            part["description"] = section["description"]
    return schema


def _describe(schema: dict[str, Any], texts: dict[str, str]) -> None:
    if "properties" in schema and "description" in schema:
        # The first paragraph; the attributes are told one by one.
        schema["description"] = schema["description"].partition("\n\n")[0].replace("\n", " ")
    for name, part in schema.get("properties", {}).items():
        if name in texts:
            part["description"] = texts[name]


def _classes(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Classes of all sections that a model is made of, by name."""
    found: dict[str, type[BaseModel]] = {}
    todo: list[Any] = [field.annotation for field in model.model_fields.values()]
    while todo:
        part = todo.pop()
        if isinstance(part, type) and issubclass(part, BaseModel):
            if part.__name__ not in found:
                found[part.__name__] = part
                todo += [field.annotation for field in part.model_fields.values()]
        else:
            todo += getattr(part, "__args__", ())
    return found


def _renamed(node: Any, old: str, new: str) -> Any:  # noqa: ANN401  JSON
    if isinstance(node, dict):
        return {
            key: value.replace(old, new, 1) if key == "$ref" else _renamed(value, old, new)
            for key, value in node.items()
        }
    return [_renamed(part, old, new) for part in node] if isinstance(node, list) else node


def _drop_required(node: Any) -> None:  # noqa: ANN401  JSON
    if isinstance(node, dict):
        # A property may have that name.
        if isinstance(node.get("required"), list) and "properties" in node:
            kinds = node["properties"].keys()
            # What tells one kind of server from another stays.
            node["required"] = [name for name in node["required"] if name == "kind" and name in kinds]
            if not node["required"]:
                del node["required"]
        for part in node.values():
            _drop_required(part)
    elif isinstance(node, list):
        for part in node:
            _drop_required(part)
