"""The Stage-2 servers: whether each answers, and whether its scores are calibrated."""

from __future__ import annotations

from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.settings import MinerSettings
from stage2_bridge.calibration.live import Calibrations, CalibrationStatus
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.inspection import inspected

ASK_S = 10.0


async def stage2(settings: MinerSettings) -> list[Finding]:
    """Whether each server answers, and whether its scores are calibrated; nothing where none is named."""
    found = await inspected(settings.stage2, black_image(), ASK_S)
    told = [
        error("stage2", f"{one.name}: {one.in_words}", "`cascade stage2 check` says more")
        if one.failed
        else ok("stage2", f"{one.name}: {one.in_words}")
        for one in found
    ]
    # An engine has a calibrator of its own.
    scored = [one.name for one in found if one.kind != "engine"]
    return [*told, *map(_calibration, Calibrations(settings.store).status(scored))]


def _calibration(status: CalibrationStatus) -> Finding:
    if status.state == "none":
        todo = "`cascade stage2 evaluate` calibrates them and says what the server is worth"
        return warning("stage2", f"{status.server}: its scores are taken as they are", todo)
    told = (
        f"{status.server}: calibrated on {status.calibrated_on} at {status.evaluated_at}, with bundle {status.bundle}"
    )
    return ok("stage2", told)
