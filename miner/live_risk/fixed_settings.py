"""Settings of the watch that a running one keeps: a statistic whose terms change in the middle promises nothing."""

from __future__ import annotations

from miner.live_risk.settings import LiveRiskSettings
from stage1.errors import SettingsError

# What is drawn, and how it is counted.
STATISTICS = ("shares", "test", "adaptation")


def check_change(before: LiveRiskSettings, after: LiveRiskSettings) -> None:
    """Refuse a change that a running watch cannot take over.

    Raises:
        SettingsError: it is one; says what to do.
    """
    if after.enabled != before.enabled:
        raise SettingsError("live_risk.enabled: the watch begins and ends with the miner; restart it")
    changed = [f"live_risk.{name}" for name in STATISTICS if getattr(after, name) != getattr(before, name)]
    if changed:
        raise SettingsError(
            f"{', '.join(changed)}: the audits of a live certificate are drawn and counted as they began; restart the "
            "miner, and its log of audits says from which one on the shares are others; the tests stay until another "
            "certificate is live"
        )
