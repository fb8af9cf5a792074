"""`cascade stage2 evaluate`: a server is asked about val_select and test of a bundle, and judged by its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError
from engines.store.stage2_scores import RECORD, ScoredServer, ServerScores, scores_of
from engines.store.store import Store
from offline.data.dataset import Dataset
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError
from offline.evaluation.cascade_curve import Stage1Answers
from offline.evaluation.stage2_answers import RowScores, fitted, row_scores
from offline.stream.sender import draw_key
from offline.whole_cascade import JudgedRows, bundle_answers, judged_rows
from stage1.certificate.stream import stream_in_words
from stage1.errors import SettingsError
from stage1.probability.answer_quality import judge_answers, judge_subgroups
from stage1.probability.server_score import FLOOR
from stage2_bridge.calibration.record import GainTable, Latency, Stage2Record
from stage2_bridge.calibration.survey import Survey, survey
from stage2_bridge.client import ServerIdentity, Stage2Error
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.settings import EngineServer, OpenAiServer, Server, Stage2Settings

# Fewer rows of val_select than these are said to be few: 42 answers were too few to fit one number in a published test.
MANY_ROWS = 200
# Of a set without which nothing is judged.
LEAST_ANSWERED = 10
# Rows of val_select that a language model is asked about in both orders of its answers, to say how far that moves them.
BOTH_ORDERS = 100


@dataclass(frozen=True)
class Asking:
    """How a server is asked.

    Attributes:
        at_a_time: images at a time; None for four, or fewer where the server takes fewer.
        timeout_s: for each attempt.
        price: of a call; None for that of the settings.
        most: rows of each set that it is asked about, picked by hash, if it was not before; None for all.
    """

    at_a_time: int | None = None
    timeout_s: float = 30.0
    price: float | None = None
    most: int | None = None


class Screen:
    """Where the evaluation tells how far it is; see `offline.pipeline.progress.Progress`."""

    def __init__(self, stage: Callable[[str, str], None], step: Callable[[int, int, str], None]) -> None:
        self.stage, self.step = stage, step


def chosen_servers(settings: Stage2Settings, name: str | None) -> tuple[Server, ...]:
    """The servers to ask: all of the settings, or the one that is named.

    Raises:
        SettingsError: there is none.
    """
    there = settings.all_servers
    if not there:
        raise SettingsError("no Stage-2 server is named: set stage2.servers, or stage2.engine")
    chosen = tuple(one for one in there if name in {None, one.name})
    if not chosen:
        raise SettingsError(f"no server is called {name!r}; there is {', '.join(one.name for one in there)}")
    return chosen


def rows_of_store(store: Store, bundle: str | None, data: Path) -> tuple[JudgedRows, str]:
    """The rows of a bundle that a server is judged on, and the hash of the data.

    Args:
        store: holds the bundle.
        bundle: its id or the beginning of it; None for the current one.
        data: directory of the labelled images that it was made of.

    Raises:
        UnknownBundle: it is not in the store.
        SettingsError: none is named and none is current.
        DatasetError: the data cannot be read, or are others.
    """
    if bundle is None:
        pointer = store.current()
        if pointer is None:
            raise SettingsError(
                f"{store.root}: no bundle is current, and a bundle says which rows may calibrate a server and which "
                "may judge it: run `cascade retrain` first, or name one with --bundle"
            )
        bundle = pointer.bundle
    rows = read_dataset(data)
    return judged_rows(store.path(bundle), rows), rows.sha256


def some_of(rows: Dataset, most: int | None) -> frozenset[str]:
    """Ids of at most so many rows, picked by a hash that knows nothing of pictures or labels."""
    return frozenset(rows.ids if most is None else sorted(rows.ids, key=lambda row: draw_key(0, row))[:most])


def price_of(server: Server, price: float | None) -> Cost | None:
    """What handing an image on costs: what is said, or else what the settings say; None where neither does.

    Args:
        server: its settings.
        price: of a call; None for that of the settings.
    """
    if price is not None:
        return Cost(server.calls_an_image * price)
    cost = server.cost("money")
    return cost if cost is not None and cost.upper else None


async def asked(
    server: Server, judged: JudgedRows, store: Store, asking: Asking, screen: Screen
) -> tuple[ServerIdentity, ServerScores, Survey, int]:
    """Ask one server about both sets; what it said before is not asked again.

    Returns:
        Who it is, everything it said, what became of the rows of val_select and then of test, and how many it was asked
        about at a time.

    Raises:
        EngineError: the server is not there, or is not what the settings say.
        Stage2Error: it stopped answering; what it said before is kept.
    """
    client = client_of(server)
    try:
        await client.check(asking.timeout_s)
        identity = await client.identity(asking.timeout_s)
        kept = scores_of(store.root, ScoredServer(**vars(identity)))
        sets = (judged.val_select, judged.test)
        loads = [partial(rows.content, row, judged.preprocess) for rows in sets for row in rows.ids]
        chosen = [row in picked for rows in sets for picked in [some_of(rows, asking.most)] for row in rows.ids]
        # An engine of this process computes one image after another: more at a time would be timed as waiting.
        most = 1 if isinstance(server, EngineServer) else min(4, server.connections)
        at_a_time = asking.at_a_time or most
        found = await survey(
            client,
            loads,
            kept,
            at_a_time=at_a_time,
            timeout_s=asking.timeout_s,
            price=price_of(server, asking.price),
            both_orders=BOTH_ORDERS,
            mean_of_orders=isinstance(server, OpenAiServer) and server.both_orders,
            wanted=lambda place: chosen[place],
            progress=lambda done, total: screen.step(done, total, "val_select and test"),
        )
    finally:
        await client.close()
    return identity, kept, found, at_a_time


def record_of(
    identity: ServerIdentity,
    kept: ServerScores,
    images: Sequence[str],
    failed: Mapping[str, str],
    judged: JudgedRows,
    stage1: Sequence[Stage1Answers],
    *,
    at_a_time: int,
    data_sha256: str,
    now: datetime,
) -> Stage2Record:
    """What a server is worth: calibrated on val_select alone, judged on test alone.

    Args:
        identity: of the server.
        kept: everything that it said.
        images: hash of what was sent for the rows of val_select and then of test.
        failed: why there is no answer to some of them.
        judged: the rows.
        stage1: what Stage-1 says of val_select and of test.
        at_a_time: images that it was asked about at a time.
        data_sha256: hash of the data.
        now: wall-clock time, UTC.

    Raises:
        DatasetError: it answered too few rows of a set to say anything.
        CalibrationError: the search for the best calibrator did not end.
    """
    count = len(judged.val_select)
    select, test = row_scores(images[:count], kept), row_scores(images[count:], kept)
    for name, scores in (("val_select", select), ("test", test)):
        if scores.answered.sum() < LEAST_ANSWERED:
            raise DatasetError(
                f"{identity.name} answered {scores.answered.sum()} of {len(scores.score)} rows of {name}, and at least "
                f"{LEAST_ANSWERED} are needed; why it did not is in {kept.directory}"
            )
    on_select, on_test = stage1
    calibrator = fitted(select, on_select.labels, on_select.groups)
    there, known = test.answered, select.answered
    probability = test.calibrated(calibrator)[there]
    labels, groups = on_test.labels[there], on_test.groups[there].tolist()
    timed = np.concatenate([select.ms[known], test.ms[there]])
    return Stage2Record(
        server=identity,
        bundle=judged.bundle,
        stream=judged.params.stream,
        data_sha256=data_sha256,
        evaluated_at=now.isoformat(timespec="seconds"),
        floor=FLOOR,
        calibrator=calibrator,
        raw=judge_answers(test.score[there], labels, groups),
        answers=judge_answers(probability, labels, groups),
        stage1=judge_answers(on_test.probability[there], labels, groups),
        subgroups=judge_subgroups(probability, labels, _columns(judged.test, there)),
        refused=int(np.sum(test.asked & ~there)),
        latency=Latency(
            calls=len(timed),
            at_a_time=at_a_time,
            mean_ms=float(timed.mean()),
            p50_ms=float(np.quantile(timed, 0.5)),
            p99_ms=float(np.quantile(timed, 0.99)),
        ),
        order_gap=_order_gap(kept, images),
        price=_mean_cost(select, test),
        gain=GainTable.of(
            on_select.probability[known],
            select.calibrated(calibrator)[known],
            on_select.labels[known],
            ~on_select.certified.exits[known],
        ),
        notes=tuple(_notes(judged, select, probability, calibrator is None, failed)),
    )


def _mean_cost(select: RowScores, test: RowScores) -> float | None:
    costs = np.concatenate([select.cost, test.cost])
    return None if np.isnan(costs).all() else float(np.nanmean(costs))


def _order_gap(kept: ServerScores, images: Sequence[str]) -> float | None:
    gaps = [kept.scores[one].order_gap for one in images if one in kept.scores]
    known = [gap for gap in gaps if gap is not None]
    return float(np.mean(known)) if known else None


def _columns(rows: Dataset, there: np.ndarray) -> Mapping[str, Sequence[str]]:
    named = {"source": [row.source for row in rows.rows], "group": rows.groups, **rows.metadata}
    return {name: np.asarray(values)[there].tolist() for name, values in named.items()}


def _notes(
    judged: JudgedRows,
    select: RowScores,
    probability: NDArray[np.float64],
    uncalibrated: bool,
    failed: Mapping[str, str],
) -> list[str]:
    told = []
    if len(np.unique(probability > 0.5)) == 1:
        told.append(
            "it answers all test rows alike: its scores tell roadwork from other images too little to be of use"
        )
    count = int(select.answered.sum())
    if uncalibrated:
        told.append(
            f"{count} answered rows of val_select are too few of a class to fit a calibrator: the scores are taken as "
            "they are"
        )
    elif count < MANY_ROWS:
        told.append(f"the calibrator is fitted on {count} rows of val_select, which are few")
    if judged.params.stream != "originals":
        told.append(f"it was sent {stream_in_words(judged.params.stream, judged.params.stream_weights)}")
    if judged.missing:
        told.append(f"{judged.missing} rows of val_select and test are not in the data")
    if failed:
        first = next(iter(failed.values()))
        told.append(f"{len(failed)} images have no answer, the first because: {first}; run this again")
    return told


def evaluate_servers(
    servers: Sequence[Server],
    judged: JudgedRows,
    store: Store,
    data_sha256: str,
    asking: Asking,
    screen: Screen,
    now: Callable[[], datetime],
) -> list[tuple[Path, Stage2Record]]:
    """Ask servers one after another, and write down what each is worth.

    Returns:
        The file of each record, and the record.

    Raises:
        EngineError: a server is not there; those before it are written down.
        Stage2Error: one stopped answering.
        DatasetError: an image cannot be read, or a server answered too few.
    """
    answers: list[tuple[ServerIdentity, ServerScores, Survey, int]] = []
    for server in servers:
        screen.stage(server.name, "running")
        try:
            answers.append(asyncio.run(asked(server, judged, store, asking, screen)))
        except EngineError as error:
            raise Stage2Error(f"{server.name}: {error}") from error
        screen.stage(server.name, "done")
    judged, images = _asked_about(judged, answers)
    screen.stage("Stage-1", "running")
    stage1 = bundle_answers(judged, (judged.val_select, judged.test), screen.step, ("val_select", "test"))
    screen.stage("Stage-1", "done")
    written = []
    for identity, kept, found, at_a_time in answers:
        record = record_of(
            identity,
            kept,
            images,
            found.failed,
            judged,
            stage1,
            at_a_time=at_a_time,
            data_sha256=data_sha256,
            now=now(),
        )
        record.write(kept.directory / RECORD)
        written.append((kept.directory / RECORD, record))
    return written


def _asked_about(
    judged: JudgedRows, answers: Sequence[tuple[ServerIdentity, ServerScores, Survey, int]]
) -> tuple[JudgedRows, list[str]]:
    """The rows that any of the servers was ever asked about, and the hash of what was sent for each."""
    images = answers[0][2].images
    there = [any(image in kept.scores for _, kept, _, _ in answers) for image in images]
    count, parts = len(judged.val_select), []
    for rows, inside in ((judged.val_select, there[:count]), (judged.test, there[count:])):
        parts.append(replace(rows, rows=tuple(compress(rows.rows, inside))))
    return replace(judged, val_select=parts[0], test=parts[1]), list(compress(images, there))
