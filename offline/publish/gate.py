"""The gate: whether a challenger takes the place of the champion, is kept beside it, or is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Literal

from engines.errors import BundleRefused, EngineError, PointerMoved, Unavailable
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.store.file_names import GOLDEN, PARAMS
from engines.store.golden import read_golden
from engines.store.records import COMPILE, RevocationEntry, live_since
from engines.store.store import Store
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.pipeline.progress import Progress
from offline.pipeline.run_files import PUBLICATION
from offline.publish.after_alarm import (
    taken_since,
    unanswered_alarm,
    unconfirmed,
    weaker_than_asked,
    worse_since,
)
from offline.publish.bars import below_the_bars, disproved, median_latency_ms
from offline.publish.champion import Champion, Unjudged, open_bundle
from offline.publish.comparison import Comparison, Judged, compare
from offline.publish.late_best import merit_of
from offline.publish.settings import GateSettings
from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.terms import Terms
from stage1.errors import Stage1Error

Outcome = Literal["PROMOTE", "KEEP", "REFUSE"]
# So often a challenger is judged anew because the champion has changed meanwhile.
TRIES = 3


class Publication(Artifact):
    """`publish.json`: what became of a challenger.

    Attributes:
        bundle: id of the challenger.
        champion: id of the current bundle when it was judged, None if there was none.
        verdict: PROMOTE makes it current, KEEP leaves it in the store, REFUSE removes it.
        reasons: why it is not promoted; empty if it is.
        notes: what else there is to know.
        test_rows: its test rows.
        mcc: Matthews correlation of its Stage-1 alone on them.
        reward: what the subnet would pay for its Stage-1 alone.
        latency_ms: median time of one image on this machine.
        compared: the champion, and the best bundle of the last weeks if that is another one.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    bundle: str
    champion: str | None
    verdict: Outcome
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    test_rows: int = 0
    mcc: float | None = None
    reward: float | None = None
    latency_ms: float | None = None
    compared: tuple[Comparison, ...] = ()

    @property
    def accepted(self) -> bool:
        """It may become current."""
        return self.verdict == "PROMOTE"


@dataclass(frozen=True)
class Bench:
    """What a challenger is judged with.

    Attributes:
        store: holds it, the champion, and what was live before.
        test: its test rows.
        contents: hashes of their files, where they are known.
        settings: margins and bars.
        progress: where to tell how far it is.
        now: wall-clock time, UTC.
        seed: of the bootstrap.
        fold: rows that certified the challenger, with what its engine says of them; None if there are none.
        times: when rows of val_calib and test were taken, seconds since 1970, by their ids, where they say so.
    """

    store: Store
    test: Dataset
    contents: Mapping[str, str]
    settings: GateSettings
    progress: Progress
    now: datetime
    seed: int = 0
    fold: LabelledOutputs | None = None
    times: Mapping[str, float] = field(default_factory=dict)

    def outputs(self, bundle: LiveBundle, rows: Dataset, note: str) -> Judged:
        """What a bundle says of some rows."""
        said = run_engine(bundle.engine, rows, bundle.preprocess, self.progress.step, note)
        return Judged.of(bundle.params, bundle.calibrator, said)


def judge(bench: Bench, challenger: Path) -> Publication:
    """Judge a challenger that is in the store.

    It is refused if it cannot be loaded, if the test rows disprove its certificate, or if it does not reach the bars.
    It is kept beside the champion if it is not shown to be as good, or promises less, or if this machine lacks what one
    of them needs to be judged. A bundle that an operator has rolled back stays rolled back.

    Args:
        bench: what it is judged with.
        challenger: its directory.
    """
    pointer = bench.store.current()
    champion = None if pointer is None else pointer.bundle
    verdict = Publication(bundle=challenger.name, champion=champion, verdict="PROMOTE", test_rows=len(bench.test))
    if champion == challenger.name:
        return verdict
    rejected = bench.store.rejected().get(challenger.name)
    if rejected is not None:
        return _with(
            verdict,
            "KEEP",
            f"it {rejected}; `cascade engines activate --although-rejected` makes it current all the same",
        )
    try:
        new = load_bundle(challenger)
    except (EngineError, Stage1Error) as error:
        # Nothing is wrong with what lacks memory: to remove it would throw a night's work away.
        lacking = isinstance(error, Unavailable)
        where = " here" if lacking else ""
        return _with(verdict, "KEEP" if lacking else "REFUSE", f"it cannot be loaded{where}: {error}")
    with closing(new):
        judged = bench.outputs(new, bench.test, "test, by the challenger")
        latency = median_latency_ms(new, read_golden(challenger / GOLDEN)[0])
        verdict = verdict.model_copy(
            update={"mcc": judged.mcc, "reward": judged.reward(bench.seed), "latency_ms": latency}
        )
        verdict = _with(verdict, "REFUSE", *disproved(judged), *below_the_bars(new, judged, latency, bench.settings))
        if verdict.verdict == "REFUSE":
            return verdict
        if judged.params.status == "INFEASIBLE":
            note = f"nothing is certified, so it defers every image: {judged.params.reason}"
            verdict = verdict.model_copy(update={"notes": (note,)})
        if (revoked := bench.store.revoked().get(judged.params.name)) is not None:
            verdict = _with(verdict, "KEEP", f"an alarm has revoked its certificate at {revoked.at}: {revoked.reason}")
        if champion is None or revoked is not None:
            return verdict
        return _beside(bench, judged, open_bundle(bench.store, champion), verdict)


def _with(verdict: Publication, outcome: Outcome, *reasons: str) -> Publication:
    """The verdict with further reasons against the challenger, as it was without any."""
    if not reasons:
        return verdict
    return verdict.model_copy(update={"verdict": outcome, "reasons": (*verdict.reasons, *reasons)})


def _beside(bench: Bench, judged: Judged, champion: Champion | Unjudged, verdict: Publication) -> Publication:
    """The verdict after the challenger was set beside the champion, and beside the best of the last weeks."""
    certified, alarm = judged.params.status == "CERTIFIED", unanswered_alarm(bench.store)
    if isinstance(champion, Unjudged):
        why = f"the champion {champion.bundle} cannot be judged: {champion.reason}"
        if certified and champion.damaged and alarm is None:
            note = f"{why}; its files are damaged, so no miner could start with it"
            return verdict.model_copy(update={"notes": (*verdict.notes, note)})
        return _with(verdict, "KEEP", why)
    with closing(champion.live):
        held = champion.live.params
        if alarm is not None:
            return _after_alarm(bench, judged, champion, alarm, verdict)
        if held.status == "CERTIFIED" and not certified:
            return _with(verdict, "KEEP", f"the champion is certified, the challenger is not: {judged.params.reason}")
        weaker = _weaker(judged.params, held, accepted=bench.settings.accept_weaker_claim)
        if weaker:
            promise = f"its certificate promises less than the champion's, or something else: {weaker}"
            return _with(verdict, "KEEP", f"{promise}; gate.accept_weaker_claim=true lets it replace that one")
        verdict = _compared(bench, judged, champion, verdict)
    return _beside_the_best(bench, judged, champion.bundle, verdict)


def _after_alarm(
    bench: Bench, judged: Judged, champion: Champion, alarm: RevocationEntry, verdict: Publication
) -> Publication:
    """The verdict where an alarm is not answered yet; see `offline.publish.after_alarm`."""
    own, since = alarm.certificate == champion.live.params.name, alarm.at
    whose = f"the champion {champion.bundle}" if own else alarm.bundle
    told = f"an alarm has revoked the certificate of {whose} at {since:%Y-%m-%d %H:%M}"
    if not own:
        told += f", in the place of which the champion {champion.bundle} is current again"
    if judged.params.status != "CERTIFIED":
        return _with(verdict, "KEEP", f"{told}, and only a new certificate takes its place: {judged.params.reason}")
    weaker = weaker_than_asked(judged.params, champion.live.params)
    if weaker and not bench.settings.accept_weaker_claim:
        return _with(
            verdict, "KEEP", f"{told}, and it promises less than was asked of that, or something else: {weaker}"
        )
    reasons = unconfirmed(bench.fold, judged.params, bench.times, since)
    if reasons:
        return _with(verdict, "KEEP", *(f"{told}: {reason}" for reason in reasons))
    verdict = verdict.model_copy(update={"notes": (*verdict.notes, f"{told}: rows from before say nothing for it")})
    fresh = taken_since(judged.rows, bench.times, since)
    rows = None if fresh is None else champion.unseen(fresh, bench.contents, "test")
    if rows is None:
        return verdict
    theirs = _judged_on(bench, champion, rows)
    if isinstance(theirs, str):
        return verdict.model_copy(update={"notes": (*verdict.notes, theirs)})
    ours = Judged.of(judged.params, judged.calibrator, rows)
    found = compare(ours, theirs, champion.bundle, bench.settings, like=False, seed=bench.seed)
    worse = worse_since(found)
    verdict = verdict.model_copy(update={"compared": (found.model_copy(update={"reasons": worse}),)})
    return _with(verdict, "KEEP", *worse)


def _judged_on(bench: Bench, other: Champion, rows: LabelledOutputs) -> Judged | str:
    """Another bundle on some of the test rows; or why it cannot be judged on them."""
    try:
        return bench.outputs(other.live, bench.test.pick(list(rows.row_ids)), f"test, by {other.bundle}")
    except (EngineError, Stage1Error) as error:
        return f"{other.bundle} cannot be judged on the test rows: {error}"


def _weaker(params: ScrcParams, held: ScrcParams, *, accepted: bool) -> str:
    """What a certificate promises less than the one that it is to replace, or else; empty if it may all the same."""
    if accepted or held.status == "INFEASIBLE":
        return ""
    return "; ".join(Terms.of(params).weaker_than(Terms.of(held)))


def _compared(bench: Bench, judged: Judged, other: Champion, verdict: Publication) -> Publication:
    """The verdict after a paired comparison on the test rows that the other one has not seen."""
    rows = other.unseen(judged.rows, bench.contents, "test")
    if rows is None:
        return _with(
            verdict, "KEEP", f"{other.bundle} has seen all test rows of a class: there is nothing to compare on"
        )
    theirs = _judged_on(bench, other, rows)
    if isinstance(theirs, str):
        return _with(verdict, "KEEP", theirs)
    ours = Judged.of(judged.params, judged.calibrator, rows)
    alike = Terms.of(ours.params) == Terms.of(theirs.params)
    # Exits that break their promise are nothing to be measured by.
    broken = disproved(theirs)
    like = {ours.params.status, theirs.params.status} == {"CERTIFIED"} and alike and not broken
    found = compare(ours, theirs, other.bundle, bench.settings, like=like, seed=bench.seed)
    notes = tuple(f"exits are not compared with those of {other.bundle}: {reason}" for reason in broken)
    verdict = verdict.model_copy(update={"compared": (*verdict.compared, found), "notes": (*verdict.notes, *notes)})
    return _with(verdict, "KEEP", *found.reasons)


def _beside_the_best(bench: Bench, judged: Judged, champion: str, verdict: Publication) -> Publication:
    """The verdict after a comparison with the best bundle that was live of late, if the champion is not it.

    A champion that is a little worse than the one before it, night after night, would end far below the best of them.
    """
    for bundle in _best_of_late(bench, judged, champion):
        if bundle == champion:
            break
        best = open_bundle(bench.store, bundle)
        if isinstance(best, Champion):
            with closing(best.live):
                return _compared(bench, judged, best, verdict)
        better = "has a lower bound" if judged.params.mode == "coverage" else "let more exit"
        why = f"{bundle}, which was live and {better}, cannot be judged: {best.reason}"
        if not best.damaged:
            return _with(verdict, "KEEP", why)
        verdict = verdict.model_copy(update={"notes": (*verdict.notes, why)})
    return verdict


def _best_of_late(bench: Bench, judged: Judged, champion: str) -> list[str]:
    """Bundles that were live of late and were asked for the same, the best first, the champion among them.

    The best let most images exit; in mode `coverage`, where the exits are asked for, they have the lowest bound.
    """
    revoked = bench.store.revoked()
    # What was live before an alarm was good at a world that has changed since.
    since = max([bench.now - timedelta(days=bench.settings.memory_days), *(entry.at for entry in revoked.values())])
    there = {row.manifest.bundle_id: row.path for row in bench.store.bundles()}
    # Last, if it was asked for something else or is of another version: it has been compared already.
    found = {champion: -math.inf}
    out = bench.store.rejected().keys() | {entry.bundle for entry in revoked.values()}
    for bundle in (live_since(bench.store.root, since) & there.keys() - out) | {champion}:
        merit = merit_of(there[bundle])
        if merit is not None and merit.asked_for == (judged.params.status, Terms.of(judged.params).asked_for):
            found[bundle] = merit.value
    return sorted(found, key=lambda bundle: (-found[bundle], bundle))


def settled(bench: Bench, challenger: Path, check: Callable[[], None] = lambda: None) -> Publication:
    """Judge a challenger and make it current if it is promoted, by a verdict beside the champion that it replaces.

    Another night or an operator may make another bundle current while it is judged. Then it is judged anew.

    Args:
        bench: what it is judged with.
        challenger: its directory.
        check: called before the pointer moves; raises where it must not.

    Raises:
        PointerMoved: the pointer moved each time.
    """
    for left in reversed(range(TRIES)):
        pointer = bench.store.current()
        verdict = judge(bench, challenger)
        if not verdict.accepted:
            break
        check()
        try:
            after = 0 if pointer is None else pointer.sequence
            bench.store.activate(challenger.name, now=bench.now, action="publish", after=after)
            break
        except PointerMoved:
            if not left:
                raise
    return verdict


def published(run: Path) -> Publication:
    """What became of the challenger of a run.

    Raises:
        stage1.errors.ArtifactError: the run has not published.
    """
    return Publication.read(run / PUBLICATION)


def put_in_place(
    store: Store, made: str, params: ScrcParams, before: str, *, now: datetime, accept_weaker_claim: bool = False
) -> None:
    """Make a bundle current in the place of one of the same model.

    Args:
        store: holds both.
        made: id of the new one.
        params: its policy.
        before: id of the one whose place it takes.
        now: the time to record, with a time zone.
        accept_weaker_claim: it may promise less, or something else.

    Raises:
        PointerMoved: that one is not current.
        BundleRefused: that one is certified, and the new one is INFEASIBLE, or promises less and may not; or an alarm
            has revoked the certificate of one of them.
    """
    held, revoked = ScrcParams.read(store.path(before) / PARAMS), store.revoked()
    if params.name in revoked:
        raise BundleRefused(
            f"{made} stays a challenger: an alarm has revoked its certificate at {revoked[params.name].at}: "
            f"{revoked[params.name].reason}"
        )
    if held.name in revoked:
        raise BundleRefused(
            f"{made} stays a challenger: an alarm has revoked the certificate of {before}, and a new one from the same "
            "rows says nothing against it; label pictures that came since, and retrain"
        )
    if (held.status, params.status) == ("CERTIFIED", "INFEASIBLE"):
        raise BundleRefused(f"{made} stays a challenger: {before} is certified, and it is INFEASIBLE: {params.reason}")
    weaker = _weaker(params, held, accepted=accept_weaker_claim)
    if weaker:
        raise BundleRefused(
            f"{made} stays a challenger: it promises less than {before}, or something else: {weaker}; "
            f"`cascade engines activate {made}` makes it current all the same"
        )
    store.activate(made, now=now, action=COMPILE, instead_of=before)
