"""Settings of alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from stage1.settings import Section, UserPath

Form = Literal["json", "discord", "slack", "telegram"]


class AlertSettings(Section):
    """Who is told that the miner needs a person.

    An address is a secret, because whoever has it can write there: it comes from a variable of the environment or from
    a file.

    Attributes:
        form: what the receiver reads: `json`, or the messages of `discord`, `slack` or `telegram`.
        url_env: variable of the environment that holds the address, as in `https://discord.com/api/webhooks/...`, or
            `https://api.telegram.org/bot.../sendMessage`.
        url_file: file that holds the address.
        chat: for Telegram, the id of the chat.
        ping_env: variable that holds an address which is asked every `ping_s`: a service that warns when it is not.
        ping_file: file that holds that address.
        ping_s: time between two of them.
        least: the lowest level that is sent: `info` has new bundles and nights as well, `warning`, or `alarm`.
        per_hour: messages in an hour, of which half is kept for alarms; what is above is counted in the next message.
        silent_h: told if nobody has got an answer for so many hours.
        slow_s: told if one answer in a hundred takes longer.
        degraded_share: told if a larger share of the answers is given without Stage-1 or Stage-2.
        deferral_band: lowest and highest share of hand-offs to Stage-2 that is usual; None for any.
        night_h: told if no night has succeeded for so many hours.
        free_gib: told if less is free on the disk of the store or of the state.
        budget_share: told if the budget of Stage-2 pays for a smaller share of the hand-offs; 0 for never.
    """

    form: Form = "json"
    url_env: str | None = None
    url_file: UserPath | None = None
    chat: str | None = None
    ping_env: str | None = None
    ping_file: UserPath | None = None
    ping_s: float = Field(default=60.0, ge=1)
    least: Literal["info", "warning", "alarm"] = "info"
    per_hour: int = Field(default=30, ge=1)
    silent_h: float = Field(default=6.0, gt=0)
    slow_s: float = Field(default=7.0, gt=0)
    degraded_share: float = Field(default=0.05, gt=0, le=1)
    deferral_band: tuple[float, float] | None = None
    night_h: float = Field(default=36.0, gt=0)
    free_gib: float = Field(default=2.0, ge=0)
    budget_share: float = Field(default=0.5, ge=0, le=1)

    @property
    def on(self) -> bool:
        """Anything is sent at all."""
        return bool(self.url_env or self.url_file or self.ping_env or self.ping_file)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("url", "ping"):
            if getattr(self, f"{name}_env") and getattr(self, f"{name}_file"):
                raise ValueError(f"{name}_env and {name}_file both name an address: give one of them")
        if self.form == "telegram" and self.chat is None and (self.url_env or self.url_file):
            raise ValueError("chat is not set: Telegram needs the id of the chat to write to")
        if self.deferral_band is not None and not 0 <= self.deferral_band[0] < self.deferral_band[1] <= 1:
            raise ValueError("deferral_band must be two shares in [0, 1], the lower one first")
        return self


def address(variable: str | None, file: Path | None, environment: dict[str, str], setting: str) -> str | None:
    """A secret address; None if none is set.

    Args:
        variable: of the environment.
        file: that holds it.
        environment: its variables.
        setting: name of the setting, for an error.

    Raises:
        ValueError: it is not there, or no address of the web; does not say what it is.
    """
    if variable is not None:
        text, where = environment.get(variable, ""), f"alerts.{setting}_env: the variable {variable}"
    elif file is not None:
        where = f"alerts.{setting}_file: {file}"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    else:
        return None
    if not _is_address(text.strip()):
        raise ValueError(f"{where} holds no address that begins with http:// or https://, in one line")
    return text.strip()


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # Raises where it is none.
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and text.isprintable() and " " not in text
