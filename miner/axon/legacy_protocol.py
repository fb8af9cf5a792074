"""The legacy axon wire protocol: how a request is read, who signed it, whether it is fresh, and what a reply carries.

Functions over headers, and `LegacyProtocol`, which puts them together and remembers what it has seen. Time comes in as
an argument, and no input or output is done here.

Reference: bittensor 10.5.0, `core/axon.py` (`default_verify`), `core/dendrite.py` (`preprocess_synapse_for_request`,
`process_server_response`), `utils/axon_utils.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

from bittensor_wallet import Keypair

from miner.axon.authenticator import NS_PER_S, SignedRequest
from miner.axon.nonces import NonceBook
from miner.axon.refusals import BadRequest, Unauthenticated
from miner.axon.settings import WireSettings

SYNAPSE = "ImageSynapse"

_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{128}")
_INTEGER = re.compile(r"[0-9]{1,20}")
_NOT_IN_A_HEADER = re.compile(r"[^\x20-\x7e]+")
_LONGEST_FIELD = 128
_LONGEST_MESSAGE = 300


def decode_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header names and values of an ASGI scope as text; of a repeated header the last one counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def claimed_sender(headers: Mapping[str, str]) -> str:
    """The hotkey the request claims to come from, empty if none; an unproved claim until `verify`."""
    return headers.get("bt_header_dendrite_hotkey", "")


def parse_request(headers: Mapping[str, str]) -> SignedRequest:
    """Read the protocol headers.

    Args:
        headers: lower-case names to values.

    Raises:
        Unauthenticated: what the signature covers is missing or malformed.
        BadRequest: the timeout is missing or is not a positive number of seconds.
    """
    nonce = headers.get("bt_header_dendrite_nonce", "")
    if not _INTEGER.fullmatch(nonce):
        raise Unauthenticated("Missing Nonce" if not nonce else "Nonce is not an integer")
    return SignedRequest(
        sender=claimed_sender(headers),
        receiver=headers.get("bt_header_axon_hotkey", ""),
        nonce_ns=int(nonce),
        uuid=_signed_field(headers, "bt_header_dendrite_uuid"),
        body_hash=_signed_field(headers, "computed_body_hash"),
        signature=headers.get("bt_header_dendrite_signature", ""),
        timeout_s=_timeout_s(headers.get("timeout", "")),
    )


def verify(request: SignedRequest, *, receiver: str, now_ns: int, settings: WireSettings) -> None:
    """Prove that the claimed sender signed this request, for us, a moment ago.

    Args:
        request: the parsed headers.
        receiver: ss58 address of our own hotkey.
        now_ns: our clock, nanoseconds since 1970.
        settings: the window of accepted nonces.

    Raises:
        Unauthenticated: the request is for another axon, outside the window, unsigned, or signed by another key.
    """
    if request.receiver != receiver:
        raise Unauthenticated("the request is addressed to another hotkey")
    _check_window(request, now_ns, settings)
    if not request.signature:
        raise Unauthenticated("Missing Signature")
    if not _SIGNATURE.fullmatch(request.signature):
        raise Unauthenticated("Signature is not 0x and 128 hex digits")
    if not _signed_by_sender(request):
        raise Unauthenticated("Signature mismatch")


def reply_headers(status: int, message: str, *, receiver: str, seconds: float) -> list[tuple[bytes, bytes]]:
    """Headers from which a dendrite takes the outcome; it reads the body as JSON whatever the status.

    Args:
        status: HTTP status, also what the dendrite reports as its own.
        message: one line for the caller; cut and stripped of what a header cannot carry.
        receiver: ss58 address of our own hotkey.
        seconds: how long the request took.
    """
    line = _NOT_IN_A_HEADER.sub(" ", message)[:_LONGEST_MESSAGE].strip()
    headers = {
        "content-type": "application/json",
        "name": SYNAPSE,
        "bt_header_axon_hotkey": receiver,
        "bt_header_axon_status_code": str(status),
        "bt_header_axon_status_message": line,
        "bt_header_axon_process_time": f"{seconds:.6f}",
    }
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _signed_field(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not 0 < len(value) <= _LONGEST_FIELD:
        raise Unauthenticated(f"header {name} is missing or longer than {_LONGEST_FIELD} characters")
    return value


def _timeout_s(text: str) -> float:
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = math.nan
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise BadRequest("header timeout is missing or is not a positive number of seconds")
    return timeout_s


def _check_window(request: SignedRequest, now_ns: int, settings: WireSettings) -> None:
    age_s = (now_ns - request.nonce_ns) / NS_PER_S
    allowed_s = settings.past_grace_s + min(request.timeout_s, settings.timeout_cap_s)
    if age_s > allowed_s:
        why = f"Nonce is too old: {age_s:.2f} s, accepted up to {allowed_s:.2f} s; check both clocks"
        raise Unauthenticated(why, "nonce_too_old")
    if -age_s > settings.future_s:
        ahead = f"{-age_s:.2f} s ahead of this axon's clock, accepted up to {settings.future_s:.2f} s"
        raise Unauthenticated(f"Nonce is too new: {ahead}; check both clocks", "nonce_too_new")


def _signed_by_sender(request: SignedRequest) -> bool:
    try:
        return bool(Keypair(ss58_address=request.sender).verify(request.message, request.signature))
    except (ValueError, TypeError):
        return False


class LegacyProtocol:
    """The `Authenticator` of dendrites up to bittensor 10.

    Args:
        hotkey: ss58 address of our own hotkey.
        settings: which requests count as fresh.
        age_s: age of this process, in seconds; what was signed before it began is refused, because another process of
            this miner may have answered it.
    """

    def __init__(
        self, hotkey: str, settings: WireSettings | None = None, *, age_s: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._hotkey = hotkey
        self._settings = settings or WireSettings()
        self._nonces = NonceBook(self._settings, age_s)

    def claimed_sender(self, headers: Mapping[str, str]) -> str:
        """See `Authenticator.claimed_sender`."""
        return claimed_sender(headers)

    def prove(self, headers: Mapping[str, str], now_ns: int) -> float:
        """See `Authenticator.prove`."""
        request = parse_request(headers)
        try:
            verify(request, receiver=self._hotkey, now_ns=now_ns, settings=self._settings)
            self._nonces.record(request, now_ns)
        except Unauthenticated as error:
            error.known["nonce_age_s"] = round((now_ns - request.nonce_ns) / NS_PER_S, 2)
            raise
        return request.timeout_s

    def reply_headers(self, status: int, message: str, *, seconds: float) -> list[tuple[bytes, bytes]]:
        """See `Authenticator.reply_headers`."""
        return reply_headers(status, message, receiver=self._hotkey, seconds=seconds)
