"""The way to Stage-2, which always comes back before the deadline."""

from typing import TYPE_CHECKING

from stage1.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from stage2_bridge.bridge import Bridge
    from stage2_bridge.client import Outcome, Stage2Client, Stage2Error, Verdict
    from stage2_bridge.servers.open_server import open_server
    from stage2_bridge.settings import Stage2Settings

__all__ = [
    "Bridge",
    "Outcome",
    "Stage2Client",
    "Stage2Error",
    "Stage2Settings",
    "Verdict",
    "open_server",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "Bridge": "stage2_bridge.bridge",
            "Outcome": "stage2_bridge.client",
            "Stage2Client": "stage2_bridge.client",
            "Stage2Error": "stage2_bridge.client",
            "Stage2Settings": "stage2_bridge.settings",
            "Verdict": "stage2_bridge.client",
            "open_server": "stage2_bridge.servers.open_server",
        },
    )
