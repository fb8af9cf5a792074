"""`cascade risk`, and `cascade plan --monitor`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.store.bundle import Provenance
from engines.store.store import Store
from miner.cli import app
from miner.cli.doctor.traffic import live_risk
from miner.cli.live_risk.terminal_plot import curve
from miner.harvest.given_labels import add_labels, read_labels
from miner.live_risk.certificate_watch import certificate_id
from miner.live_risk.live_risk import LiveRisk
from miner.settings import load_settings
from tests.miner.harvest.test_harvest import content_of, kept, store_in
from tests.miner.live_risk.test_live_risk import ALL, NOON, book, misses, seen, took, watched


@pytest.fixture
def bundle(tmp_path: Path, bundle_files: Path, provenance: Provenance) -> LiveBundle:
    store = Store(tmp_path / "store")
    return load_bundle(store.path(store.publish(bundle_files, provenance)), threads=1)


@pytest.fixture
def another(publish: Callable[..., str], store: Store) -> LiveBundle:
    """Another bundle, with a certificate of its own."""
    return load_bundle(store.path(publish("second", shift=0.25, golden_shift=0.25)), threads=1)


@pytest.fixture
def risk(tmp_path: Path, bundle: LiveBundle) -> LiveRisk:
    """A miner that was stopped with some misses, and two audits that wait for a person."""
    risk = watched(tmp_path / "state" / "live_risk", bundle, ALL)
    misses(risk, bundle, 3)
    took(risk, seen(bundle, 10), seen(bundle, 11))
    for number in (4, 5):
        risk.said(certificate_id(bundle.params), number, "expert", 0.75)
    risk.tick()
    risk._write_summary()
    risk.close()
    return risk


def run(tmp_path: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--set", f"state={tmp_path / 'state'}"])
    return done.exit_code, done.output


def test_it_shows_how_the_certificate_stands(tmp_path: Path, risk: LiveRisk) -> None:
    status, told = run(tmp_path, "risk", "show")
    assert status == 0
    assert f"certificate {risk._live}" in told
    assert "3 losses in 3 audited trials" in told
    assert "2 audits wait, 2 of them for a person" in told
    assert "Stage-2 says 0.75" in told
    assert "log10 of the evidence" in told


def test_pictures_go_out_and_their_labels_come_back(tmp_path: Path, bundle: LiveBundle, risk: LiveRisk) -> None:
    assert risk.status()["for_people"] == 2
    out = tmp_path / "to label"
    # Both into one directory that is not there.
    status, told = run(tmp_path, "risk", "export", str(out / "risk.json"), "--pictures", str(out))
    assert status == 0, told
    rows = list(csv.DictReader((out / "audits.csv").read_text().splitlines()))
    assert [(row["number"], row["stage2"]) for row in rows] == [("4", "0.750"), ("5", "0.750")]
    assert (out / rows[0]["image"]).read_bytes() == b"bytes"
    (out / "audits.csv").write_text("number,label\n4,1\n5,0\n")
    status, told = run(tmp_path, "risk", "label", str(out / "audits.csv"))
    assert status == 0, told
    again = watched(tmp_path / "state" / "live_risk", bundle, ALL)
    again.tick()
    state = again._watches[certificate_id(bundle.params)].audits.book.state
    assert (state.audits, state.losses) == (5, 4)
    again.close()


def test_a_list_of_labels_belongs_to_its_certificate(
    tmp_path: Path, bundle: LiveBundle, risk: LiveRisk, another: LiveBundle
) -> None:
    """Audits of another bundle have the same numbers: a list that was exported before a swap labels none of them."""
    del risk
    out = tmp_path / "out"
    assert run(tmp_path, "risk", "export", str(tmp_path / "risk.json"), "--pictures", str(out))[0] == 0
    lines = (out / "audits.csv").read_text().splitlines()
    (out / "audits.csv").write_text("\n".join([lines[0], *(f"{line}1" for line in lines[1:])]))
    after = LiveRisk(tmp_path / "state" / "live_risk", ALL, now=lambda: NOON)
    after.live(another)
    took(after, *(seen(another, number) for number in range(20, 25)))
    for number in range(1, 6):
        after.said(certificate_id(another.params), number, "expert", 0.75)
    after._write_summary()
    status, told = run(tmp_path, "risk", "label", str(out / "audits.csv"))
    assert (status, "2 labels wait for the miner" in told) == (0, True), told
    after.tick()
    assert after.status()["losses"] == 0
    after.live(bundle)
    assert after.status()["losses"] == 5
    after.close()


def test_a_list_that_was_given_before_may_be_given_again(tmp_path: Path, bundle: LiveBundle, risk: LiveRisk) -> None:
    """People fill some rows, give the file, fill the others, and give it again."""
    del risk
    out = tmp_path / "out"
    assert run(tmp_path, "risk", "export", str(tmp_path / "risk.json"), "--pictures", str(out))[0] == 0
    first, four, five = (out / "audits.csv").read_text().splitlines()
    (out / "audits.csv").write_text(f"{first}\n{four}1\n{five}\n")
    assert run(tmp_path, "risk", "label", str(out / "audits.csv"))[0] == 0
    again = watched(tmp_path / "state" / "live_risk", bundle, ALL)
    again.tick()
    (out / "audits.csv").write_text(f"{first}\n{four}1\n{five}1\n")
    status, told = run(tmp_path, "risk", "label", str(out / "audits.csv"))
    assert status == 0, told
    assert told == "1 labels wait for the miner, which looks for them every two seconds; 1 of audits that do not wait\n"
    again.tick()
    assert again.status()["losses"] == 5
    again.close()


def test_a_label_is_there_for_the_harvest_when_the_audits_are_gone(
    tmp_path: Path, bundle: LiveBundle, risk: LiveRisk
) -> None:
    """The miner keeps the audits of few certificates, and a week of nights has more."""
    waiting = {number: one.drawn.image_sha256 for number, one in book(risk, bundle).waiting.items()}
    home = tmp_path / "state" / "harvest"
    for number, sha256 in waiting.items():
        store_in(home).keep(kept(number, sha256=sha256), content_of(number))
    add_labels(home, {waiting[5]: 0}, NOON)
    status, told = run(tmp_path, "risk", "label", "4=1", "5=1")
    assert status == 0, told
    assert read_labels(home) == {waiting[4]: 1, waiting[5]: 0}, "what was imported counts for more"


@pytest.mark.parametrize("given", ["9=1", "4=2", "4", "x=1"])
def test_what_is_no_label_is_refused(tmp_path: Path, risk: LiveRisk, given: str) -> None:
    del risk
    status, told = run(tmp_path, "risk", "label", given)
    assert status == 2
    assert "audit" in told or "NUMBER=0" in told


def test_hours_are_exported(tmp_path: Path, risk: LiveRisk) -> None:
    del risk
    status, told = run(tmp_path, "risk", "export", str(tmp_path / "hours.csv"))
    assert status == 0, told
    rows = list(csv.DictReader((tmp_path / "hours.csv").read_text().splitlines()))
    assert sum(int(row["requests"]) for row in rows) == 5
    assert run(tmp_path, "risk", "export", str(tmp_path / "hours.xls"))[0] == 2


def test_where_nothing_was_watched_it_says_so(tmp_path: Path) -> None:
    status, told = run(tmp_path, "risk", "show")
    assert status == 2
    assert "nothing was watched here" in told


def test_the_plan_says_days_and_labels() -> None:
    done = CliRunner().invoke(app, ["plan", "--monitor", "--requests", "1000"])
    assert done.exit_code == 0
    [line] = [line.split() for line in done.output.splitlines() if line.strip().startswith("6.00%")]
    days, audits, labels = map(float, line[1:])
    assert 2 < days < 4
    assert 170 < audits < 200
    assert 5 < labels < 20


def test_a_curve_has_its_ends_and_its_limit() -> None:
    told = curve("evidence", [None, 0.0, 1.0, 4.0, float("inf")], mark=2.0, width=10, height=2)
    assert told.splitlines()[0] == "evidence (last 4, the limit is 2)"
    assert told.splitlines()[1].strip().startswith("4 |")
    assert curve("nothing", [None]) == "nothing: nothing yet"
    assert len(curve("long", [1.0] * 500).splitlines()[1]) == 11 + 72


def test_the_doctor_says_how_it_stands(tmp_path: Path, risk: LiveRisk) -> None:
    del risk
    settings = load_settings(changes={"state": str(tmp_path / "state")})
    [finding] = live_risk(settings, NOON + timedelta(days=2))
    assert (finding.check, finding.verdict) == ("live risk", "warning")
    assert finding.detail.startswith("alarm, 2.0 days ago: The miss rate on exits is above")
    assert live_risk(load_settings(changes={"state": str(tmp_path / "nowhere")}), NOON) == []


def test_without_a_stage_2_people_see_every_audit(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path / "state" / "live_risk", bundle, ALL)
    took(risk, seen(bundle, 1), seen(bundle, 2))
    risk._write_summary()
    risk.close()
    _, told = run(tmp_path, "risk", "show")
    assert "2 audits wait, 2 of them for a person" in told
    out = tmp_path / "out"
    status, told = run(tmp_path, "risk", "export", str(tmp_path / "risk.json"), "--pictures", str(out))
    assert status == 0, told
    assert [row["number"] for row in csv.DictReader((out / "audits.csv").read_text().splitlines())] == ["1", "2"]
    _, told = run(tmp_path, "risk", "show", "--set", "stage2.engine=stage2")
    assert "2 audits wait, 0 of them for a person" in told


def test_a_list_of_a_spreadsheet_is_read_and_another_file_is_told(tmp_path: Path, risk: LiveRisk) -> None:
    del risk
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbfnumber,label\r\n4,1\r\n")
    status, told = run(tmp_path, "risk", "label", str(tmp_path / "excel.csv"))
    assert status == 0, told
    for content in (b"\xff\xfe\x00", b"number,label\n" + b"x" * 200_000 + b",1\n"):
        (tmp_path / "odd.csv").write_bytes(content)
        status, told = run(tmp_path, "risk", "label", str(tmp_path / "odd.csv"))
        assert status == 2, told
        assert "odd.csv: not a list in UTF-8" in told
    status, told = run(tmp_path, "risk", "label", "²=1")
    assert status == 2, told
