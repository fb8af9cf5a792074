"""The registration of a miner with NATIX, as `register.sh` of the reference miner made it.

`POST {base}/participants/register`, then `GET {base}/participants/registration-status/{uid}` until it is decided.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from miner.errors import RegistrationError, RegistrationPending
from stage1.errors import SettingsError

if TYPE_CHECKING:
    from miner.chain.wallet import Hotkey

BASE_URL = "https://hydra.natix.network"
EVERY_S = 3.0
LONGEST_S = 180.0
CALL_S = 20.0
MOST_BYTES = 1 << 20
MOST_TOLD = 300
LARGEST_UID = 65535
DONE, REFUSED = frozenset({"succeeded", "success"}), frozenset({"failed", "error"})

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Registration:
    """One request to be registered.

    Attributes:
        url: where it goes.
        status_url: where its outcome is.
        body: JSON object; every value is a text.
    """

    url: str
    status_url: str
    body: dict[str, str]

    def as_text(self) -> str:
        """The request as it would be sent."""
        return f"POST {self.url}\nContent-Type: application/json\n\n{json.dumps(self.body)}"


class Unreachable(RegistrationError):
    """No usable answer came; the next one may be better."""


def signed(uid: int, repository: str, hotkey: Hotkey, *, now_s: float, base_url: str = BASE_URL) -> Registration:
    """The request that registers a miner, signed over the time.

    Args:
        uid: of the hotkey on the subnet.
        repository: of the model on Hugging Face, `user/repo`.
        hotkey: signs.
        now_s: seconds since 1970.
        base_url: of the registry.

    Raises:
        SettingsError: an argument does not fit.
    """
    if not 0 <= uid <= LARGEST_UID:
        raise SettingsError(f"the uid is {uid}; it must be from 0 to {LARGEST_UID}")
    if not _REPOSITORY.fullmatch(repository):
        raise SettingsError(f"--model-repo is {repository!r}; it must be user/repo, as on Hugging Face")
    base = _checked(base_url)
    message = str(int(now_s))
    return Registration(
        f"{base}/participants/register",
        f"{base}/participants/registration-status/{uid}",
        {
            "uid": str(uid),
            "message": message,
            "natix_public_key": hotkey.ss58_address,
            # Without the 0x that signatures of the chain begin with.
            "natix_signature": hotkey.sign(message.encode()).hex(),
            "type": "miner",
            "model_repo": repository,
        },
    )


def register(
    registration: Registration,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = lambda _: None,
    longest_s: float = LONGEST_S,
    call_s: float = CALL_S,
) -> str:
    """Send a registration, and wait until it is decided.

    An answer that cannot be read while it waits is passed over: the registration is sent, and the next one may be
    better.

    Args:
        registration: from `signed`.
        clock: monotonic time in seconds.
        sleep: waits so many seconds.
        tell: told each new state.
        longest_s: how long the outcome is waited for.
        call_s: longest wait for one answer.

    Returns:
        What the registry said last.

    Raises:
        RegistrationError: it was refused, or the request could not be sent; says why.
        RegistrationPending: it is not decided in time.
    """
    reply = _asked(registration.url, registration.body, call_s, clock)
    tell(f"sent: {_told(reply.get('detail', reply))}")
    until, last = clock() + longest_s, "nothing yet"
    while True:
        try:
            reply = _asked(registration.status_url, None, call_s, clock)
            state = str(reply.get("status", "")).strip().lower()
            said = _told(reply.get("status", reply))
        except Unreachable as error:
            state, said = "", str(error)
        if state in DONE:
            return said
        if state in REFUSED:
            raise RegistrationError(f"NATIX refused the registration: {_told(reply.get('error_message') or state)}")
        if said != last:
            tell(f"waiting: {said}")
        last = said
        if clock() + EVERY_S > until:
            raise RegistrationPending(
                f"NATIX has not decided within {longest_s:.0f} s; it said last: {last}; see {registration.status_url}"
            )
        sleep(EVERY_S)


def _checked(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise SettingsError(f"--base-url is {base_url!r}: {error}") from error
    loopback = host == "localhost" or _is_loopback(host)
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment or parts.username:
        raise SettingsError(f"--base-url is {base_url!r}; it must be like {BASE_URL}")
    if parts.scheme == "http" and not loopback:
        raise SettingsError(f"--base-url is {base_url!r}: it must begin with https://, so that nobody changes it")
    return base_url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(HTTPRedirectHandler):
    """A registry that moved would be asked with another method, and without the body."""

    def redirect_request(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Follow none."""


def _asked(url: str, body: dict[str, str] | None, call_s: float, clock: Callable[[], float]) -> dict[str, Any]:
    """See `_answer`; a header that comes byte by byte ends the wait as well."""
    answer: Future[dict[str, Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(_answer(url, body, call_s, clock))
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            answer.set_exception(error)

    # The limit of the socket is one for each of its waits.
    Thread(target=ask, name="registry", daemon=True).start()
    try:
        return answer.result(2 * call_s)
    except TimeoutError as error:
        raise Unreachable(f"{url}: the answer takes too long") from error


def _answer(url: str, body: dict[str, str] | None, call_s: float, clock: Callable[[], float]) -> dict[str, Any]:
    """The JSON object that a call answers with.

    Raises:
        Unreachable: there is none.
        RegistrationError: the registry refused what was sent.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"Accept": "application/json", "User-Agent": "streetvision-cascade"}
    if data is not None:
        headers["Content-Type"] = "application/json"
    request = Request(url, data, headers)  # noqa: S310  the scheme is checked
    until = clock() + call_s
    try:
        with build_opener(_NoRedirect).open(request, timeout=call_s) as response:
            content = _read(response, until, clock)
    except HTTPError as error:
        with error:
            try:
                said = _told(_detail(_read(error, until, clock)))
            except (Unreachable, OSError, HTTPException):
                said = error.reason or "without a word"
        kind = RegistrationError if body is not None and 400 <= error.code < 500 else Unreachable
        raise kind(f"{url}: status {error.code}: {said}") from error
    except (OSError, HTTPException, UnicodeError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise Unreachable(f"{url}: cannot be asked: {reason or type(error).__name__}") from error
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise Unreachable(f"{url}: the answer is no JSON object: {_told(content.decode(errors='replace'))}")
    return reply


def _read(response: Any, until: float, clock: Callable[[], float]) -> bytes:  # noqa: ANN401  a response or an error
    content = b""
    while chunk := response.read1(1 << 16):
        content += chunk
        if len(content) > MOST_BYTES:
            raise Unreachable(f"{response.url}: the answer is longer than {MOST_BYTES} bytes")
        if clock() > until:
            raise Unreachable(f"{response.url}: the answer takes too long")
    return content


def _detail(content: bytes) -> object:
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
    if isinstance(reply, dict):
        return reply.get("detail") or reply.get("error_message") or reply
    return reply


def _told(said: object) -> str:
    """What somebody else said, as one line without control characters and of a decent length."""
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return f"{line[:MOST_TOLD]}..." if len(line) > MOST_TOLD else line
