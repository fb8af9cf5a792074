"""The administrator's endpoint, over a real socket."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from starlette.requests import Request
from starlette.responses import Response
from structlog.testing import capture_logs

from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.settings import BatchSettings, SwapSettings
from engines.live.swap.follower import StoreFollower
from engines.machine.nvml.health import GpuHealth, GpuState, Xid
from engines.machine.tally import Tally
from engines.store.records import VERDICTS, VerdictEntry
from engines.store.store import Store
from miner.admin.api import HEADER, Handler, admin_app, guarded
from miner.admin.history import History
from miner.admin.live_miner import Axon, LiveMiner
from miner.admin.request_metrics import RequestMetrics
from miner.admin.state_metrics import stage1
from miner.answering.record import RequestRecord
from miner.axon.server import AxonServer
from miner.axon.settings import AxonSettings
from miner.nights.record import VERDICT, Nights, NightVerdict, noted
from stage1.decisions import Action
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[[str], str]


OURS = "5Ours"
ROOT = Path(__file__).parents[3]
PAGE, EXAMPLES = ROOT / "docs/metrics.md", ROOT / "deploy/prometheus"


@dataclass
class Parts:
    """What a miner is besides its bundle, as a test wants it."""

    port: int = 8091
    accepting: bool = True
    connections: int = 1
    stopping: bool = False
    gpus: GpuHealth | None = None
    chain: dict[str, Any] = field(
        default_factory=lambda: {
            "block": 7,
            "neurons": 2,
            "fetched_at": 1.7e9,
            "age_s": 5.0,
            "fresh": True,
            "failures": 0,
            "failures_total": 0,
            "registered": {OURS: True},
        }
    )
    nightly: dict[str, Any] = field(
        default_factory=lambda: {
            "running": False,
            "started_at": "2026-01-01T03:30:00+00:00",
            "ended_at": "2026-01-01T04:30:00+00:00",
            "last_success": None,
            "next_at": "2026-01-02T03:30:00+00:00",
            "outcome": "failed",
            "outcomes": {"failed": 1},
            "verdict": "KEEP",
            "failures_in_a_row": 2,
        }
    )


@dataclass(frozen=True)
class Endpoint:
    """Where it listens, and what is behind it."""

    port: int
    miner: LiveMiner
    parts: Parts
    metrics: RequestMetrics


@asynccontextmanager
async def endpoint(store: Store, state: str = "/state") -> AsyncIterator[Endpoint]:
    follower = StoreFollower(store, settings=SwapSettings(trial=False), options=EngineOptions(threads=1, most=1))
    batcher = Batcher(BatchSettings())
    await follower.start()
    parts = Parts()
    live = LiveMiner(
        state=state,
        axons={OURS: Axon(parts, lambda: 2)},
        follower=follower,
        batcher=batcher,
        bridge=Bridge(None, max_in_flight=1, clock=time.monotonic),
        replies={(OURS, 200): 3, (OURS, 403): 1},
        auth_modes={"legacy": 3},
        tallies={name: Tally(name) for name in ("refused", "degraded", "journal_failed")},
        chain=lambda: parts.chain,
        nightly=lambda: parts.nightly,
        alerts=dict,
        stopping=lambda: parts.stopping,
        now=lambda: NOW,
        gpus=lambda: parts.gpus,
    )
    metrics = RequestMetrics(CollectorRegistry(), History(lambda: 0))
    app = admin_app(live, metrics, lambda: NOW)
    server = AxonServer(app, AxonSettings(host="127.0.0.1", port=0), name="admin")
    await server.start()
    try:
        yield Endpoint(server.port, live, parts, metrics)
    finally:
        await server.stop(1)
        await follower.close()
        batcher.close()


async def raw(port: int, method: str, path: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = {"host": f"127.0.0.1:{port}", "connection": "close", "content-length": "0"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, body = answer.split("\r\n\r\n", 1)
    kind = next((line for line in head.splitlines() if line.startswith("content-type: ")), "")
    return int(answer.split()[1]), kind.removeprefix("content-type: "), body


async def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    code, _, body = await raw(port, method, path, **headers)
    return code, json.loads(body) if body.startswith("{") else {}


async def scraped(port: int, accept: str = "") -> dict[str, Metric]:
    """Families by name, as Prometheus's own parser reads them."""
    code, kind, body = await raw(port, "GET", "/metrics", **({"accept": accept} if accept else {}))
    assert (code, kind.startswith(accept or "text/plain; version=")) == (200, True)
    parse = openmetrics_families if accept else text_families
    return {family.name: family for family in parse(body)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float | None:
    samples = [sample for family in families.values() for sample in family.samples]
    found = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
    return found[0] if found else None


def rows_of(page: Path) -> list[list[str]]:
    """Name, type, labels and meaning of every metric in the tables of a page."""
    lines = [line for line in page.read_text().splitlines() if re.match(r"\| `(cascade|process|python)_", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def described(family: Metric) -> tuple[str, ...]:
    """The row of a metric."""
    name = family.name + ("_total" if family.type == "counter" else "")
    labels: tuple[str, ...] = getattr(family, "_labelnames", ())
    labels = labels or tuple(dict.fromkeys(label for s in family.samples for label in s.labels if label != "le"))
    return f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation


def test_it_tells_reloads_and_rolls_back(store: Store, publish: Publish) -> None:
    async def scenario() -> None:
        first = publish("a")
        async with endpoint(store) as opened:
            port = opened.port
            code, told = await ask(port, "GET", "/status")
            assert (code, told["bundle"], told["generation"]) == (200, first, 1)
            assert told["engine"].startswith("onnxruntime")
            assert (told["policy"], told["stream"]) == ("CERTIFIED", "mixture")
            assert told["history"][0]["state"] == "active"
            assert told["batcher"]["images"] == 0
            assert told["verdict"] is None
            assert told["model_age_days"] == 0
            # The page shows the age of a new bundle in minutes.
            later = replace(opened.miner, now=lambda: NOW + timedelta(minutes=5)).status()
            assert later["model_age_days"] * 24 * 60 == pytest.approx(5, abs=0.1)
            said = {"verdict": "KEEP", "reasons": ("it is no better",), "notes": ("it defers every image",)}
            store.judged(VerdictEntry.model_validate({"bundle": first, "at": "2026-01-01", **said}))
            told = (await ask(port, "GET", "/status"))[1]
            assert {name: told["verdict"][name] for name in said} == {
                "verdict": "KEEP",
                "reasons": ["it is no better"],
                "notes": ["it defers every image"],
            }
            (store.root / VERDICTS).write_text('{"bundle": 1}\n')
            assert (await ask(port, "GET", "/status"))[1]["verdict"] is None
            assert (await ask(port, "POST", "/rollback", x_cascade_admin="1"))[0] == 409
            second = publish("b")
            code, told = await ask(port, "POST", "/reload", x_cascade_admin="1")
            assert (code, told["swapped"], told["bundle"], told["standby"]) == (200, True, second, first)
            code, told = await ask(port, "POST", "/rollback", x_cascade_admin="1")
            assert (code, told["bundle"], told["generation"]) == (200, first, 3)
            pointer = store.current()
            assert pointer is not None
            assert pointer.bundle == first
            # No night makes it current again.
            assert set(store.rejected()) == {second}

    asyncio.run(scenario())


def test_a_page_in_a_browser_can_neither_look_nor_act(store: Store, publish: Publish) -> None:
    async def scenario() -> None:
        publish("a")
        async with endpoint(store) as opened:
            port = opened.port
            code, told = await ask(port, "POST", "/reload")
            assert (code, HEADER in told["error"]) == (403, True)
            assert (await ask(port, "GET", "/status", host=f"evil.example:{port}"))[0] == 403
            assert (await ask(port, "GET", "/reload", x_cascade_admin="1"))[0] == 405
            assert (await ask(port, "GET", "/nowhere", x_cascade_admin="1"))[0] == 404

    asyncio.run(scenario())


def test_the_status_tells_of_each_hotkey_the_chain_stage2_and_the_night(store: Store, publish: Publish) -> None:
    async def scenario() -> None:
        publish("a")
        async with endpoint(store) as opened:
            _, told = await ask(opened.port, "GET", "/status.json")
            assert told == (await ask(opened.port, "GET", "/status"))[1]
            assert told["replies"] == {OURS: {"200": 3, "403": 1}}
            assert told["axons"] == {OURS: {"port": 8091, "accepting": True, "connections": 1, "in_flight": 2}}
            assert (told["chain"]["block"], told["nightly"]["outcome"]) == (7, "failed")
            counted: dict[str, Any] = {"outcomes": {}, "cached": {}, "failures": {}, "hedges": {}}
            assert told["stage2"] == {"in_flight": 0, "waiting": 0, "most": 0, "servers": [], "budget": None, **counted}

    asyncio.run(scenario())


def test_the_report_of_a_night_is_a_page_that_runs_nothing(store: Store, publish: Publish, tmp_path: Path) -> None:
    async def scenario() -> None:
        publish("a")
        async with endpoint(store, str(tmp_path)) as opened:
            nights = Nights(tmp_path)
            home, other = nights.begin(NOW), nights.begin(NOW + timedelta(days=1))
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "report.html").write_text("<h1>KEEP</h1>")
            for night, run in ((home, tmp_path / "run"), (other, tmp_path / "removed")):
                NightVerdict(at=NOW, bundle="b", verdict="KEEP", run=str(run)).write(night / VERDICT)
                noted(night, outcome="done", ended_at=NOW)
            told = [night.plain()["report"] for night in nights.all()]
            assert told == [f"nights/{home.name}/report.html", None]
            code, kind, body = await raw(opened.port, "GET", f"/{told[0]}")
            assert (code, kind.partition(";")[0], body) == (200, "text/html", "<h1>KEEP</h1>")
            for path in (
                f"/nights/{other.name}/report.html",
                "/nights/..%2f..%2fetc/report.html",
                "/nights/x/report.html",
            ):
                assert (await ask(opened.port, "GET", path))[0] == 404
            assert (await ask(opened.port, "GET", f"/{told[0]}", host="evil.example"))[0] == 403

    asyncio.run(scenario())


class TestReadiness:
    def test_it_is_computed_at_each_call_and_names_what_fails(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with endpoint(store) as opened:

                async def failing() -> tuple[int, list[str]]:
                    code, told = await ask(opened.port, "GET", "/readyz")
                    assert told["ready"] == (code == 200)
                    assert all(each["detail"] for each in told["conditions"])
                    return code, [each["name"] for each in told["conditions"] if not each["holds"]]

                parts, chain = opened.parts, opened.parts.chain
                assert await failing() == (200, [])
                parts.accepting = False
                assert await failing() == (503, ["axon"])
                parts.accepting, parts.stopping = True, True
                assert await failing() == (503, ["not_stopping"])
                parts.stopping, chain["fresh"] = False, False
                assert await failing() == (503, ["metagraph"])
                chain |= {"fresh": True, "registered": {OURS: False, "5Second": True}}
                assert await failing() == (200, [])
                chain["registered"] = {OURS: False, "5Second": False}
                assert await failing() == (503, ["registered"])
                parts.chain = {}
                assert await failing() == (503, ["metagraph", "registered"])
                parts.chain = chain | {"registered": {OURS: True}}
                opened.miner.batcher.close()
                assert await failing() == (503, ["stage1"])
                opened.miner.follower.slot.close()
                assert await failing() == (503, ["bundle", "stage1"])
                # The process is alive all the same, and nobody restarts it.
                assert await ask(opened.port, "GET", "/healthz") == (200, {"alive": True, "state": "/state"})

        asyncio.run(scenario())


class TestMetrics:
    def test_a_scrape_does_not_wait_for_the_disk_of_the_store(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            publish("a")
            async with endpoint(store) as opened:
                read = Mock(return_value=None)
                monkeypatch.setattr(Store, "last_verdict", read)
                assert (await raw(opened.port, "GET", "/metrics"))[0] == 200
                read.assert_not_called()

        asyncio.run(scenario())

    def test_both_formats_are_read_by_prometheus_own_parser(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            bundle = publish("a")
            async with endpoint(store) as opened:
                for accept in ("", "application/openmetrics-text"):
                    families = await scraped(opened.port, accept)
                    assert value(families, "cascade_requests_total", hotkey=OURS, status="200") == 3
                    assert value(families, "cascade_bundle_generation") == 1
                    [info] = families["cascade_bundle_info"].samples
                    assert (info.labels["bundle"], info.labels["policy"]) == (bundle, "CERTIFIED")
                    assert value(families, "cascade_bundle_created_timestamp_seconds") == NOW.timestamp()
                    with opened.miner.follower.slot.lease() as lease:
                        params = lease.bundle.params
                    assert params.exit_coverage is not None
                    assert value(families, "cascade_certificate_risk_limit_ratio") == params.alpha
                    coverage = "cascade_calibration_exit_coverage_ratio"
                    assert value(families, coverage, estimate="lower") == params.exit_coverage.lower
                    assert value(families, "cascade_nightly_runs_total", outcome="failed") == 1
                    assert value(families, "cascade_nightly_last_success_timestamp_seconds") is None
                    assert value(families, "cascade_nightly_last_verdict", verdict="KEEP") == 1
                    assert value(families, "cascade_nightly_failures_in_a_row") == 2
                    assert value(families, "cascade_ready", condition="axon") == 1
                    assert (value(families, "process_resident_memory_bytes") or 0) > 1e6
                    assert (value(families, "cascade_process_threads") or 0) > 1

        asyncio.run(scenario())

    def test_an_accept_header_that_makes_no_sense_is_answered_with_text(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with endpoint(store) as opened:
                for accept in (
                    "application/openmetrics-text; version=abc",
                    "text/plain;version=1.x",
                    ";;,=",
                    "image/png",
                ):
                    code, kind, _ = await raw(opened.port, "GET", "/metrics", accept=accept)
                    assert (code, kind.partition(";")[0]) == (200, "text/plain")

        asyncio.run(scenario())

    def test_an_answer_is_counted_by_how_it_came_about(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with endpoint(store) as opened:
                known: dict[str, Any] = {"request_id": "1", "at": NOW, "hotkey": "5Stranger", "answer": 0.7}
                deferred = {"action": Action.DEFER, "level": "UNSURE", "stage2": Outcome.ANSWERED}
                times = {"stage1_ms": 30.0, "stage2_ms": 6800.0, "total_ms": 6900.0}
                opened.metrics.on_answer(RequestRecord(result="answered", **known, **deferred, **times))
                opened.metrics.on_answer(RequestRecord(result="not_an_image", total_ms=1.0, **known))
                opened.metrics.on_reply(OURS, 200, 6.9)
                opened.metrics.on_reply(OURS, 403, 0.001)
                families = await scraped(opened.port)
                labels = {"result": "answered", "action": "DEFER", "decision": "UNSURE", "stage2": "answered"}
                assert value(families, "cascade_answers_total", **labels) == 1
                labels = dict.fromkeys(labels, "") | {"result": "not_an_image"}
                assert value(families, "cascade_answers_total", **labels) == 1
                stage2 = "cascade_stage2_duration_seconds_bucket"
                assert [value(families, stage2, le=le) for le in ("6.75", "7.0", "9.0")] == [0, 1, 1]
                assert value(families, "cascade_stage1_duration_seconds_sum") == 0.03
                # A refusal takes no time, and would hide how long answers take.
                assert value(families, "cascade_request_duration_seconds_count", hotkey=OURS) == 1
                _, _, body = await raw(opened.port, "GET", "/metrics")
                assert "5Stranger" not in body

        asyncio.run(scenario())

    def test_a_part_that_cannot_be_read_costs_the_others_nothing(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with endpoint(store) as opened:
                whole = await scraped(opened.port)
                assert value(whole, "cascade_scrape_failures_total", part="chain") is None
                opened.parts.chain = {}
                with capture_logs() as logs:
                    families = await scraped(opened.port)
                    await scraped(opened.port)
                lost = {"cascade_chain_block", "cascade_metagraph_neurons", "cascade_chain_failures"}
                lost |= {"cascade_metagraph_read_timestamp_seconds", "cascade_hotkey_registered"}
                assert whole.keys() - families.keys() == lost
                assert value(families, "cascade_scrape_failures_total", part="chain") == 1
                assert value(families, "cascade_ready", condition="metagraph") == 0
                told = [entry for entry in logs if entry["event"] == "scrape_failed"]
                assert [(entry["reason"], entry["log_level"]) for entry in told] == [("chain", "warning")]

        asyncio.run(scenario())

    def test_the_page_names_every_metric_and_no_other(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with endpoint(store) as opened:
                opened.metrics.on_reply(OURS, 200, 1.0)
                known: dict[str, Any] = {"request_id": "1", "at": NOW, "hotkey": "5F", "answer": 0.7, "total_ms": 1.0}
                opened.metrics.on_answer(RequestRecord(result="answered", **known))
                written = {tuple(row) for row in rows_of(PAGE)}
                found = {described(family) for family in opened.metrics.registry.collect()}
                assert written == found

        asyncio.run(scenario())

    def test_the_alerts_ask_for_metrics_that_there_are(self) -> None:
        alerts = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())
        config = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())
        assert [(EXAMPLES / name).is_file() for name in config["rule_files"]] == [True]
        rules = [rule for group in alerts["groups"] for rule in group["rules"]]
        assert len(rules) == 11
        labels = {name.strip("`"): cell for name, _, cell, _ in rows_of(PAGE)}
        for rule in rules:
            assert rule["annotations"].keys() == {"summary", "description"}
            for name in re.findall(r"cascade_\w+", f"{rule['expr']} {rule['annotations']}"):
                assert name.removesuffix("_bucket") in labels, name
            for name, asked in re.findall(r"(cascade_\w+)\{(\w+)=", rule["expr"]):
                assert f"`{asked}`" in labels[name]

    def test_gpus_are_told_with_what_is_wrong_with_them(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            hot = GpuState(index=1, name="NVIDIA L4", temperature_c=91, slowdown_c=90, slowed_by=("sw_power_cap",))
            async with endpoint(store) as opened:
                opened.parts.gpus = GpuHealth(driver="580.65.06", gpus=(hot,))
                families = await scraped(opened.port)
                assert value(families, "cascade_gpu_info", gpu="1", model="NVIDIA L4", driver="580.65.06") == 1
                assert value(families, "cascade_gpu_temperature_celsius", gpu="1") == 91
                assert value(families, "cascade_gpu_power_watts", gpu="1") is None
                assert value(families, "cascade_gpu_slowed", gpu="1", reason="sw_power_cap") == 1
                assert value(families, "cascade_gpu_fault", gpu="1", fault="hot", level="warning") == 1
                _, told = await ask(opened.port, "GET", "/status")
                assert told["gpu"]["gpus"][0]["temperature_c"] == 91
                assert [(one["kind"], one["level"]) for one in told["gpu"]["faults"]] == [("hot", "warning")]
                opened.parts.gpus = GpuHealth(gpus=(GpuState(index=0),), xids_of_unknown=(Xid(number=79, age_s=1),))
                families = await scraped(opened.port)
                assert value(families, "cascade_gpu_fault", gpu="unknown", fault="xid", level="alarm") == 1
                assert value(families, "cascade_gpu_fault", gpu="0", fault="xid", level="alarm") is None
                opened.parts.gpus = GpuHealth(silent_s=40)
                families = await scraped(opened.port)
                assert value(families, "cascade_gpu_fault", gpu="", fault="driver_silent", level="alarm") == 1
                opened.parts.gpus = None
                assert (await ask(opened.port, "GET", "/status"))[1]["gpu"] is None

        asyncio.run(scenario())

    def test_two_miners_in_one_process_do_not_share_a_metric(self) -> None:
        first, second = (RequestMetrics(CollectorRegistry(), History(lambda: 0)) for _ in range(2))
        first.on_reply(OURS, 200, 1.0)
        name = "cascade_request_duration_seconds_count"
        assert first.registry.get_sample_value(name, {"hotkey": OURS}) == 1
        assert second.registry.get_sample_value(name, {"hotkey": OURS}) is None

    def test_sizes_of_batches_are_a_histogram(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with endpoint(store) as opened:
                sizes = {1: 5, 3: 2, 64: 1}
                stats = replace(opened.miner.batcher.stats, batches_by_size=sizes)
                miner: Any = SimpleNamespace(batcher=SimpleNamespace(stats=stats))
                family = next(iter(stage1(miner)))
                told = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
                assert [told[le] for le in ("1.0", "2.0", "4.0", "32.0", "64.0", "+Inf")] == [5, 5, 7, 7, 8, 8]
                assert (told["cascade_batch_size_sum"], told["cascade_batch_size_count"]) == (75, 8)

        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (["127.0.0.1:8092"], 200),
        (["LocalHost"], 200),
        (["evil.example"], 403),
        # What is no host to a library is one to some browsers, and a wildcard of the DNS answers for it.
        (["a{b.evil.example:8092"], 403),
        (['a"b.evil.example'], 403),
        (["127.0.0.1#.evil.example"], 403),
        (["evil@127.0.0.1"], 403),
        (["["], 403),
        ([""], 403),
        ([], 403),
        (["127.0.0.1", "evil.example"], 403),
    ],
)
def test_only_the_loopback_is_a_host_and_what_is_no_host_is_none(hosts: list[str], status: int) -> None:
    async def answer(_request: Request) -> Response:
        return Response()

    headers = [(b"host", host.encode()) for host in hosts]
    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/", "query_string": b"", "headers": headers}
    request = Request({**scope, "server": ("127.0.0.1", 8092)})
    assert asyncio.run(answered(guarded(answer), request)) == status


async def answered(handler: Handler, request: Request) -> int:
    return (await handler(request)).status_code
