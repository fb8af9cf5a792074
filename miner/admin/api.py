"""An HTTP endpoint on the loopback interface: what is live, look at the store now, roll back.

It answers only requests that name the loopback interface as their host and, if they change something, carry the header
`x-cascade-admin`: a page in a browser on the same machine can send neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engines.errors import PointerNotMoved, StoreError
from engines.live.batcher import Batcher
from engines.live.swap.follower import StoreFollower
from engines.live.swap.status import Status

HEADER = "x-cascade-admin"
LOOPBACK = frozenset({"127.0.0.1", "localhost"})

Handler = Callable[[Request], Awaitable[Response]]


def admin_app(
    follower: StoreFollower,
    batcher: Batcher,
    now: Callable[[], datetime],
    more: Callable[[], Mapping[str, Any]],
) -> Starlette:
    """The application.

    `GET /status`, `POST /reload` and `POST /rollback` answer with the status as JSON; a rollback without a bundle that
    stands by, or while another one went live, is 409, and one that the store could not follow 500.

    Args:
        follower: holds the live bundle.
        batcher: computes with it.
        now: wall-clock time, UTC.
        more: what else a status says, by name: replies by HTTP status, refusals by reason, what is known of the chain.
    """

    def status(code: int = 200, **came_of_it: object) -> Response:
        return JSONResponse({**came_of_it, **described(follower.status(), batcher), **more()}, code)

    async def show(_request: Request) -> Response:
        return status()

    async def reload(_request: Request) -> Response:
        return status(swapped=await follower.reload())

    async def rollback(_request: Request) -> Response:
        try:
            await follower.rollback(now=now())
        except PointerNotMoved as error:
            return status(500, error=str(error))
        except StoreError as error:
            return status(409, error=str(error))
        return status()

    return Starlette(
        routes=[
            Route("/status", guarded(show), methods=["GET"]),
            Route("/reload", guarded(reload), methods=["POST"]),
            Route("/rollback", guarded(rollback), methods=["POST"]),
        ]
    )


def guarded(handler: Handler) -> Handler:
    """A handler that only answers who means to ask it."""

    async def answer(request: Request) -> Response:
        if request.url.hostname not in LOOPBACK:
            return JSONResponse({"error": "ask for 127.0.0.1 or localhost"}, 403)
        if request.method == "POST" and HEADER not in request.headers:
            return JSONResponse({"error": f"a request that changes something needs the header {HEADER}"}, 403)
        return await handler(request)

    return answer


def described(status: Status, batcher: Batcher) -> dict[str, Any]:
    """A status as plain values; of each bundle in the history its state, why it was refused, and seconds by state."""
    plain = {name: value for name, value in vars(status).items() if name != "history"}
    history = [
        {"bundle": life.bundle, "state": str(life.state), "reason": life.reason, "seconds": life.seconds()}
        for life in status.history
    ]
    return plain | {"history": history, "batcher": asdict(batcher.stats)}
