"""A cap on the bytes that are sent in a second.

Reference:
    ITU-T I.371 (2004), Annex A, the generic cell rate algorithm in its virtual scheduling form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stage2_bridge.client import Congested

# So much may go at once after a pause, in seconds of the rate.
BURST_S = 1.0


class ByteRate:
    """So many bytes a second; what comes earlier waits, in the order in which it came.

    Args:
        bytes_a_second: in the long run; after a pause as many go at once.
        clock: monotonic time in seconds.
    """

    def __init__(self, bytes_a_second: int, clock: Callable[[], float]) -> None:
        self._rate = bytes_a_second
        self._clock = clock
        # When the line would be clear if bytes left it one by one.
        self._clear_at = clock()

    async def take(self, size: int, until: float) -> None:
        """Wait until so many bytes may go.

        Args:
            size: of what is to be sent; more than goes at once goes by itself, and what follows waits for longer.
            until: monotonic time in seconds; who could not send before is told at once.

        Raises:
            Congested: there is no time for it.
        """
        now, takes_s = self._clock(), size / self._rate
        begins = max(now, self._clear_at + min(takes_s, BURST_S) - BURST_S)
        if begins >= until:
            raise Congested(
                f"{self._rate} bytes a second are sent already, and the next may go in {begins - now:.1f} s"
            )
        self._clear_at = max(now, self._clear_at) + takes_s
        if begins <= now:
            return
        try:
            await asyncio.sleep(begins - now)
        except asyncio.CancelledError:
            self._clear_at -= takes_s
            raise
