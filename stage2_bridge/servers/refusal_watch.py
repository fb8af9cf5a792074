"""Tells a server that refuses some images from one that refuses all."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import structlog

from engines.errors import EngineError, RemoteError
from stage2_bridge.client import REFUSED, ImageRefused, ServerIdentity, Stage2Error
from stage2_bridge.protection.breaker import FEWEST_CALLS
from stage2_bridge.sample_image import noise_image
from stage2_bridge.servers.member import Checked, Probed

log = structlog.get_logger(__name__)

# Between two images of ours, so that refused ones cost a server hardly more than they do.
AGAIN_S = 5.0
# Less is left of a refused image's time than an answer takes.
LEAST_S = 0.1


class RefusalWatch:
    """A client that looks into refusals: after so many in a row the server is asked about an image that is known good.

    A refusal is the fault of an image that a caller chose, and has nobody leave the server alone. One that refuses the
    good image too, because of a wrong setting or a broken model, would be asked for ever: from then on until it answers
    its refusals are failures of its own.

    Args:
        client: asks the server.
        clock: monotonic time in seconds.
        most: refusals in a row before the server is asked about the good image.
        is_paid: whether there is a call's worth for that, which is spent then.
    """

    def __init__(
        self,
        client: Checked,
        clock: Callable[[], float],
        *,
        most: int = FEWEST_CALLS,
        is_paid: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._most = most
        self._is_paid = is_paid
        self._refused = 0
        self._asked_at = -math.inf
        self._refuses_all = False

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return self._client.name

    async def ask(self, content: bytes, timeout_s: float) -> float:
        """See `Stage2Client.ask`.

        Raises:
            RemoteError: as of the client.
            ImageRefused: the server refuses this image.
            Stage2Error: it refuses all.
        """
        until = self._clock() + timeout_s
        try:
            found = await self._client.ask(content, timeout_s)
        except (ImageRefused, RemoteError) as error:
            if isinstance(error, RemoteError) and error.status not in REFUSED:
                raise
            self._refused += 1
            if self._refused >= self._most:
                await self._look(until)
            if self._refuses_all:
                raise Stage2Error(f"it refuses every image, one that is known good as well: {error}") from error
            raise
        self._refused, self._refuses_all = 0, False
        return found

    async def check(self, timeout_s: float) -> str:
        """See `Checked.check`."""
        return await self._client.check(timeout_s)

    async def identity(self, timeout_s: float) -> ServerIdentity:
        """See `Checked.identity`."""
        return await self._client.identity(timeout_s)

    async def probe(self, timeout_s: float) -> None:
        """See `Probed.probe`; nothing where the client knows none."""
        if isinstance(self._client, Probed):
            await self._client.probe(timeout_s)

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await self._client.close()

    async def _look(self, until: float) -> None:
        now, asked_at = self._clock(), self._asked_at
        if until - now < LEAST_S or now - asked_at < AGAIN_S:
            return
        # Before it is paid for, which waits for a disk: of images that are refused together one is looked into.
        self._asked_at = now
        if self._is_paid is not None and not await self._is_paid():
            self._asked_at = asked_at
            return
        if (left_s := until - self._clock()) < LEAST_S:
            return
        before = self._refuses_all
        try:
            await self._client.ask(noise_image(), left_s)
        except ImageRefused as error:
            self._refuses_all, told = True, str(error)
        except RemoteError as error:
            if error.status not in REFUSED:
                return
            self._refuses_all, told = True, str(error)
        except (EngineError, Stage2Error):
            return
        else:
            self._refused, self._refuses_all = 0, False
            return
        if not before:
            log.warning("stage2_server_refuses_all", server=self.name, reason=told, remedy="see `cascade stage2 check`")
