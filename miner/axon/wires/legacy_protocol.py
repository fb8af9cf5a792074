"""The legacy axon wire protocol, of dendrites up to bittensor 10: what a request claims, and what a reply carries.

The signature covers the nonce, both hotkeys and the id of the dendrite; not the image, and not the timeout.

Reference: bittensor 10.5.0, `core/axon.py` (`default_verify`), `core/dendrite.py` (`preprocess_synapse_for_request`,
`process_server_response`), `utils/axon_utils.py`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping

from miner.axon.authenticator import Claim, Head
from miner.axon.proofs import STALE_CLAIM, Proofs, nonce_age_s
from miner.axon.refusals import BadRequest, Unauthenticated
from miner.axon.settings import WireSettings

AUTH_MODE = "legacy"

_HOTKEY = "bt_header_dendrite_hotkey"
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{128}")
_INTEGER = re.compile(r"[0-9]{1,20}")
_NOT_IN_A_HEADER = re.compile(r"[^\x20-\x7e]+")
_LONGEST_FIELD = 128
_LONGEST_MESSAGE = 300


class LegacyProtocol:
    """The `Authenticator` of dendrites up to bittensor 10.

    Args:
        hotkey: ss58 address of our own hotkey.
        synapse: name of the synapse, which replies repeat.
        settings: which requests count as fresh.
        age_s: age of this process, in seconds.
        clock: monotonic time in seconds.
    """

    signs_body = False

    def __init__(
        self,
        hotkey: str,
        synapse: str,
        settings: WireSettings | None = None,
        *,
        age_s: Callable[[], float] = lambda: math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hotkey = hotkey
        self._synapse = synapse
        self._settings = settings = settings or WireSettings()
        self._proofs = Proofs(
            retention_s=settings.nonce_retention_s,
            most=settings.nonces_per_hotkey,
            ahead_s=settings.future_s,
            age_s=age_s,
            clock=clock,
        )
        self.prove = self._proofs.prove

    def recognises(self, headers: Mapping[str, str]) -> bool:
        """See `Authenticator.recognises`."""
        return _HOTKEY in headers

    def claimed_sender(self, headers: Mapping[str, str]) -> str:
        """See `Authenticator.claimed_sender`."""
        return headers.get(_HOTKEY, "")

    def read(self, head: Head, now_ns: int) -> Claim:
        """See `Authenticator.read`.

        A claim with an old or a new nonce goes on to its proof, for only a proved one says that a clock is off; after
        one that was proved the others of its sender are refused unproved for a while, as the SDK refuses all of them.
        """
        nonce = head.headers.get("bt_header_dendrite_nonce", "")
        if not _INTEGER.fullmatch(nonce):
            raise Unauthenticated("Missing Nonce" if not nonce else "Nonce is not an integer")
        nonce_ns = int(nonce)
        try:
            claim = self._claim(head.headers, nonce_ns, now_ns)
            if claim.stale is not None and self._proofs.told(claim.sender):
                claim.stale.kind = STALE_CLAIM
                raise claim.stale
        except Unauthenticated as error:
            error.known["nonce_age_s"] = nonce_age_s(nonce_ns, now_ns)
            raise
        return claim

    def reply_headers(self, status: int, message: str, *, seconds: float) -> list[tuple[bytes, bytes]]:
        """See `Authenticator.reply_headers`; a dendrite reads the body as JSON whatever the status.

        The message is cut and stripped of what a header cannot carry.
        """
        line = _NOT_IN_A_HEADER.sub(" ", message)[:_LONGEST_MESSAGE].strip()
        headers = {
            "content-type": "application/json",
            "name": self._synapse,
            "bt_header_axon_hotkey": self._hotkey,
            "bt_header_axon_status_code": str(status),
            "bt_header_axon_status_message": line,
            "bt_header_axon_process_time": f"{seconds:.6f}",
        }
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    def _claim(self, headers: Mapping[str, str], nonce_ns: int, now_ns: int) -> Claim:
        uuid = _signed_field(headers, "bt_header_dendrite_uuid")
        body_hash = _signed_field(headers, "computed_body_hash")
        waits_s = _timeout_s(headers.get("timeout", ""))
        if headers.get("bt_header_axon_hotkey", "") != self._hotkey:
            raise Unauthenticated("the request is addressed to another hotkey")
        signature = headers.get("bt_header_dendrite_signature", "")
        if not signature:
            raise Unauthenticated("Missing Signature")
        if not _SIGNATURE.fullmatch(signature):
            raise Unauthenticated("Signature is not 0x and 128 hex digits")
        sender = headers.get(_HOTKEY, "")
        signed = f"{nonce_ns}.{sender}.{self._hotkey}.{uuid}.{body_hash}"
        oldest_s = self._settings.past_grace_s + min(waits_s, self._settings.timeout_cap_s)
        return Claim(
            sender=sender,
            nonce_ns=nonce_ns,
            signature=signature,
            message=lambda _body_sha256: signed,
            auth_mode=AUTH_MODE,
            uuid=uuid,
            waits_s=waits_s,
            stale=self._proofs.stale(nonce_ns, oldest_s, now_ns),
        )


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
