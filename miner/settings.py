"""Settings of the live miner: one object, from flags, environment, `cascade.toml` and defaults, in this order."""

from __future__ import annotations

import os
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from miner.admin.settings import AdminSettings
from miner.answering.settings import EngineSettings
from miner.axon.settings import AccessSettings, AxonSettings, RequestSettings, WireSettings
from miner.chain.settings import ChainSettings, WalletSettings
from miner.logs import LogSettings
from miner.nightly import RetrainSettings
from stage1.errors import SettingsError
from stage1.settings import merged, problems
from stage2_bridge.settings import Stage2Settings

DEFAULT_FILE = Path("cascade.toml")
FILE_VARIABLE = "CASCADE_CONFIG"

_file: ContextVar[Path | None] = ContextVar("settings_file", default=None)


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
        night: values of its config that are other than the preset's: `[night.train_supervised]`, `epochs = 20`.
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
    axon: AxonSettings = AxonSettings()
    requests: RequestSettings = RequestSettings()
    access: AccessSettings = AccessSettings()
    wire: WireSettings = WireSettings()
    engine: EngineSettings = EngineSettings()
    stage2: Stage2Settings = Stage2Settings()
    retrain: RetrainSettings = RetrainSettings()
    night: dict[str, Any] = Field(default_factory=dict)
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
        return MinerSettings(**merged({}, changes or {}))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"settings ({path or 'no file'}): {problems(error)}") from error
    finally:
        _file.reset(token)


def _find(file: Path | None) -> Path | None:
    named = file or (Path(os.environ[FILE_VARIABLE]) if FILE_VARIABLE in os.environ else None)
    if named is None:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    if not named.is_file():
        raise SettingsError(f"{named}: there is no such settings file")
    return named
