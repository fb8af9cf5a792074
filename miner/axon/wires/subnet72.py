"""The wire of subnet 72: dendrites ask `POST /ImageSynapse`, and whoever has bittensor 11 may sign by `btauth/1`."""

from __future__ import annotations

import math
from collections.abc import Callable

from miner.axon.routes import Route
from miner.axon.settings import WireSettings
from miner.axon.wires.btauth_protocol import BtauthProtocol
from miner.axon.wires.image_codecs import ImageInJson, ImageItself
from miner.axon.wires.legacy_protocol import LegacyProtocol

SYNAPSE = "ImageSynapse"


def routes(
    hotkey: str, settings: WireSettings | None = None, *, age_s: Callable[[], float] = lambda: math.inf
) -> tuple[Route, ...]:
    """The rows of this wire for one hotkey of ours.

    Args:
        hotkey: its ss58 address.
        settings: which requests count as fresh, and where `btauth/1` is spoken.
        age_s: age of this process, in seconds.
    """
    settings = settings or WireSettings()
    legacy = LegacyProtocol(hotkey, SYNAPSE, settings, age_s=age_s)
    rows = (Route(f"/{SYNAPSE}", ImageInJson(), legacy, settings.timeout_cap_s),)
    if not settings.btauth_path:
        return rows
    codec = ImageItself() if settings.btauth_body == "image" else ImageInJson()
    btauth = BtauthProtocol(hotkey, settings, age_s=age_s)
    # First: where a request speaks both protocols, the proof that covers the body counts.
    return (Route(settings.btauth_path, codec, btauth, settings.btauth_waits_s), *rows)
