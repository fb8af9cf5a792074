"""`engine.remote`: its settings, what doctor says of the servers, and their metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from engines.machine.tally import Tally
from engines.store.store import Store
from miner.admin.server_metrics import stage1_servers as metrics
from miner.admin.state_metrics import Part
from miner.cli.engines.server_check import stage1_servers
from miner.settings import MinerSettings, load_settings
from stage1.errors import SettingsError
from tests.support.stage1_servers import Server, running

URLS = ["http://a:8000", "http://b:8000/"]


def settings(tmp_path: Path, **changes: Any) -> MinerSettings:
    return load_settings(None, {"state": str(tmp_path / "state"), **changes})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)


class TestSettings:
    def test_servers_are_a_list_of_addresses(self, tmp_path: Path) -> None:
        engine = settings(tmp_path, **{"engine.remote": URLS}).engine
        assert engine.remote == ("http://a:8000", "http://b:8000")
        assert engine.shared_calls.workers == 4
        assert settings(tmp_path).engine.shared_calls.workers == 1

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"engine.remote": ["ftp://a"]}, r"engine\.remote\.0.*not an address of a server"),
            ({"engine.remote": ["http://a", "http://a/"]}, "remote names http://a twice"),
            ({"engine.remote": ["http://me:pw@a"]}, "would be in the log: leave it out"),
            ({"engine.remote": URLS, "engine.serve_with": {"backend": "openvino"}}, "give one"),
            ({"engine.remote": URLS, "engine.servers.timeout_s": 5.0}, "does not fit into requests.deadline_s"),
        ],
    )
    def test_that_cannot_work_are_refused(self, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(SettingsError, match=told) as found:
            settings(tmp_path, **changes)
        assert "pw" not in str(found.value)


class TestDoctor:
    def test_says_of_each_server_whether_it_computes_the_bundle(
        self, store: Store, publish: Callable[..., str], tmp_path: Path
    ) -> None:
        bundle = store.path(publish("a"))
        right, wrong = Server(platform="onnxruntime"), Server()
        right.hold(bundle)
        wrong.hold(store.path(publish("b")), version=right.versions[0])
        store.activate(bundle.name, now=datetime(2026, 1, 1, tzinfo=UTC))
        wrong.changes = lambda found, _: found | {"logits": found["logits"] + 1}
        with running(right, wrong) as up:
            urls = [one.url for one in up]
            told = stage1_servers(settings(tmp_path, store=str(store.root), **{"engine.remote": urls}))
        assert told[0] == ("ok", f"{urls[0]}: computes the bundle as its engine does, by onnxruntime")
        assert told[1][0] == "warning"
        assert "refused: at batch size 1, outputs differ from the golden ones" in told[1][1]

    def test_fails_where_nobody_is_left(self, store: Store, publish: Callable[..., str], tmp_path: Path) -> None:
        publish("a")
        alone = {"engine.remote": ["http://127.0.0.1:1"], "engine.servers.last_resort": "never"}
        [(verdict, told)] = stage1_servers(settings(tmp_path, store=str(store.root), **alone))
        assert (verdict, "lost" in told) == ("error", True)

    def test_says_nothing_where_this_machine_computes(self, tmp_path: Path) -> None:
        assert stage1_servers(settings(tmp_path)) == []


class TestMetrics:
    def test_of_each_server(self) -> None:
        server = {"url": "http://a", "state": "up", "in_flight": 1, "batches": 7, "failures": 2}
        text = exposed(lambda: metrics([server], 3))
        for line in (
            'cascade_stage1_server_state{server="http://a",state="up"} 1.0',
            'cascade_stage1_server_in_flight{server="http://a"} 1.0',
            'cascade_stage1_server_batches_total{server="http://a"} 7.0',
            'cascade_stage1_server_failures_total{server="http://a"} 2.0',
            "cascade_stage1_own_batches_total 3.0",
        ):
            assert line in text.splitlines()

    def test_of_none_where_this_process_computes(self) -> None:
        lines = exposed(lambda: metrics([], None)).splitlines()
        assert [line for line in lines if not line.startswith("#")] == []


def exposed(read: Callable[[], Any]) -> str:
    registry = CollectorRegistry()
    registry.register(Part("stage1_servers", read, Tally()))
    return generate_latest(registry).decode()
