"""Images that are kept for labelling, and what their labels may be used for."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from miner.answering.record import RequestRecord, SeenImage
from miner.cli.harvest.label_files import read_label_file
from miner.harvest.export import write_for
from miner.harvest.given_labels import add_labels, read_labels
from miner.harvest.harvest import Harvest
from miner.harvest.kept_image import KeptImage, broken_weeks, destination, whole_weeks
from miner.harvest.label_tools import FILES, Tool
from miner.harvest.labelled_data import write_data
from miner.harvest.priority import ordered, worth
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import HarvestStore, Limits, read_index
from miner.harvest.switch import open_harvest
from miner.live_risk.audit_events import Drawn
from offline.data.sources.source import read_dataset
from stage1.decisions import Action
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECRET = b"0123456789abcdef"


def content_of(number: int) -> bytes:
    return b"picture %03d" % number


def kept(number: int, **changes: Any) -> KeptImage:
    content = content_of(number)
    fields: dict[str, Any] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "at": NOON + timedelta(minutes=number),
        "reasons": ("deferred",),
        "request_id": f"r{number}",
        "hotkey": "validator",
        "bundle": "b",
        "site": number,
        "picture": None,
        "size": len(content),
        "suffix": ".jpg",
        "exit_label": None,
        "score": 0.0,
        "probability": 0.5,
        "stage2_probability": None,
    }
    return KeptImage.model_validate(fields | changes)


def random_one(number: int, week: str = "2026-W10", **changes: Any) -> KeptImage:
    return kept(number, reasons=("random",), week=week, **changes)


def seen(number: int, action: Action = Action.EXIT, **changes: Any) -> SeenImage:
    fields: dict[str, Any] = {
        "request_id": f"r{number}",
        "at": NOON + timedelta(minutes=11 * number),
        "hotkey": "validator",
        "result": "answered",
        "answer": 0.1,
        "image_sha256": hashlib.sha256(content_of(number)).hexdigest(),
        "action": action,
        "prediction_set": (0,) if action is Action.EXIT else (0, 1),
        "likelier_label": 0,
        "review": False,
        "roadwork_score": -1.0,
        "select_score": 1.0,
        "stage1_probability": 0.3,
        "total_ms": 1.0,
    }
    pixels = np.random.default_rng(number).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    # The certificate is not looked at.
    return SeenImage(RequestRecord.model_validate(fields | changes), content_of(number), pixels, None)  # type: ignore[arg-type]


def store_in(home: Path, most_bytes: int = 10**6, per_place: int = 3, **limits: int) -> HarvestStore:
    return HarvestStore(home, Limits(most_bytes, per_place=per_place, **limits))


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    switch = open_harvest(HarvestSettings(), tmp_path, None, AsyncExitStack())
    switch.on_image(seen(1))
    assert switch.status() == {}
    assert list(tmp_path.iterdir()) == []


def test_each_reason_is_found_and_an_exit_alone_is_none(tmp_path: Path) -> None:
    harvest = Harvest(tmp_path, HarvestSettings(random_share=0.0), secret=SECRET)
    harvest.take(seen(1))
    harvest.take(seen(2, Action.DEFER))
    harvest.take(seen(3, Action.DEFER, review=True))
    harvest.take(seen(4, Action.DEFER, stage2="answered", stage2_probability=0.9))
    assert [one.reasons for one in harvest.store.images.values()] == [
        ("deferred",),
        ("ambiguous",),
        ("deferred", "disagree"),
    ]
    drawn = Drawn(
        number=1,
        at=NOON,
        request_id="r",
        hotkey="other",
        image_sha256="a" * 64,
        picture=1,
        site=1,
        exit_label=0,
        score=-2.0,
        select_score=1.0,
        probability=0.1,
        share=0.3,
        drawn=0.1,
        label_share=0.0,
        label_drawn=False,
        theta=0.0,
        bundle="b",
    )
    harvest.take_contradicted(drawn, 0.9, b"an audit")
    harvest.close()
    assert read_index(tmp_path)["a" * 64].reasons == ("contradicted",)
    assert harvest.status()["pictures"] == 4


def test_the_random_share_is_a_share_of_all_and_knows_no_score(tmp_path: Path) -> None:
    harvest = Harvest(tmp_path, HarvestSettings(random_share=0.2, picked=False), secret=SECRET)
    for number in range(400):
        action = Action.DEFER if number % 2 else Action.EXIT
        harvest.take(seen(number, action, roadwork_score=float(number % 2)))
    images = list(harvest.store.images.values())
    assert 50 < len(images) < 110
    assert {one.week for one in images} == {"2026-W10"}
    assert 0.35 < np.mean([one.score for one in images]) < 0.65


def test_a_place_and_a_picture_are_kept_a_few_times_only(tmp_path: Path) -> None:
    store = store_in(tmp_path, per_place=2)
    assert store.keep(kept(1, site=7, picture=0b1111), content_of(1))
    assert not store.keep(kept(2, site=7, picture=0b1110), content_of(2)), "it shows the same"
    assert store.keep(kept(3, site=7, picture=2**40 - 1), content_of(3))
    assert not store.keep(kept(4, site=7), content_of(4)), "there are two of its place"
    assert not store.keep(kept(3, site=7), content_of(3)), "it is there"
    assert store.keep(random_one(5, site=7, picture=0b1111), content_of(5)), "a draw is never left out"
    assert store.keep(random_one(1, site=7), content_of(1)), "and takes a picture over that was picked before"
    assert read_index(tmp_path)[kept(1).sha256].week == "2026-W10"


def test_room_is_made_by_the_oldest_of_the_commonest_reason_and_draws_go_last(tmp_path: Path) -> None:
    size = len(content_of(10))
    store = store_in(tmp_path, most_bytes=6 * size)
    store.keep(random_one(10), content_of(10))
    store.keep(kept(11, reasons=("ambiguous",)), content_of(11))
    for number in range(12, 30):
        store.keep(kept(number), content_of(number))
        assert store.size <= 6 * size
    there = [one for one in store.images.values() if not one.gone]
    assert {one.reasons for one in there} == {("random",), ("ambiguous",), ("deferred",)}
    for number in range(30, 42):
        store.keep(random_one(number), content_of(number))
    again = store_in(tmp_path, most_bytes=6 * size)
    assert again.size == store.size <= 6 * size
    assert broken_weeks(again.images.values(), {}) == {"2026-W10"}, "what is gone of a draw is not forgotten"
    assert all(again.path(one).exists() != one.gone for one in again.images.values())


@pytest.mark.parametrize(
    ("reason", "labelled", "today", "expected"),
    [
        # The second draw of the week is not labelled.
        ("random", [1], date(2026, 3, 12), "later"),
        # Both are, but the week is not over: more may be drawn.
        ("random", [1, 2], date(2026, 3, 5), "later"),
        ("random", [1, 2], date(2026, 3, 12), "any set"),
        ("deferred", [1, 2], date(2026, 3, 12), "train"),
        ("disagree", [1, 2], date(2026, 3, 12), "train"),
        ("contradicted", [1, 2], date(2026, 3, 12), "train"),
    ],
)
def test_only_a_whole_draw_may_go_where_certificates_are_made(
    reason: str, labelled: list[int], today: date, expected: str
) -> None:
    drawn = [random_one(1), random_one(2)]
    one = drawn[0] if reason == "random" else kept(1, reasons=(reason,))
    labels: dict[str, ExitLabel] = {kept(number).sha256: 1 for number in labelled}
    assert destination(one, whole_weeks(drawn, labels, today), broken_weeks(drawn, labels)) == expected


def test_a_draw_of_which_a_picture_is_gone_may_only_train() -> None:
    drawn = [random_one(1), random_one(2, gone=True)]
    labels: dict[str, ExitLabel] = {kept(1).sha256: 1}
    today = date(2026, 3, 12)
    assert destination(drawn[0], whole_weeks(drawn, labels, today), broken_weeks(drawn, labels)) == "train"
    labels[kept(2).sha256] = 0
    assert destination(drawn[0], whole_weeks(drawn, labels, today), broken_weeks(drawn, labels)) == "any set"


def said(tool: Tool, out: Path, wanted: dict[str, int]) -> Path:
    """The file that a tool writes when a person has labelled what it was given."""
    path = out / FILES[tool]
    words = ("no roadwork", "roadwork")
    if tool == "fiftyone":
        content = json.loads(path.read_text())
        assert set(content["labels"]) == set(wanted)
        path.write_text(json.dumps(content | {"labels": wanted}))
    elif tool == "labelstudio":
        tasks = json.loads(path.read_text())
        for task in tasks:
            choice = {"type": "choices", "value": {"choices": [words[wanted[Path(task["data"]["image"]).stem]]]}}
            task["annotations"] = [{"result": [choice]}, {"was_cancelled": True, "result": []}]
        path.write_text(json.dumps(tasks))
    elif tool == "cvat":
        root = ET.fromstring(path.read_text())
        for image in root.iter("image"):
            ET.SubElement(image, "tag", label=words[wanted[Path(image.get("name", "")).stem]], source="manual")
        path.write_text(ET.tostring(root, encoding="unicode"))
    else:
        head, *lines = path.read_text().splitlines()
        rows = [line.replace(",,", f",{wanted[Path(line.split(',')[0]).stem]},", 1) for line in lines]
        path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.mark.parametrize("tool", ["fiftyone", "labelstudio", "cvat", "folder"])
def test_a_hundred_labels_come_back_as_they_were_given(tmp_path: Path, tool: Tool) -> None:
    store = store_in(tmp_path / "store")
    images = [kept(number) for number in range(100)]
    for number, image in enumerate(images):
        store.keep(image, content_of(number))
    assert write_for(tool, store, images, tmp_path / "out") == 100
    wanted = {image.sha256: number % 3 % 2 for number, image in enumerate(images)}
    assert read_label_file(said(tool, tmp_path / "out", wanted)).labels == wanted


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("labels.csv", "image,label\nstrange.jpg,1\n", "not the name of a picture"),
        ("labels.csv", f"image,label\n{'a' * 64}.jpg,maybe\n", "is called 'maybe'"),
        ("x.json", "[{}]", "KeyError"),
        ("x.json", "7", "TypeError"),
        ("x.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "declares entities"),
        ("x.xml", "<a", "not a file of FiftyOne"),
        ("deep.json", "[" * 100_000, "not a file of FiftyOne"),
        ("index.json", '{"classes": ["roadwork"], "labels": {"a": 5}}', "not a file of FiftyOne"),
        ("index.json", '{"classes": ["no roadwork", "roadwork"], "labels": {"a": -1}}', "is no number of a class"),
        ("long.csv", f"image,label\n{'a' * 200_000},1\n", "line 2"),
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=told):
        read_label_file(tmp_path / name)


def test_two_people_who_differ_have_said_nothing(tmp_path: Path) -> None:
    results = [{"result": [{"value": {"choices": [word]}}]} for word in ("roadwork", "no roadwork")]
    tasks = [{"data": {"image": f"{'a' * 64}.jpg"}, "annotations": results}]
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    assert read_label_file(tmp_path / "x.json").labels == {}


def test_a_night_reads_what_was_labelled_and_what_was_picked_only_trains(tmp_path: Path, encoded: Any) -> None:
    store, labels = store_in(tmp_path / "store"), dict[str, ExitLabel]()
    for number in range(6):
        picture = encoded(Image.new("RGB", (64, 64), (40 * number, 90, 10)))
        sha256 = hashlib.sha256(picture).hexdigest()
        image = (random_one if number < 3 else kept)(number, sha256=sha256, size=len(picture))
        store.keep(image, picture)
        labels[sha256] = 1 if number % 2 else 0
    add_labels(tmp_path / "store", labels, NOON)
    data = tmp_path / "data"
    data.mkdir()
    going = write_data(store, read_labels(tmp_path / "store"), data, date(2026, 4, 1))
    assert going == {"any set": 3, "train": 3, "later": 0}
    rows = read_dataset(data).rows
    assert sorted(row.train_only for row in rows) == [False] * 3 + [True] * 3
    assert all(row.train_only == ("picked" in row.image) for row in rows)
    # A stream is not applied to them a second time.
    assert all(row.as_sent for row in rows)
    assert len({row.group for row in rows}) == 6


def test_what_lies_near_the_threshold_is_worth_more() -> None:
    assert worth(kept(1, score=-2.0), -2.1) > worth(kept(2, score=1.0), -2.1)
    assert worth(kept(1, score=-2.0, stage2_probability=0.9), -2.1) > worth(kept(2, score=-2.0), -2.1)
    assert worth(kept(1, reasons=("disagree",)), None) > worth(kept(2), None)


def test_a_picture_that_looks_like_one_before_it_comes_after_another() -> None:
    images = [kept(1, score=0.0, picture=0), kept(2, score=0.01, picture=1), kept(3, score=0.3, picture=2**32 - 1)]
    assert ordered(images, 0.0) == [images[0], images[2], images[1]]
    assert ordered(images, 0.0, most=1) == images[:1]
    assert ordered([], 0.0) == []


def test_an_export_in_another_encoding_declares_no_entities_either(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "no roadwork">]>'
    text += f'<a><image name="{"a" * 64}.jpg"><tag label="&b;"/></image></a>'
    (tmp_path / "x.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_label_file(tmp_path / "x.xml")


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to("/dev/zero")
    with pytest.raises(SettingsError, match="not a file"):
        read_label_file(tmp_path / "x.json")


def test_the_status_is_told_while_pictures_come(tmp_path: Path) -> None:
    harvest = Harvest(tmp_path, HarvestSettings(enabled=True, max_pictures=20), secret=SECRET)
    for number in range(10):
        harvest.store.keep(kept(number), content_of(number))
    done = threading.Event()

    def more() -> None:
        number = 10
        while not done.is_set():
            harvest.store.keep(kept(number), content_of(number))
            number += 1

    thread = threading.Thread(target=more)
    thread.start()
    try:
        for _ in range(200):
            assert 10 <= int(str(harvest.status()["pictures"])) <= 20
    finally:
        done.set()
        thread.join()
        harvest.close()


def test_a_picture_that_cannot_be_described_costs_the_next_ones_nothing(tmp_path: Path) -> None:
    harvest = Harvest(tmp_path, HarvestSettings(enabled=True, random_share=1.0), secret=SECRET)
    harvest.queue._queue.extend([seen(1, roadwork_score=float("inf")), seen(2)])
    harvest.queue.hand_over()
    harvest.queue.disk.submit(lambda: None).result()
    assert len(harvest.store.images) == 1
    assert harvest.status()["failed"] == {"ValidationError": 1}
    harvest.close()


def test_no_picture_of_a_place_that_certifies_trains(tmp_path: Path, encoded: Any) -> None:
    """The two folders name their places alike, so that the splits know of both that they are one place."""
    store, labels = store_in(tmp_path / "store"), dict[str, ExitLabel]()
    for number in range(6):
        picture = encoded(Image.new("RGB", (64, 64), (40 * number, 90, 10)))
        sha256 = hashlib.sha256(picture).hexdigest()
        make = random_one if number % 2 else kept
        store.keep(make(number, sha256=sha256, size=len(picture), site=number // 2), picture)
        labels[sha256] = 1 if number < 3 else 0
    (tmp_path / "data").mkdir()
    write_data(store, labels, tmp_path / "data", date(2026, 4, 1))
    rows = read_dataset(tmp_path / "data").rows
    groups = [{row.group for row in rows if row.train_only == only} for only in (False, True)]
    assert groups[0] == groups[1] == {"harvest/site-0", "harvest/site-1", "harvest/site-2"}


def test_a_picture_that_is_kept_again_is_known_for_both(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.keep(kept(1, reasons=("audited",)), content_of(1))
    assert store.keep(kept(1, reasons=("contradicted",), stage2_probability=0.9), content_of(1))
    assert not store.keep(kept(1, reasons=("audited",)), content_of(1))
    [one] = read_index(tmp_path).values()
    assert (one.reasons, one.stage2_probability) == (("audited", "contradicted"), 0.9)
    assert store.size == one.size


def test_while_scores_drift_some_of_those_to_which_they_do_are_kept(tmp_path: Path) -> None:
    drifting = [False]
    settings = HarvestSettings(enabled=True, random_share=0.0, drift_share=0.5)
    harvest = Harvest(tmp_path, settings, secret=SECRET, drifts=lambda score: drifting[0] and score < -2)
    for number in range(20):
        assert not harvest.take(seen(number, roadwork_score=-3.0))
    drifting[0] = True
    taken = [harvest.take(seen(20 + number, roadwork_score=-3.0 + 2 * (number % 2))) for number in range(40)]
    assert 4 < sum(taken[::2]) < 16
    assert not any(taken[1::2])
    assert {one.reasons for one in harvest.store.images.values()} == {("drift",)}
    harvest.close()
