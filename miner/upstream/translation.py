"""From what the reference miner was told to our settings, and what a person should know of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from miner.chain.settings import AUTO
from miner.upstream.flag_table import TABLE, VARIABLES, Row, is_on
from stage1.errors import SettingsError

ADDRESS, NETWORK, ENDPOINT = "chain.external_ip", "chain.network", "chain.endpoint"

_VARIABLE = re.compile(r"\$[A-Za-z_]")


@dataclass(frozen=True)
class Sources:
    """Everything that was said to the reference miner. Each later one wins over those before it, as it did there.

    Attributes:
        environment: variables of the process; only those of bittensor count.
        env_file: variables of `miner.env`; None where there is none.
        config: values by flag from a `--config` file of bittensor.
        flags: values by flag from the command line.
        empty: flags of the command line whose value is empty.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    env_file: Mapping[str, str] | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    empty: Collection[str] = ()

    @property
    def moved(self) -> bool:
        """Somebody starts this miner as they started the reference miner."""
        return bool(self.env_file is not None or self.config or self.flags or self.empty)


@dataclass(frozen=True)
class Taken:
    """A value for one of our settings.

    Attributes:
        value: as our setting has it.
        origin: flag or variable that it comes from.
    """

    value: object
    origin: str


@dataclass(frozen=True)
class Remark:
    """What a person should know of one flag or variable.

    Attributes:
        name: the flag or variable.
        consequence: what becomes of it, in one line.
    """

    name: str
    consequence: str


@dataclass(frozen=True)
class Translation:
    """Our settings, and what to tell.

    Attributes:
        settings: by dotted name.
        remarks: one for each flag or variable that does not do what its name says.
    """

    settings: dict[str, Taken]
    remarks: tuple[Remark, ...]


def translate(sources: Sources) -> Translation:
    """Our settings for what the reference miner was told.

    Args:
        sources: what it was told.

    Raises:
        SettingsError: a value does not fit; names the flag or variable.
    """
    settings: dict[str, Taken] = {}
    remarks: dict[str, Remark] = {}
    for said in _layers(sources):
        remarks |= _without_weaker_endpoint(settings, said)
        # In the order of the table, where of several levels of logging the lowest comes last.
        for row in TABLE:
            if (found := _said(row, said)) is None:
                continue
            origin, text = found
            if row.setting is None:
                if row.flag != "--config" and not (row.switch and is_on(text) is False):
                    remarks[row.name] = Remark(origin, f"has no effect: {row.why}")
                continue
            if row.despite_false and is_on(text) is False:
                remarks[row.name] = Remark(origin, row.despite_false)
            elif row.despite_false:
                remarks.pop(row.name, None)
            if (value := _converted(row, origin, text)) is not None:
                settings[row.setting] = Taken(value, origin)
    if sources.moved and ADDRESS not in settings:
        settings[ADDRESS] = Taken(AUTO, "as the reference miner did")
    env_file = sources.env_file or {}
    told = (*remarks.values(), *_empty(sources, settings), *_unknown(env_file), *_unreplaced(env_file))
    return Translation(settings, told)


def overruled(translation: Translation, effective: Mapping[str, object]) -> tuple[Remark, ...]:
    """Remarks on values that our own settings win over.

    Args:
        translation: what was taken over.
        effective: values of our settings in the end, by dotted name.
    """
    return tuple(
        Remark(taken.origin, f"is passed over: {name} is {effective[name]} by a setting of this miner")
        for name, taken in translation.settings.items()
        if name in effective and effective[name] != taken.value and taken.value != AUTO
    )


def _layers(sources: Sources) -> Iterator[Mapping[str, str]]:
    """What was said, weakest first: the SDK's variables, its file, the variables that become flags, the flags."""
    env_file = sources.env_file or {}
    yield {name: text for name, text in sources.environment.items() if name.startswith("BT_")}
    # The shell exports it, over what was there.
    yield {name: text for name, text in env_file.items() if name.startswith("BT_")}
    yield sources.config
    yield {name: text for name, text in env_file.items() if not name.startswith("BT_")}
    yield sources.flags


def _said(row: Row, said: Mapping[str, str]) -> tuple[str, str] | None:
    for name in (row.flag, *row.variables):
        if name and (text := said.get(name, "").strip()):
            return name, text
    return None


def _without_weaker_endpoint(settings: dict[str, Taken], said: Mapping[str, str]) -> dict[str, Remark]:
    """Take out the endpoint of what is weaker where a network is named: it would be used instead."""
    networks = [found[0] for row in TABLE if row.setting == NETWORK and (found := _said(row, said))]
    if not networks or (weaker := settings.pop(ENDPOINT, None)) is None:
        return {}
    return {ENDPOINT: Remark(weaker.origin, f"is passed over: {networks[0]} names a network and wins")}


def _converted(row: Row, origin: str, text: str) -> object:
    try:
        return row.convert(text)
    except SettingsError as error:
        raise SettingsError(f"{origin}: {error}") from error


def _empty(sources: Sources, settings: Mapping[str, Taken]) -> Iterator[Remark]:
    """Of those that name a wallet or a place on the chain: a person may believe that they say something."""
    variables = {name for name, text in (sources.env_file or {}).items() if not text.strip()}
    for row in TABLE:
        if row.setting is not None and row.setting not in settings:
            for name in (row.flag, *row.variables):
                if name in sources.empty or name in variables:
                    yield Remark(name, f"is empty and counts as not given: {row.setting} is what this miner has for it")


def _unknown(env_file: Mapping[str, str]) -> Iterator[Remark]:
    for name in env_file:
        if name not in VARIABLES and not name.startswith("CASCADE_"):
            near = get_close_matches(name, VARIABLES, n=1)
            meant = f", perhaps {near[0]} is meant" if near else ""
            yield Remark(name, f"is no variable of the reference miner{meant}: it has no effect")


def _unreplaced(env_file: Mapping[str, str]) -> Iterator[Remark]:
    for name, text in env_file.items():
        if _VARIABLE.search(text):
            yield Remark(name, "has a `$` that stays as it is, where a shell may put a variable: write it as ${NAME}")
