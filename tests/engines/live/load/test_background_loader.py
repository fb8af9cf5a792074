"""What the loader's threads do that nobody waits for."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from engines.live.load.background_loader import BundleLoader, EngineOptions
from engines.live.settings import SwapSettings
from engines.live.slot import BundleSlot


def fails() -> None:
    raise RuntimeError("a fault of native code")


def test_a_bundle_that_cannot_be_closed_is_in_the_log_once_and_the_next_one_is_closed() -> None:
    closed: list[str] = []

    async def scenario() -> None:
        loader = BundleLoader(BundleSlot(), SwapSettings(), EngineOptions(), on_taken=lambda _: None)
        loader.dispose(fails)
        loader.dispose(lambda: closed.append("next"))
        await loader.close()
        # The last loan of a bundle may end after the loader.
        loader.dispose(lambda: closed.append("last"))

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert closed == ["next", "last"]
    assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("close_failed", True)]
