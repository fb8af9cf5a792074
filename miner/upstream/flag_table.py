"""The flags and variables of the reference miner, one row each: what becomes of it here, and why.

The command line, the reader of `miner.env`, the warnings and the table in `docs/moving.md` are all made from `TABLE`.
Source: the reference miner's argument parser and `start_miner.sh` of January and May 2026, and bittensor 9.9 to 10.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from stage1.errors import SettingsError
from stage1.settings import expanded

TRUE, FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True)
class Row:
    """One flag of the reference miner, with the variables that mean the same.

    Attributes:
        flag: its name; empty where there is only a variable.
        why: how the value is taken over, or what to use instead; a sentence for people.
        setting: dotted name of our setting; None where the flag has no effect.
        variables: names in `miner.env` and in the environment, the strongest first.
        convert: from the text of the value to that of our setting; None leaves the setting as it is.
        switch: it needs no value, and `True` or `False` may follow.
        despite_false: what is told where a switch is given as `False` and is on all the same.
    """

    flag: str
    why: str
    setting: str | None = None
    variables: tuple[str, ...] = ()
    convert: Callable[[str], object] = str
    switch: bool = False
    despite_false: str = ""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.flag or self.variables[0]


def is_on(text: str) -> bool | None:
    """Whether a word means yes; None if it means neither yes nor no."""
    word = text.strip().lower()
    return True if word in TRUE else False if word in FALSE else None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{text!r} is not a whole number") from None


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise SettingsError(f"{text!r} is no IPv4 or IPv6 address; the chain takes no host names") from None


def _path(text: str) -> Path:
    try:
        return expanded(text)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _level(name: str) -> Callable[[str], str | None]:
    def convert(text: str) -> str | None:
        on = is_on(text)
        if on is None:
            raise SettingsError(f"{text!r} is neither True nor False")
        return name if on else None

    return convert


def _always(_text: str) -> bool:
    return True


_BY_BUNDLE = "the model is the current bundle of the store: `cascade engines activate` chooses it"
_NO_VIDEO = "validators send no video, and the reference miner never used it"
_NO_WANDB = "nothing is sent to W&B, and the reference miner sent nothing either; see the journal and `/status`"
_LOGS = "logs go to standard error, and the journal is in the directory of `state`"

TABLE: tuple[Row, ...] = (
    # The subnet and the wallet.
    Row(
        "--netuid",
        "the same; without it 72, and not 1",
        "chain.netuid",
        ("NETUID",),
        _whole_number,
    ),
    Row("--wallet.name", "the same", "wallet.name", ("WALLET_NAME", "BT_WALLET_NAME")),
    Row("--wallet.hotkey", "the same", "wallet.hotkey", ("WALLET_HOTKEY", "BT_WALLET_HOTKEY")),
    Row("--wallet.path", "the same", "wallet.path", ("BT_WALLET_PATH",), _path),
    Row("--subtensor.network", "the same", "chain.network", ("SUBTENSOR_NETWORK", "BT_SUBTENSOR_NETWORK")),
    Row(
        "--subtensor.chain_endpoint",
        "the same; used instead of the network's own",
        "chain.endpoint",
        ("SUBTENSOR_CHAIN_ENDPOINT", "BT_SUBTENSOR_CHAIN_ENDPOINT"),
    ),
    Row("--subtensor._mock", "use `chain.kind=offline` with `chain.snapshot`"),
    # The axon.
    Row("--axon.port", "the same", "axon.port", ("MINER_AXON_PORT", "BT_AXON_PORT"), _whole_number),
    Row(
        "--axon.external_ip",
        "the same; without it `auto`, as the reference miner asked the internet for it",
        "chain.external_ip",
        ("BT_AXON_EXTERNAL_IP",),
        _address,
    ),
    Row("--axon.external_port", "the same", "chain.external_port", ("BT_AXON_EXTERNAL_PORT",), _whole_number),
    Row("--axon.ip", "bittensor ignored it as well: set `axon.host` to listen on one address", None, ("BT_AXON_IP",)),
    Row(
        "--axon.max_workers",
        "it sized a pool that did no work: see `engine.workers` and `requests.max_in_flight`",
        None,
        ("BT_AXON_MAX_WORKERS", "BT_PRIORITY_MAX_WORKERS"),
    ),
    # Who may ask.
    Row(
        "--blacklist.force_validator_permit",
        "a permit is required with it and without it; only `access.require_validator_permit=false` turns that off",
        "access.require_validator_permit",
        ("BLACKLIST_FORCE_VALIDATOR_PERMIT",),
        _always,
        switch=True,
        despite_false="the reference miner took its False for True, so a validator permit is required: set "
        "access.require_validator_permit=false if callers without one may ask",
    ),
    Row(
        "--blacklist.allow_non_registered",
        "it let nobody in there either: name hotkeys in `access.extra_hotkeys`",
        switch=True,
    ),
    # Logs.
    Row("--logging.info", "level `INFO`", "log.level", ("BT_LOGGING_INFO",), _level("INFO"), switch=True),
    Row("--logging.debug", "level `DEBUG`", "log.level", ("BT_LOGGING_DEBUG",), _level("DEBUG"), switch=True),
    Row("--logging.trace", "level `DEBUG`", "log.level", ("BT_LOGGING_TRACE",), _level("DEBUG"), switch=True),
    Row("--logging.record_log", _LOGS, None, ("BT_LOGGING_RECORD_LOG",), switch=True),
    Row("--logging.logging_dir", _LOGS, None, ("BT_LOGGING_LOGGING_DIR",)),
    Row(
        "--logging.enable_third_party_loggers",
        "every logger is shown at `log.level`",
        None,
        ("BT_LOGGING_ENABLE_THIRD_PARTY_LOGGERS",),
        switch=True,
    ),
    # The model.
    Row("--neuron.image_detector", _BY_BUNDLE, None, ("IMAGE_DETECTOR",)),
    Row("--neuron.image_detector_config", _BY_BUNDLE, None, ("IMAGE_DETECTOR_CONFIG",)),
    Row(
        "--neuron.image_detector_device",
        "a bundle names the engine that it was certified on: see `engine.serve_with` and `cascade engines compile`",
        None,
        ("IMAGE_DETECTOR_DEVICE",),
    ),
    Row("--model_url", "NATIX reads it from `cascade register-natix --model-repo`", None, ("MODEL_URL",)),
    Row("--neuron.video_detector", _NO_VIDEO, None, ("VIDEO_DETECTOR",)),
    Row("--neuron.video_detector_config", _NO_VIDEO, None, ("VIDEO_DETECTOR_CONFIG",)),
    Row("--neuron.video_detector_device", _NO_VIDEO, None, ("VIDEO_DETECTOR_DEVICE",)),
    # The rest of the neuron.
    Row("--neuron.epoch_length", "the metagraph is read every `chain.refresh_s`"),
    Row("--neuron.name", "it named a directory of logs: set `state`"),
    Row("--neuron.events_retention_size", "the journal keeps eight files of 64 MiB besides the newest"),
    Row("--neuron.dont_save_events", "the journal is always written, and holds no image", switch=True),
    Row("--mock", "it never worked there: use `chain.kind=offline` with `chain.snapshot`", switch=True),
    Row("--wandb.off", _NO_WANDB, switch=True),
    Row("--wandb.offline", _NO_WANDB, switch=True),
    Row("--wandb.notes", _NO_WANDB),
    Row("--wandb.restart_interval", _NO_WANDB),
    Row("--wandb.project_name", _NO_WANDB),
    Row("--wandb.entity", _NO_WANDB),
    # The SDK itself.
    Row("--config", "a `.yaml` or `.yml` file is read as bittensor reads it; any other is our own, in TOML"),
    Row("--strict", "an unknown flag is always an error", switch=True),
    Row("--no_version_checking", "nothing asks for a newer version", switch=True),
    Row("", "the reference miner did not use it: see `cascade register-natix --base-url`", None, ("PROXY_CLIENT_URL",)),
    Row("", "it sized a pool that did no work: see `requests.max_in_flight`", None, ("BT_PRIORITY_MAXSIZE",)),
    Row("", "the SDK never reads the command line here", None, ("BT_NO_PARSE_CLI_ARGS",)),
)

FLAGS: dict[str, Row] = {row.flag: row for row in TABLE if row.flag}
VARIABLES: dict[str, Row] = {name: row for row in TABLE for name in row.variables}
# Our own command line has these as well, and takes their values; they are left to it unless they are empty.
SHARED = frozenset({"--netuid", "--config"})


def as_markdown() -> str:
    """The table as it stands in `docs/moving.md`."""
    lines = ["| reference miner | variables | here | how, or what to use instead |", "| --- | --- | --- | --- |"]
    for row in TABLE:
        flag = f"`{row.flag}`" if row.flag else "none"
        variables = ", ".join(f"`{name}`" for name in row.variables) or "none"
        ours = "`--config`" if row.flag == "--config" else f"`{row.setting}`" if row.setting else "no effect"
        lines.append(f"| {flag} | {variables} | {ours} | {row.why} |")
    return "\n".join(lines)
