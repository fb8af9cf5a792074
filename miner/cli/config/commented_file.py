"""A `cascade.toml` for a person: the settings that most miners change, each with what it means."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from miner.cli.config.descriptions import descriptions
from miner.simulation.settings_file import toml_value

WIDTH = 100
HEAD = """\
# Settings of this miner. What is not here is as by default: `cascade config show --origin` prints all of it.
# After a change, `cascade doctor` checks it and SIGHUP has a running miner read it again.
"""
# In the order of the file; those of the top level come first, as TOML wants it.
SHOWN = (
    "store",
    "state",
    "hotkeys",
    "wallet.name",
    "wallet.hotkey",
    "wallet.path",
    "chain.network",
    "chain.netuid",
    "chain.publish_endpoint",
    "chain.external_ip",
    "chain.external_port",
    "axon.port",
    "admin.port",
    "stage2.engine",
    "stage2.servers",
    "retrain.enabled",
    "retrain.cron",
    "retrain.data",
    "retrain.preset",
)


def commented_file(settings: type[BaseModel], given: Mapping[str, object]) -> str:
    """The text of the file.

    Args:
        settings: the class of the settings.
        given: plain values by dotted name; the others of the file stand there as comments, with their defaults.

    Raises:
        KeyError: a name is no setting that such a file shows.
    """
    if unknown := given.keys() - set(SHOWN):
        raise KeyError(", ".join(sorted(unknown)))
    return HEAD + "\n".join(_lines(settings, given)) + "\n"


def _lines(settings: type[BaseModel], given: Mapping[str, object]) -> Iterator[str]:
    section = ""
    for name in SHOWN:
        parent, _, leaf = name.rpartition(".")
        if parent != section:
            section = parent
            yield f"\n[{section}]"
        model = _section(settings, parent)
        yield ""
        text = descriptions(model).get(leaf, "")
        yield from textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
        if name in given:
            yield f"{leaf} = {toml_value(given[name])}"
        else:
            default = model().model_dump(mode="json")[leaf]
            # Without a value there is no line that could be taken as it is.
            yield f"# {leaf} is not set" if default is None else f"# {leaf} = {toml_value(default)}"


def _section(settings: type[BaseModel], name: str) -> type[BaseModel]:
    if not name:
        return settings
    part = settings.model_fields[name].annotation
    if not (isinstance(part, type) and issubclass(part, BaseModel)):
        raise KeyError(name)
    return part
