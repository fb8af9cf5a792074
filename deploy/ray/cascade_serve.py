"""Stage-1 on Ray Serve: bundles of a store by the Open Inference Protocol, batched, on as many replicas as needed.

    pip install 'ray[serve]' streetvision-cascade
    python deploy/ray/cascade_serve.py --store /srv/engines --port 8000 --most-replicas 4
    serve deploy deploy/ray/cascade_serve.yaml

Every replica reads the store, loads what becomes current by itself, and checks a bundle as a miner does before it
serves it. A miner names the address in `engine.remote`; see docs/remote.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from starlette.applications import Starlette

from engines.batches import BUCKETS
from engines.live.remote.store_model import StoreModel
from engines.remote.bundle_version import MODEL
from engines.remote.protocol_app import Arrays, protocol_app
from engines.spec import EngineSpec
from stage1.preprocess import Pixels

# A request waits so long for others, as `engine.batch.max_delay_s` of a miner.
WAIT_S = 0.002


class Settings(BaseModel):
    """How bundles are served.

    Attributes:
        store: directory of bundles, on every node.
        model: name of the model.
        spec: another engine than the one that bundles were certified on, if their golden images agree.
        threads: CPU threads of an engine.
        max_batch: images of the largest batch: of a request, and of requests that share an engine call.
        least_replicas: that always run.
        most_replicas: that run at most.
        ongoing: requests of a replica that more replicas are wished for.
        cpus: of a replica, as Ray counts them.
        gpus: of a replica, as Ray counts them; a part of one, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: Path
    model: str = MODEL
    spec: EngineSpec | None = None
    threads: int | None = Field(default=None, ge=1)
    max_batch: int = Field(default=BUCKETS[-1], ge=1)
    least_replicas: int = Field(default=1, ge=1)
    most_replicas: int = Field(default=1, ge=1)
    ongoing: float = Field(default=4.0, gt=0)
    cpus: float = Field(default=1.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)


def images_of(asked: Sequence[tuple[str, Pixels]]) -> int:
    """Images of several requests: as many as the largest batch of an engine has are computed at a time."""
    return sum(len(images) for _, images in asked)


class BatchedModel(StoreModel):
    """Bundles whose requests share engine calls, one bundle a call.

    Args:
        settings: of them.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings.store,
            name=settings.model,
            spec=settings.spec,
            threads=settings.threads,
            max_batch=settings.max_batch,
        )
        # Before the first request: Ray makes the queue with what is set by then.
        self._shared.set_max_batch_size(settings.max_batch)

    async def infer(self, version: str, images: Pixels) -> Arrays:
        """See `ServedModel.infer`."""
        found: Arrays | Exception = await self._shared((version, images))
        if isinstance(found, Exception):
            raise found
        return found

    @serve.batch(max_batch_size=BUCKETS[-1], batch_wait_timeout_s=WAIT_S, batch_size_fn=images_of)  # type: ignore[untyped-decorator]
    async def _shared(self, asked: list[tuple[str, Pixels]]) -> list[Arrays | Exception]:
        """The outputs of each of several requests, or why there are none; one bundle's failure is not another's."""
        found: list[Arrays | Exception] = [RuntimeError("not computed")] * len(asked)
        for version in {version for version, _ in asked}:
            places = [place for place, (wanted, _) in enumerate(asked) if wanted == version]
            batches = [asked[place][1] for place in places]
            ends = np.cumsum([len(batch) for batch in batches])
            try:
                outputs = await asyncio.to_thread(self.compute, version, np.concatenate(batches))
            except Exception as error:  # noqa: BLE001  whoever asked hears of it
                for place in places:
                    found[place] = error
                continue
            for place, end, batch in zip(places, ends, batches, strict=True):
                found[place] = {name: values[end - len(batch) : end] for name, values in outputs.items()}
        return found


def replica(settings: Settings) -> Starlette:
    """The application of one replica; it loads the current bundle before it answers."""
    model = BatchedModel(settings)

    @asynccontextmanager
    async def following(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(model.follow())
        try:
            yield
        finally:
            task.cancel()
            model.close()

    served = protocol_app(model)
    served.router.lifespan_context = following
    return served


def app(args: dict[str, Any]) -> Application:
    """The application, as `serve deploy` and a RayService build it.

    Args:
        args: values of `Settings`.
    """
    settings = Settings.model_validate(args)

    # Ray takes whatever else can be called for an application.
    def build() -> Starlette:
        return replica(settings)

    deployment = serve.deployment(
        name=settings.model,
        # With fewer a batch of single images would never be full.
        max_ongoing_requests=max(settings.max_batch, int(4 * settings.ongoing)),
        autoscaling_config={
            "min_replicas": settings.least_replicas,
            "max_replicas": max(settings.least_replicas, settings.most_replicas),
            "target_ongoing_requests": settings.ongoing,
        },
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        health_check_period_s=5,
    )
    return deployment(serve.ingress(build)()).bind()


def main() -> None:
    """Serve on this machine until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="directory of bundles")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default=MODEL, help="name of the model")
    parser.add_argument("--spec", type=json.loads, help="another engine, as JSON: backend, precision, device")
    parser.add_argument("--threads", type=int, help="CPU threads of an engine")
    parser.add_argument("--max-batch", type=int, default=BUCKETS[-1], help="images of an engine call at most")
    parser.add_argument("--least-replicas", type=int, default=1)
    parser.add_argument("--most-replicas", type=int, default=1)
    parser.add_argument("--ongoing", type=float, default=4.0, help="requests of a replica before there are more")
    parser.add_argument("--cpus", type=float, default=1.0, help="of a replica")
    parser.add_argument("--gpus", type=float, default=0.0, help="of a replica")
    asked = vars(parser.parse_args())
    host, port = asked.pop("host"), asked.pop("port")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Ray runs replicas at nice 15 by default, and a busy machine starves them; it reads this when it starts.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=True)
    serve.start(http_options={"host": host, "port": port})
    serve.run(app({**asked, "store": asked["store"].resolve()}), name=asked["model"], route_prefix="/")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
