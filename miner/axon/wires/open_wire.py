"""Opens the wire that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from miner.axon.routes import RouteTable
from miner.axon.settings import WireSettings
from stage1.errors import SettingsError


def open_wire(hotkey: str, settings: WireSettings, *, age_s: Callable[[], float]) -> RouteTable:
    """The table of routes for one hotkey of ours.

    Args:
        hotkey: its ss58 address.
        settings: name the module of the wire.
        age_s: age of this process, in seconds, by a clock that never goes back.

    Raises:
        SettingsError: there is no such module, or it has no routes.
    """
    try:
        module = import_module(settings.module)
    except ImportError as error:
        raise SettingsError(f"wire.module: {settings.module} cannot be imported: {error}") from error
    routes = getattr(module, "routes", None)
    if not callable(routes):
        raise SettingsError(f"wire.module: {settings.module} has no function `routes(hotkey, settings, *, age_s)`")
    return RouteTable(routes(hotkey, settings, age_s=age_s))
