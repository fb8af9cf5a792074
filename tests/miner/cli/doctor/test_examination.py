"""What the checks of `cascade doctor` say of a miner's directory, settings and records."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Wallet

from miner.admin.client import readiness
from miner.answering.journal import FILE
from miner.answering.record import RequestRecord
from miner.chain.port import ChainSnapshot, Neuron
from miner.chain.settings import ChainSettings
from miner.cli.doctor import chain, keys, stage2, traffic
from miner.cli.doctor.nights import data, night, nights
from miner.cli.doctor.state_and_ports import where
from miner.nights.record import VERDICT, Nights, NightVerdict, noted
from miner.settings import MinerSettings, load_settings
from miner.start_checks import held_state
from stage1.errors import SettingsError
from tests.stage2_bridge.calibration.test_live import kept
from tests.stage2_bridge.calibration.test_record import record
from tests.support.http_server import serve_beside

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def roads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    (tmp_path / "labels.csv").write_text(
        "image,label,vid_id,source,city\na.jpg,0,7,kaggle,Ulm\nb.jpg,1,7,kaggle,Bonn\n"
    )
    return tmp_path


def settings(roads: Path, **night: Any) -> MinerSettings:
    return load_settings(None, {"retrain.data": roads, "retrain.preset": "tiny", "night": night})


def test_it_says_how_many_rows_there_are_and_what_joins_them(roads: Path) -> None:
    [finding] = data(settings(roads), NOW)
    assert (finding.check, finding.verdict) == ("data", "ok")
    assert finding.detail == (
        "2 rows, 1 with roadwork; columns that join rows: vid_id (1 values); vid_id joins most: 2 rows have '7'; "
        "only metadata: city"
    )


def test_settings_that_match_nothing_are_told(roads: Path) -> None:
    [finding] = data(settings(roads, splits={"train_only": ["Kagle"]}), NOW)
    assert finding.verdict == "error"
    assert "splits.train_only: no row has the source 'Kagle'; there is kaggle" in finding.detail


def test_data_that_cannot_be_read_are_told(roads: Path) -> None:
    (roads / "a.jpg").unlink()
    [finding] = data(settings(roads), NOW)
    assert finding.failed
    assert "line 2" in finding.detail


def test_without_data_nothing_is_said(roads: Path) -> None:
    assert data(load_settings(None, {"state": roads}), NOW) == []


class TestWhatAStartNeeds:
    @pytest.mark.usefixtures("roads")
    def test_an_endpoint_that_cannot_be_published_is_told_before_the_start(self) -> None:
        assert chain.endpoint(load_settings(None, {})).failed
        told = chain.endpoint(load_settings(None, {"chain.external_ip": "8.8.8.8", "axon.port": 9000}))
        assert (told.verdict, told.detail) == ("ok", "8.8.8.8:9000 is published")
        told = chain.endpoint(load_settings(None, {"chain.external_ip": "192.168.0.7"}))
        assert (told.verdict, "no public address" in told.detail) == ("warning", True)
        assert chain.endpoint(load_settings(None, {"chain.publish_endpoint": False})).verdict == "ok"

    @pytest.mark.usefixtures("roads")
    def test_a_host_name_is_no_address(self) -> None:
        with pytest.raises(SettingsError, match=r"external_ip.*'miner\.example' is no IPv4 or IPv6 address"):
            load_settings(None, {"chain.external_ip": "miner.example"})

    @pytest.mark.parametrize(("endpoint", "verdict"), [("ws://first", "ok"), ("ws://second", "warning")])
    def test_an_endpoint_that_another_one_stands_in_for_is_told(self, endpoint: str, verdict: str) -> None:
        settings = ChainSettings(endpoints=("ws://first/key", "ws://second/key"))
        told = chain.reading(settings, ChainSnapshot(7, {}, 0.0, endpoint))
        assert told.verdict == verdict
        assert endpoint in told.detail
        assert ("ws://first, which comes first" in told.detail) == (verdict == "warning")

    def test_a_state_directory_that_cannot_be_written_is_told(self, roads: Path) -> None:
        (roads / "file").write_text("")
        state, _ = where(load_settings(None, {"state": roads / "file" / "state", "axon.port": 0}))
        assert state.failed
        assert "cannot be written" in state.detail

    def test_what_listens_on_the_port_is_the_miner_only_if_a_miner_runs(self, roads: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            asked = load_settings(None, {"state": roads / "state", "axon.port": port})
            state, found = where(asked)
            assert (state.verdict, found.verdict) == ("ok", "error")
            with held_state(asked.state):
                state, found = where(asked)
            assert (state.detail, found.verdict) == (f"{asked.state}: a miner uses it", "ok")

    @pytest.mark.parametrize("taken", ["axon.port", "admin.port"])
    def test_each_port_is_taken_as_the_start_takes_it(self, roads: Path, taken: str) -> None:
        ports = {"axon.port": 0, "admin.port": 0}
        with socket.create_server(("127.0.0.1", 0)) as other:
            ports[taken] = other.getsockname()[1]
            _, *found = where(load_settings(None, {"state": roads / "state", "axon.host": "127.0.0.1", **ports}))
        assert {each.check for each in found if each.failed} == {taken.partition(".")[0].replace("axon", "port")}

    @pytest.mark.usefixtures("roads")
    def test_an_address_of_another_machine_is_told(self) -> None:
        _, port = where(load_settings(None, {"axon.host": "192.0.2.1", "axon.port": 0}))
        assert port.failed
        assert "no interface of this machine" in port.detail

    def test_a_night_that_the_start_refuses_is_told(self, roads: Path) -> None:
        """`cascade mine` ends with these settings, and there are no data to look at."""
        asked = load_settings(None, {"state": roads, "night": {"train_supervised": {"epochs": 3}}})
        [told] = asyncio.run(night(asked))
        assert told.failed
        assert "retrain.data" in told.detail
        [told] = asyncio.run(night(settings(roads, train_supervised={"epoch": 3})))
        assert told.failed
        assert "train_supervised.epoch" in told.detail
        [told] = asyncio.run(night(settings(roads, train_supervised={"epochs": 3})))
        assert told.verdict == "ok"
        assert asyncio.run(night(load_settings(None, {"state": roads}))) == []

    def test_retraining_data_that_are_missing_are_told(self, roads: Path) -> None:
        [told] = data(load_settings(None, {"retrain.data": roads / "none", "retrain.preset": "tiny"}), NOW)
        assert told.failed

    def test_what_is_no_miner_on_the_admin_port_is_not_taken_for_one(self, roads: Path) -> None:
        class Other(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'["ready"]')

            def log_message(self, *_: object) -> None: ...

        with HTTPServer(("127.0.0.1", 0), Other) as other:
            serve_beside(other)
            port = other.server_port
            with socket.create_server(("127.0.0.1", 0)) as free:
                another = free.getsockname()[1]
            asked = load_settings(None, {"state": roads / "state", "axon.port": another, "admin.port": port})
            assert readiness(port) is None
            with held_state(asked.state):
                _, _, ready = where(asked)
            other.shutdown()
        assert (ready.check, ready.verdict) == ("ready", "warning")
        assert "no miner listens there" in ready.detail

    def test_a_wire_that_is_none_is_told(self) -> None:
        assert chain.wire(load_settings()).detail == "miner.axon.wires.subnet72: POST /ImageSynapse"
        told = chain.wire(load_settings(None, {"wire.module": "no.such.wire"}))
        assert (told.verdict, told.detail.split(":")[0]) == ("error", "wire.module")

    def test_each_of_several_hotkeys_is_looked_at(self, roads: Path, new_wallet: Callable[[str], Wallet]) -> None:
        ours = {name: new_wallet(name).hotkey.ss58_address for name in ("one", "two")}
        entries = [
            {"hotkey": "default", "wallet": name, "port": 0, "external_port": port}
            for name, port in zip(ours, (81, 82), strict=True)
        ]
        asked = load_settings(
            None,
            {
                "hotkeys": entries,
                "wallet.path": roads,
                "state": roads / "state",
                "axon.host": "127.0.0.1",
                "chain.external_ip": "192.0.2.7",
            },
        )
        assert [found.check for found in where(asked)] == ["state", "port", "port"]
        assert [found.detail for found in keys.keys(asked) if found.check == "hotkey"] == list(ours.values())
        both = {address: Neuron(uid=uid) for uid, address in enumerate(ours.values())}
        one = {ours["one"]: both[ours["one"]]}
        verdicts = [
            [found.verdict for found in chain.registrations(asked, ChainSnapshot(1, neurons, 0.0))]
            for neurons in (both, one, {})
        ]
        # A miner starts where one of them is registered.
        assert verdicts == [["ok", "ok"], ["ok", "warning"], ["error", "error"]]

    def test_a_stage2_that_does_not_open_is_told(self, roads: Path) -> None:
        [told] = asyncio.run(stage2.stage2(load_settings(None, {"stage2.engine": roads / "none"})))
        assert told.failed
        assert asyncio.run(stage2.stage2(load_settings(None, {}))) == []

    def test_scores_that_nobody_calibrated_are_a_warning_and_calibrated_ones_are_not(self, tmp_path: Path) -> None:
        server = {"kind": "kserve", "name": "yolo", "url": "http://127.0.0.1:9", "model": "roadwork"}
        settings = load_settings(None, {"store": tmp_path, "stage2.servers": [server]})
        _, told = asyncio.run(stage2.stage2(settings))
        assert told.verdict == "warning"
        assert "cascade stage2 evaluate" in told.todo
        found = kept(tmp_path, record())
        _, told = asyncio.run(stage2.stage2(settings))
        assert (told.verdict, found.bundle in told.detail) == ("ok", True)

    def test_the_last_request_is_found_behind_a_rotation_of_the_journal(self, roads: Path) -> None:
        record = RequestRecord(request_id="1", at=NOW, hotkey="5Validator", result="answered", answer=0.5, total_ms=1.0)
        (roads / f"{FILE}.1").write_text(record.model_dump_json() + "\n")
        (roads / FILE).write_text("")
        for later, ago in (({"seconds": 40}, "40 s"), ({"minutes": 12}, "12 min"), ({"minutes": 150}, "2.5 h")):
            told = traffic.traffic(load_settings(None, {"state": roads}), NOW + timedelta(**later))
            assert told.verdict == "ok"
            assert told.detail == (
                f"1 request of 1 validator in the last 24 h; the last request came {ago} ago, from 5Validat"
            )

    def test_a_miner_is_silent_after_the_hours_of_the_settings(self, roads: Path) -> None:
        at = NOW - timedelta(hours=8)
        record = RequestRecord(request_id="1", at=at, hotkey="5Validator", result="answered", answer=0.5, total_ms=1.0)
        (roads / FILE).write_text(record.model_dump_json() + "\n")
        told = [
            traffic.traffic(load_settings(None, {"state": roads, **given}), NOW).verdict
            for given in ({}, {"alerts.silent_h": 12.0})
        ]
        assert told == ["warning", "ok"]


class TestNights:
    NIGHT = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)

    def test_none_is_no_finding(self, tmp_path: Path) -> None:
        assert nights(load_settings(None, {"state": tmp_path})) == []

    def test_each_is_told_with_its_verdict_or_its_reason(self, tmp_path: Path) -> None:
        kept = Nights(tmp_path)
        home = kept.begin(self.NIGHT)
        NightVerdict(at=self.NIGHT, bundle="0123456789", verdict="KEEP", reasons=("it exits less",)).write(
            home / VERDICT
        )
        noted(home, outcome="done", ended_at=self.NIGHT)
        settings = load_settings(None, {"state": tmp_path})
        [told] = nights(settings)
        assert (told.verdict, told.detail) == ("ok", "2026-03-01 03:30 KEEP 01234567: it exits less")
        later = kept.begin(self.NIGHT + timedelta(days=1))
        noted(later, outcome="failed", ended_at=self.NIGHT, reason="no space left")
        [told] = nights(settings)
        assert told.verdict == "warning"
        assert told.detail.startswith("the last one failed: 2026-03-02 03:30 failed: no space left; 2026-03-01")
        assert str(later) in told.todo
