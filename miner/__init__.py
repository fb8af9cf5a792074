"""The live miner: axon, cascade, nightly job, command line."""

from typing import TYPE_CHECKING

from stage1.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from miner.answering.cascade import Cascade
    from miner.answering.record import Observer, RequestRecord
    from miner.answering.request import Prediction, Request
    from miner.errors import MinerError
    from miner.process import run_miner
    from miner.settings import MinerSettings, load_settings

__all__ = [
    "Cascade",
    "MinerError",
    "MinerSettings",
    "Observer",
    "Prediction",
    "Request",
    "RequestRecord",
    "load_settings",
    "run_miner",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "Cascade": "miner.answering.cascade",
            "MinerError": "miner.errors",
            "MinerSettings": "miner.settings",
            "Observer": "miner.answering.record",
            "Prediction": "miner.answering.request",
            "Request": "miner.answering.request",
            "RequestRecord": "miner.answering.record",
            "load_settings": "miner.settings",
            "run_miner": "miner.process",
        },
    )
