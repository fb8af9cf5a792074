"""Compile, store, load and hot-swap Stage-1 engines."""

from typing import TYPE_CHECKING

from stage1.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from engines.backends.registry import check_available, compile_engine, open_engine
    from engines.engine import Engine, EngineDescription
    from engines.errors import BundleRefused, EngineError
    from engines.live.batcher import Batcher
    from engines.live.load.load_bundle import LiveBundle, load_bundle
    from engines.live.slot import BundleSlot
    from engines.live.swap.follower import StoreFollower
    from engines.spec import REFERENCE, EngineSpec
    from engines.store.bundle import Manifest
    from engines.store.store import Store

__all__ = [
    "REFERENCE",
    "Batcher",
    "BundleRefused",
    "BundleSlot",
    "Engine",
    "EngineDescription",
    "EngineError",
    "EngineSpec",
    "LiveBundle",
    "Manifest",
    "Store",
    "StoreFollower",
    "check_available",
    "compile_engine",
    "load_bundle",
    "open_engine",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "Batcher": "engines.live.batcher",
            "BundleRefused": "engines.errors",
            "BundleSlot": "engines.live.slot",
            "Engine": "engines.engine",
            "EngineDescription": "engines.engine",
            "EngineError": "engines.errors",
            "EngineSpec": "engines.spec",
            "LiveBundle": "engines.live.load.load_bundle",
            "Manifest": "engines.store.bundle",
            "REFERENCE": "engines.spec",
            "Store": "engines.store.store",
            "StoreFollower": "engines.live.swap.follower",
            "check_available": "engines.backends.registry",
            "compile_engine": "engines.backends.registry",
            "load_bundle": "engines.live.load.load_bundle",
            "open_engine": "engines.backends.registry",
        },
    )
