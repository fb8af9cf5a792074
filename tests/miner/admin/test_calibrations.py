"""What the administrator is told of the calibration of Stage-2 servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from miner.admin.live_miner import LiveMiner
from miner.admin.state_metrics import stage2
from stage2_bridge.bridge import Bridge
from stage2_bridge.calibration.live import Calibrations
from stage2_bridge.client import ServerStatus, Stage2Error
from tests.stage2_bridge.calibration.test_live import Timid, kept
from tests.stage2_bridge.calibration.test_record import SERVER, record


class Several(Timid):
    """One server that answers for several."""

    servers = (ServerStatus("yolo", "closed", 0), ServerStatus("vlm", "closed", 0))
    hedges: dict[str, int] = {}  # noqa: RUF012
    budget = None

    async def ask_one(self, server: str, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        raise Stage2Error("nobody asks")

    async def probe(self) -> None:
        pass


@pytest.fixture
def miner(tmp_path: Path) -> Iterator[LiveMiner]:
    kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    calibrations.learn({"yolo": replace(SERVER, version="2", fingerprint="def")})
    nothing: Any = None
    bridge = Bridge(cast("Any", Several()), max_in_flight=1, clock=lambda: 0.0)
    yield LiveMiner(
        state="/state",
        axons={},
        follower=nothing,
        batcher=nothing,
        bridge=bridge,
        replies={},
        auth_modes={},
        tallies={},
        chain=dict,
        nightly=dict,
        alerts=dict,
        stopping=lambda: False,
        now=nothing,
        calibrations=calibrations,
    )
    asyncio.run(bridge.close())


def test_a_stale_calibration_is_in_the_status_and_in_the_metrics(miner: LiveMiner) -> None:
    yolo, vlm = miner.stage2_calibrations()
    assert (yolo.server, yolo.state, yolo.model, yolo.calibrated_on) == ("yolo", "stale", "yolox 2", "yolox 1")
    assert (vlm.server, vlm.state, vlm.applied) == ("vlm", "none", False)
    [told] = [metric for metric in stage2(miner) if metric.name == "cascade_stage2_calibration_state"]
    found = {(one.labels["server"], one.labels["state"]): one.value for one in told.samples}
    assert found == {("yolo", "stale"): 1, ("vlm", "none"): 1}
