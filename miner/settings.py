"""Settings of the live miner: one object, from flags, environment, `cascade.toml` and defaults, in this order."""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableVariable

from miner.admin.settings import AdminSettings
from miner.alerts.settings import AlertSettings
from miner.answering.settings import EngineSettings
from miner.axon.settings import AccessSettings, AxonSettings, RequestSettings, WireSettings
from miner.chain.settings import ChainSettings, HotkeyEntry, WalletSettings
from miner.harvest.settings import HarvestSettings
from miner.live_risk.settings import LiveRiskSettings
from miner.logs import LogSettings
from miner.nights.settings import RetrainSettings
from miner.update.settings import UpdateSettings
from stage1.errors import SettingsError
from stage1.settings import UserPath, expanded, merged, problems
from stage2_bridge.settings import Stage2Settings

DEFAULT_FILE = Path("cascade.toml")
PREFIX = "CASCADE_"
FILE_VARIABLE = "CASCADE_CONFIG"
LAST_PORT = 65535

# What files say, the strongest first, for the class below, which pydantic asks for its sources without an argument.
_trees: ContextVar[tuple[dict[str, Any], ...]] = ContextVar("settings_trees", default=())


@dataclass(frozen=True)
class ServedHotkey:
    """One hotkey that this miner answers for.

    Attributes:
        wallet: its key.
        axon: where its axon listens.
        external_port: port that validators reach, None for the axon's own.
    """

    wallet: WalletSettings
    axon: AxonSettings
    external_port: int | None


class MinerSettings(BaseSettings):
    """All settings of `cascade mine`.

    Attributes:
        store: directory of bundles.
        state: directory of the journal and of everything else that must survive a restart.
        wallet: the miner's key.
        hotkeys: several hotkeys instead of the wallet's one, each at a port of its own: names, or tables.
        chain: where the metagraph comes from.
        axon: where the axon listens.
        requests: limits and deadlines of requests.
        access: who may ask.
        wire: which requests count as fresh.
        engine: Stage-1 in this process.
        stage2: where deferred images go.
        live_risk: the watch on the live certificate.
        harvest: images that are kept for labelling.
        retrain: the nightly job.
        night: values of its config that are other than the preset's: `[night.train_supervised]`, `epochs = 20`.
        admin: the administrator's endpoint.
        alerts: who is told from afar that the miner needs a person.
        update: where newer releases are published.
        log: logs.

    Environment variables begin with `CASCADE_`, two underscores lead into a section: `CASCADE_AXON__PORT=8091`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
    )

    store: UserPath = Path("cascade-data/engines")
    state: UserPath = Path("cascade-data/state")
    wallet: WalletSettings = WalletSettings()
    hotkeys: tuple[HotkeyEntry, ...] = ()
    chain: ChainSettings = ChainSettings()
    axon: AxonSettings = AxonSettings()
    requests: RequestSettings = RequestSettings()
    access: AccessSettings = AccessSettings()
    wire: WireSettings = WireSettings()
    engine: EngineSettings = EngineSettings()
    stage2: Stage2Settings = Stage2Settings()
    live_risk: LiveRiskSettings = LiveRiskSettings()
    harvest: HarvestSettings = HarvestSettings()
    retrain: RetrainSettings = RetrainSettings()
    night: dict[str, Any] = Field(default_factory=dict)
    admin: AdminSettings = AdminSettings()
    alerts: AlertSettings = AlertSettings()
    update: UpdateSettings = UpdateSettings()
    log: LogSettings = LogSettings()

    @property
    def served(self) -> tuple[ServedHotkey, ...]:
        """The hotkeys that this miner answers for, at least one; they share everything but key and port."""
        if not self.hotkeys:
            return (ServedHotkey(self.wallet, self.axon, self.chain.external_port),)
        return tuple(
            ServedHotkey(
                self.wallet.model_copy(update={"name": one.wallet or self.wallet.name, "hotkey": one.hotkey}),
                self.axon.model_copy(update={"port": self._port(place) if one.port is None else one.port}),
                one.external_port,
            )
            for place, one in enumerate(self.hotkeys)
        )

    def _port(self, place: int) -> int:
        # Port 0 takes a free one each time.
        return self.axon.port + place if self.axon.port else 0

    def with_sections(self, sections: Mapping[str, object]) -> Self:
        """A copy with other sections.

        Args:
            sections: values of fields, each valid by itself.

        Raises:
            SettingsError: they do not fit the rest.
        """
        changed = self.model_copy(update=sections)
        try:
            changed.check_sections()
        except ValueError as error:
            raise SettingsError(str(error)) from error
        return changed

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        self.check_sections()
        return self

    def check_sections(self) -> None:
        """Make sure that the sections fit each other.

        Raises:
            ValueError: they do not.
        """
        if self.hotkeys:
            self._check_hotkeys()
        self._check_second_server()
        self._check_stage1_servers()
        if self.admin.port and self.admin.port in [one.axon.port for one in self.served]:
            raise ValueError(f"admin.port is {self.admin.port}, and so is the port of an axon: give each its own")
        if self.stage2.all_servers and self.stage2.reserve_s >= self.requests.deadline_s:
            raise ValueError(
                f"stage2.reserve_s is {self.stage2.reserve_s:g} and requests.deadline_s is "
                f"{self.requests.deadline_s:g}: no time is left for Stage-2"
            )

    def _check_stage1_servers(self) -> None:
        if self.engine.longest_s >= self.requests.deadline_s:
            raise ValueError(
                f"engine.servers.timeout_s is {self.engine.servers.timeout_s:g}, and a second server may be asked: two "
                f"times that does not fit into requests.deadline_s, which is {self.requests.deadline_s:g}"
            )

    def _check_second_server(self) -> None:
        second, names = self.live_risk.second_server, [one.name for one in self.stage2.all_servers]
        if second is not None and second not in names:
            raise ValueError(
                f"live_risk.second_server is {second!r}, and stage2.servers has {', '.join(names) or 'none'}: name one"
            )

    def _check_hotkeys(self) -> None:
        if self.wallet.hotkey != WalletSettings().hotkey:
            raise ValueError("wallet.hotkey names one hotkey and hotkeys names several: give one of them")
        if self.chain.external_port is not None:
            raise ValueError("chain.external_port is for one hotkey: set external_port for each of hotkeys")
        names = [f"{one.wallet.name}/{one.wallet.hotkey}" for one in self.served]
        ports = [one.axon.port for one in self.served if one.axon.port]
        reached = [one.external_port or one.axon.port for one in self.served if one.external_port or one.axon.port]
        given = {"hotkey": names, "port": list(map(str, ports)), "external port": list(map(str, reached))}
        for what, values in given.items():
            if twice := next((one for one in values if values.count(one) > 1), None):
                raise ValueError(f"hotkeys: the {what} {twice} is given twice; each needs its own")
        if ports and max(ports) > LAST_PORT:
            raise ValueError(f"hotkeys: port {max(ports)} is above {LAST_PORT}; set a lower axon.port")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file, then what the reference miner was told."""
        files = (InitSettingsSource(settings_cls, tree) for tree in _trees.get())
        return (init_settings, env_settings, *files)


def load_settings(
    file: Path | None = None, changes: dict[str, Any] | None = None, defaults: dict[str, Any] | None = None
) -> MinerSettings:
    """Read the settings.

    Args:
        file: a TOML file; None for `$CASCADE_CONFIG`, or `cascade.toml` here if there is one.
        changes: values that win over everything, by dotted path: `{"axon.port": 8092}`.
        defaults: values that win over nothing but the defaults, by dotted path.

    Raises:
        SettingsError: the file is missing or not TOML, or a value or a variable of the environment is unknown or does
            not fit; names it.
    """
    check_variables(os.environ)
    path = settings_file(file)
    trees = () if path is None else (read_settings_file(path),)
    token = _trees.set((*trees, merged({}, defaults or {})))
    try:
        return MinerSettings(**merged({}, changes or {}))
    except UnreadableVariable as error:
        raise SettingsError(_unreadable(error)) from error
    except ValidationError as error:
        raise SettingsError(f"settings ({path or 'no file'}): {problems(error)}") from error
    finally:
        _trees.reset(token)


SERVICE_VARIABLE = re.compile(r"(_SERVICE_(HOST|PORT(_\w+)?)|^CASCADE_PORT|_PORT_[0-9]+_(TCP|UDP)(_[A-Z]+)?)$")


def check_variables(names: Iterable[str]) -> None:
    """Refuse variables of the environment that begin as ours do and name no setting.

    Args:
        names: of all variables.

    Raises:
        SettingsError: there are some; says what each may mean.
    """
    fields = MinerSettings.model_fields
    told = []
    ours = (name for name in names if name.upper().startswith(PREFIX) and name.upper() != FILE_VARIABLE)
    # Of a Kubernetes service that is called cascade; nobody can unset them from inside a pod.
    for name in sorted(name for name in ours if not SERVICE_VARIABLE.search(name.upper())):
        first, *_ = name[len(PREFIX) :].lower().split("__")
        if first not in fields:
            # CASCADE_AXON_PORT has one underscore too few.
            near = [field for field in fields if first.startswith(f"{field}_")]
            meant = near or get_close_matches(first, fields, n=1)
            rest = name[len(PREFIX) + len(first) :] if not near else f"__{first[len(near[0]) + 1 :].upper()}"
            guess = f", perhaps {PREFIX}{meant[0].upper()}{rest} is meant" if meant else ""
            told.append(f"the variable {name} names no setting{guess}: rename it or unset it")
    if told:
        raise SettingsError("; ".join(told))


def _unreadable(error: UnreadableVariable) -> str:
    found = re.search(r'field "(\w+)"', str(error))
    begins = f"{PREFIX}{found[1].upper() if found else ''}"
    names = ", ".join(sorted(name for name in os.environ if name.upper().startswith(begins))) or begins
    return (
        f"the environment: the value of {names} is not valid JSON ({error.__cause__ or error}); write a section as "
        f"""CASCADE_AXON='{{"port": 8091}}', or one value as CASCADE_AXON__PORT=8091"""
    )


def read_settings_file(path: Path) -> dict[str, Any]:
    """What a settings file says, as a tree.

    Raises:
        SettingsError: it cannot be read, or is not TOML in UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SettingsError(f"{path}: is UTF-16, and TOML is UTF-8: save it as UTF-8")
    try:
        # With or without the mark that editors on Windows put first.
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SettingsError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; the file may be Latin-1: save it as "
            "UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def settings_file(file: Path | None = None) -> Path | None:
    """The file that settings are read from; None if there is none.

    Args:
        file: as in `load_settings`.

    Raises:
        SettingsError: it is named and not there.
    """
    try:
        named = file or (expanded(os.environ[FILE_VARIABLE]) if os.environ.get(FILE_VARIABLE) else None)
    except ValueError as error:
        raise SettingsError(f"{FILE_VARIABLE}: {error}") from error
    if named is None:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    if not named.is_file():
        raise SettingsError(f"{named}: there is no such settings file")
    return named
