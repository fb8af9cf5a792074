"""An HTTP endpoint on the loopback interface: health, metrics, what is live, look at the store now, roll back.

It answers only requests that name the loopback interface as their host and, if they change something, carry the header
`x-cascade-admin`: a page in a browser on the same machine can send neither.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engines.errors import PointerNotMoved, StoreError
from engines.machine.background_tasks import begun_in_thread
from miner.admin.history import History
from miner.admin.live_miner import LiveMiner
from miner.admin.readiness import conditions
from miner.admin.request_metrics import RequestMetrics
from miner.admin.state_metrics import register_state
from miner.nights.record import Nights

HEADER = "x-cascade-admin"
LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
INDEX = "index.html"
# Longest wait for the disk of a report.
READ_S = 10.0
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Nothing is loaded from elsewhere, and no other page may show this one in a frame.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

REPORT_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
}

Handler = Callable[[Request], Awaitable[Response]]


def admin_app(miner: LiveMiner, measured: RequestMetrics, now: Callable[[], datetime]) -> Starlette:
    """The application.

    `GET /healthz` is 200 while the event loop turns. `GET /readyz` is 200 if every condition of
    `miner.admin.readiness` holds, and 503 otherwise. `GET /metrics` is for Prometheus, as text or as OpenMetrics.
    `GET /status` (also `/status.json`), `POST /reload` and `POST /rollback` answer with the status as JSON; a rollback
    without a bundle that stands by, or while another one went live, is 409, and one that the store could not follow
    500. `GET /` is the status page, with `GET /history.json`, the last 24 hours, a point a minute, and
    `GET /nights/NAME/report.html`, the report of a night.

    Args:
        miner: what is told.
        measured: what is measured; what is read from the miner is added to its registry.
        now: wall-clock time, UTC.
    """
    registry = measured.registry
    register_state(registry, miner)

    async def status(code: int = 200, **came_of_it: object) -> Response:
        await miner.look()
        return JSONResponse({**came_of_it, **miner.status()}, code)

    async def show(_request: Request) -> Response:
        return await status()

    async def health(_request: Request) -> Response:
        return JSONResponse({"alive": True, "state": miner.state})

    async def readiness(_request: Request) -> Response:
        found = conditions(miner)
        ready = all(each.holds for each in found)
        ports = {hotkey: axon.server.port for hotkey, axon in miner.axons.items()}
        told = {"ready": ready, "conditions": [asdict(each) for each in found], "state": miner.state, "ports": ports}
        return JSONResponse(told, 200 if ready else 503)

    async def metrics(request: Request) -> Response:
        await miner.look(store=False)
        return scrape(registry, request.headers.get("accept", ""))

    async def reload(_request: Request) -> Response:
        return await status(swapped=await miner.follower.reload())

    async def rollback(_request: Request) -> Response:
        try:
            await miner.follower.rollback(now=now())
        except PointerNotMoved as error:
            return await status(500, error=str(error))
        except StoreError as error:
            return await status(409, error=str(error))
        return await status()

    return Starlette(
        routes=[
            Route("/", guarded(page), methods=["GET"]),
            Route("/page/{name}", guarded(page), methods=["GET"]),
            Route("/history.json", guarded(told_history(measured.history)), methods=["GET"]),
            Route("/nights/{name}/report.html", guarded(told_report(Nights(Path(miner.state)))), methods=["GET"]),
            Route("/healthz", guarded(health), methods=["GET"]),
            Route("/readyz", guarded(readiness), methods=["GET"]),
            Route("/metrics", guarded(metrics), methods=["GET"]),
            Route("/status", guarded(show), methods=["GET"]),
            Route("/status.json", guarded(show), methods=["GET"]),
            Route("/reload", guarded(reload), methods=["POST"]),
            Route("/rollback", guarded(rollback), methods=["POST"]),
        ]
    )


def told_history(history: History) -> Handler:
    """A handler that answers with the points of the last 24 hours."""

    async def answer(_request: Request) -> Response:
        return JSONResponse(history.columns())

    return answer


def told_report(nights: Nights) -> Handler:
    """A handler that answers with the report of a night, a page that loads nothing and runs no script."""

    def read(name: str) -> bytes | None:
        night = nights.named(name)
        report = None if night is None else night.report
        return None if report is None else report.read_bytes()

    async def answer(request: Request) -> Response:
        try:
            async with asyncio.timeout(READ_S):
                content = await begun_in_thread(partial(read, request.path_params["name"]), "report")
        except OSError:
            content = None
        if content is None:
            return JSONResponse({"error": "this night has no report, or it was removed with its run"}, 404)
        return Response(content, media_type="text/html", headers=PAGE_HEADERS | REPORT_HEADERS)

    return answer


async def page(request: Request) -> Response:
    """The status page, or a file that it is made of."""
    name = request.path_params.get("name", INDEX)
    kind = KINDS.get(Path(name).suffix)
    content = None
    if kind is not None and "/" not in name:
        content = await begun_in_thread(partial(_page_file, name), "page")
    if content is None:
        return JSONResponse({"error": "there is no such page"}, 404)
    return Response(content, media_type=kind, headers=PAGE_HEADERS)


def _page_file(name: str) -> bytes | None:
    found = files("miner.admin") / "page" / name
    return found.read_bytes() if found.is_file() else None


def scrape(registry: CollectorRegistry, accept: str) -> Response:
    """All metrics, in the format that is asked for; as text where that is none."""
    try:
        encode, kind = choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is no number.
        encode, kind = choose_encoder("")
    return Response(encode(registry), headers={"content-type": kind})


def guarded(handler: Handler) -> Handler:
    """A handler that only answers who means to ask it."""

    async def answer(request: Request) -> Response:
        # Not the host of the URL: what is no host to a library would there be the address that was connected to.
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not LOOPBACK.fullmatch(hosts[0]):
            return JSONResponse({"error": "ask for 127.0.0.1 or localhost"}, 403)
        if request.method == "POST" and HEADER not in request.headers:
            return JSONResponse({"error": f"a request that changes something needs the header {HEADER}"}, 403)
        return await handler(request)

    return answer
