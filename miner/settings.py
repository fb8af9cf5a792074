"""Settings of the live miner: one object, from flags, environment, `cascade.toml` and defaults, in this order."""

from __future__ import annotations

import os
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from engines.live.settings import BatchSettings, SwapSettings
from engines.spec import EngineSpec
from miner.axon.settings import AccessSettings, AxonServerSettings, AxonSettings, WireSettings
from miner.errors import SettingsError

DEFAULT_FILE = Path("cascade.toml")
FILE_VARIABLE = "CASCADE_CONFIG"

_file: ContextVar[Path | None] = ContextVar("settings_file", default=None)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WalletSettings(_Section):
    """The miner's key.

    Attributes:
        name: name of the wallet.
        hotkey: name of the hotkey.
        path: directory of wallets.
    """

    name: str = "default"
    hotkey: str = "default"
    path: Path = Path("~/.bittensor/wallets")


class ChainSettings(_Section):
    """Where the metagraph comes from.

    Attributes:
        kind: `bittensor` reads the chain, `offline` reads a file.
        netuid: 72 on finney, 323 on the test network.
        network: name of the network.
        endpoint: WebSocket URL, instead of the network's own.
        deadline_s: longest wait for one chain call.
        refresh_s: time between two readings of the metagraph.
        snapshot: the file of the offline chain.
        publish_endpoint: announce the axon's address on the chain.
        external_ip: address that validators reach; announced, so needed with `publish_endpoint`.
        external_port: port that validators reach; default the axon's own.
    """

    kind: Literal["bittensor", "offline"] = "bittensor"
    netuid: int = Field(default=72, ge=0)
    network: str = "finney"
    endpoint: str | None = None
    deadline_s: float = Field(default=60.0, gt=0)
    refresh_s: float = Field(default=600.0, gt=0)
    snapshot: Path | None = None
    publish_endpoint: bool = True
    external_ip: str | None = None
    external_port: int | None = Field(default=None, ge=1, le=65535)

    @model_validator(mode="after")
    def _offline_needs_a_file(self) -> Self:
        if self.kind == "offline" and self.snapshot is None:
            raise ValueError("kind is offline, so snapshot must name a file")
        return self


class EngineSettings(_Section):
    """Stage-1 in this process.

    Attributes:
        threads: intra-op threads; None for all cores.
        workers: images that are decoded at a time.
        serve_with: another engine than those that bundles were certified on, if the golden images of each say that it
            decides the same; None for those.
        batch: how requests that come together share engine calls.
        swap: how bundles are replaced.
        fallback_probability: answered if Stage-1 itself fails or is late; one half counts as no roadwork.
    """

    threads: int | None = Field(default=None, ge=1)
    workers: int = Field(default=2, ge=1)
    serve_with: EngineSpec | None = None
    batch: BatchSettings = BatchSettings()
    swap: SwapSettings = SwapSettings()
    fallback_probability: float = Field(default=0.5, ge=0, le=1)


class AdminSettings(_Section):
    """The administrator's endpoint.

    Attributes:
        port: TCP port on 127.0.0.1; 0 takes a free one, None for no endpoint.
    """

    port: int | None = Field(default=None, ge=0, le=65535)


class Stage2Settings(_Section):
    """Where deferred images go.

    Attributes:
        engine: directory of a larger engine in this process; None for no Stage-2.
        threads: intra-op threads of that engine.
        max_in_flight: hand-offs at a time.
        reserve_s: time kept before the deadline to answer without Stage-2.
    """

    engine: Path | None = None
    threads: int | None = Field(default=None, ge=1)
    max_in_flight: int = Field(default=16, ge=1)
    reserve_s: float = Field(default=0.25, ge=0)


class RetrainSettings(_Section):
    """The nightly job.

    Attributes:
        enabled: start it at all.
        cron: when, in UTC, as five crontab fields.
        data: directory with `labels.csv`.
        workspace: where stages are cached.
        preset: preset of the pipeline.
        config: a `config.json` instead of the preset.
        niceness: of the child process.
        timeout_h: after so long it is ended.
    """

    enabled: bool = False
    cron: str = "30 3 * * *"
    data: Path | None = None
    workspace: Path = Path("cascade-data/workspace")
    preset: str = "standard"
    config: Path | None = None
    niceness: int = Field(default=15, ge=0, le=19)
    timeout_h: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _enabled_needs_data(self) -> Self:
        if self.enabled and self.data is None:
            raise ValueError("enabled is true, so data must name a directory with labels.csv")
        return self


class LogSettings(_Section):
    """Logs, on standard error.

    Attributes:
        level: lowest level that is written.
        json_lines: JSON instead of coloured text; None decides by whether it is a terminal.
    """

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    json_lines: bool | None = None


class MinerSettings(BaseSettings):
    """All settings of `cascade mine`.

    Attributes:
        store: directory of bundles.
        state: directory of the journal and of what must survive a restart.
        wallet: the miner's key.
        chain: where the metagraph comes from.
        axon: where the axon listens.
        requests: limits and deadlines of requests.
        access: who may ask.
        wire: which requests count as fresh.
        engine: Stage-1 in this process.
        stage2: where deferred images go.
        retrain: the nightly job.
        admin: the administrator's endpoint.
        log: logs.

    Environment variables begin with `CASCADE_`, two underscores lead into a section: `CASCADE_AXON__PORT=8091`.
    """

    model_config = SettingsConfigDict(
        env_prefix="CASCADE_", env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    store: Path = Path("cascade-data/engines")
    state: Path = Path("cascade-data/state")
    wallet: WalletSettings = WalletSettings()
    chain: ChainSettings = ChainSettings()
    axon: AxonServerSettings = AxonServerSettings()
    requests: AxonSettings = AxonSettings()
    access: AccessSettings = AccessSettings()
    wire: WireSettings = WireSettings()
    engine: EngineSettings = EngineSettings()
    stage2: Stage2Settings = Stage2Settings()
    retrain: RetrainSettings = RetrainSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file."""
        path = _file.get()
        file = () if path is None else (TomlConfigSettingsSource(settings_cls, path),)
        return (init_settings, env_settings, *file)


def load_settings(file: Path | None = None, changes: dict[str, Any] | None = None) -> MinerSettings:
    """Read the settings.

    Args:
        file: a TOML file; None for `$CASCADE_CONFIG`, or `cascade.toml` here if there is one.
        changes: values that win over everything, by dotted path: `{"axon.port": 8092}`.

    Raises:
        SettingsError: the file is missing or not TOML, or a value is unknown or does not fit; names it.
    """
    path = _find(file)
    token = _file.set(path)
    try:
        return MinerSettings(**_nested(changes or {}))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors(include_url=False)]
        raise SettingsError(f"settings ({path or 'no file'}): {'; '.join(problems)}") from error
    finally:
        _file.reset(token)


def _find(file: Path | None) -> Path | None:
    named = file or (Path(os.environ[FILE_VARIABLE]) if FILE_VARIABLE in os.environ else None)
    if named is None:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    if not named.is_file():
        raise SettingsError(f"{named}: there is no such settings file")
    return named


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
