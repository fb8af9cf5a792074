"""Whether a claim is true: who signed it, then when, then whether it was seen before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from bittensor_wallet import Keypair

from miner.axon.authenticator import NS_PER_S, Claim
from miner.axon.nonces import NonceBook
from miner.axon.refusals import Unauthenticated

# A claim that is refused for its nonce is counted as what it says only if it is proved; see `Proofs.spare`, `told`.
STALE_CLAIM = "stale_claim"


class Proofs:
    """Proves claims, and remembers which.

    Args:
        retention_s: how long a nonce is remembered, in seconds.
        most: nonces that are remembered of one hotkey.
        ahead_s: how far a sender's clock may run ahead of ours, in seconds.
        age_s: age of this process, in seconds; what was signed before it began is refused, because another process of
            this miner may have answered it. By a clock that never goes back: the wall clock may be set right after the
            start.
        clock: monotonic time in seconds.
        spare_every_s: see `spare`.
    """

    def __init__(
        self,
        *,
        retention_s: float,
        most: int,
        ahead_s: float,
        age_s: Callable[[], float] = lambda: math.inf,
        clock: Callable[[], float] = time.monotonic,
        spare_every_s: float = 10.0,
    ) -> None:
        self._book = NonceBook(retention_s, most)
        self._ahead_s = ahead_s
        self._age_s = age_s
        self._clock = clock
        self._spare_every_s = spare_every_s
        self._spared_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}

    def stale(self, nonce_ns: int, oldest_s: float, now_ns: int) -> Unauthenticated | None:
        """Why a nonce is not accepted; None if it is.

        Args:
            nonce_ns: the nonce, nanoseconds since 1970.
            oldest_s: how old it may be, in seconds.
            now_ns: our clock, nanoseconds since 1970.
        """
        age_s = (now_ns - nonce_ns) / NS_PER_S
        if age_s > oldest_s:
            why = f"Nonce is too old: {age_s:.2f} s, accepted up to {oldest_s:.2f} s; check both clocks"
            return Unauthenticated(why, "nonce_too_old")
        if -age_s > self._ahead_s:
            ahead = f"{-age_s:.2f} s ahead of this axon's clock, accepted up to {self._ahead_s:.2f} s"
            return Unauthenticated(f"Nonce is too new: {ahead}; check both clocks", "nonce_too_new")
        if age_s > self._age_s():
            return Unauthenticated("Nonce is older than this miner's process", "nonce_before_start")
        return None

    def seen(self, claim: Claim) -> bool:
        """Whether a claim with this nonce was proved before."""
        return self._book.has(claim.sender, claim.nonce_ns, claim.uuid)

    def spare(self, sender: str) -> bool:
        """Whether a stale claim of this sender may go on to its proof, which is costly.

        Only a proved one tells the operator that a clock is off. One in a while is enough for that, and bounds what the
        others cost.

        Args:
            sender: a hotkey that may ask.
        """
        now = self._clock()
        if now - self._spared_at.get(sender, -math.inf) < self._spare_every_s:
            return False
        self._spared_at[sender] = now
        return True

    def told(self, sender: str) -> bool:
        """Whether a stale claim of this sender was proved of late, so that another would tell the operator nothing.

        One that nobody signed does not count: otherwise a stranger could keep an operator from being told.

        Args:
            sender: a hotkey that may ask.
        """
        return self._clock() - self._told_at.get(sender, -math.inf) < self._spare_every_s

    def prove(self, claim: Claim, body_sha256: str, now_ns: int) -> None:
        """See `Authenticator.prove`."""
        try:
            if not _signed_by_sender(claim, body_sha256):
                raise Unauthenticated("Signature mismatch")
            try:
                if claim.stale is not None:
                    self._told_at[claim.sender] = self._clock()
                    raise claim.stale
                self._book.record(claim.sender, claim.nonce_ns, claim.uuid, now_ns)
            except Unauthenticated as error:
                error.known["proved"] = True
                raise
        except Unauthenticated as error:
            error.known["nonce_age_s"] = nonce_age_s(claim.nonce_ns, now_ns)
            raise


def nonce_age_s(nonce_ns: int, now_ns: int) -> float:
    """How old a nonce is, in seconds, for the logs."""
    return round((now_ns - nonce_ns) / NS_PER_S, 2)


def _signed_by_sender(claim: Claim, body_sha256: str) -> bool:
    try:
        key = Keypair(ss58_address=claim.sender, crypto_type=claim.scheme)
        return bool(key.verify(claim.message(body_sha256), claim.signature))
    except (ValueError, TypeError):
        return False
