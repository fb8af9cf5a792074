"""The watch on the live certificate, in a running miner.

Nothing of it stands before an answer but a look at which policy is to be used, and a place in a queue. A thread of its
own takes pictures from there after their answers have left.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
from pydantic import ValidationError

from engines.live.load.load_bundle import LiveBundle
from engines.machine.tally import Tally
from miner.answering.image_queue import ImageQueue
from miner.answering.record import RequestRecord, SeenImage
from miner.live_risk.audit_events import Drawn, Labelled, Said, audit_name
from miner.live_risk.certificate_watch import CertificateWatch, certificate_id, last_caution, policy_with
from miner.live_risk.fixed_settings import check_change
from miner.live_risk.hourly import FILE, HourCounts, HourlyFile, OpenHours
from miner.live_risk.inbox import Inbox, label_unwatched
from miner.live_risk.secret import read_secret
from miner.live_risk.settings import LiveRiskSettings
from miner.live_risk.summary import SUMMARY, Summary
from stage1.artifacts import write_atomic
from stage1.certificate.caution import Caution
from stage1.decisions import Action
from stage1.errors import CascadeError
from stage1.monitor.audit import ExitLabel, drawn_number
from stage1.monitor.levels import Standing
from stage1.monitor.picture_hash import picture_hash
from stage1.monitor.sites import Sight, SiteBook, SiteBookState
from stage1.policy import ScrcPolicy

log = structlog.get_logger(__name__)

DIRECTORY, STREAMS, SITES = "live_risk", "streams", "sites.json"
# After an answer, which has left by then; pictures that came meanwhile are looked at together.
AFTER_S = 0.1
# Certificates whose audits are kept; those that were live longest ago go first.
KEPT_STREAMS = 6

T = TypeVar("T")
Tell = Callable[[str, Literal["info", "warning", "alarm"], str, Mapping[str, Any]], None]


def told_in_log(kind: str, level: str, text: str, details: Mapping[str, Any]) -> None:
    """Tell the log."""
    told = {"info": log.info, "warning": log.warning, "alarm": log.error}[level]
    told(kind, text=text, **details)


class LiveRisk:
    """Counts answers, draws audits, takes verdicts, and says with which policy a bundle decides.

    `on_answer` and `on_image` are called on the event loop, all else from any thread.

    Args:
        directory: where it keeps what must survive a restart.
        settings: of the watch.
        now: wall-clock time, UTC.
        tell: told of every change of a level.
        react: called from any thread when an alarm begins; for the reaction `rollback`.

    Attributes:
        audited: told of every audit that is drawn, with the picture.
        contradicted: told of an audit that Stage-2 contradicts, with its probability and the picture.
        queue: of the images, with the thread that has the disk.
        has_stage2: whether there is a Stage-2 to ask; if not, people label all audits.

    Raises:
        ArtifactError: the key of the draws cannot be read.
    """

    def __init__(
        self,
        directory: Path,
        settings: LiveRiskSettings,
        *,
        now: Callable[[], datetime],
        tell: Tell = told_in_log,
        react: Callable[[], object] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.react = react
        self.audited: Callable[[Drawn, bytes], None] | None = None
        self.contradicted: Callable[[Drawn, float, bytes], None] | None = None
        self.has_stage2: Callable[[], bool] = lambda: True
        self._directory = directory
        self._now = now
        self._tell = tell
        self._secret = read_secret(directory)
        self._inbox = Inbox(directory)
        self._sites = _read_sites(directory / SITES)
        self._hourly = HourlyFile(directory / FILE)
        self._hours = OpenHours()
        self._watches: dict[str, CertificateWatch] = {}
        self._policies: dict[str, ScrcPolicy] = {}
        self._live = ""
        # Guards what an audit changes; held by a thread while it writes, so the loop does not wait for it.
        self._lock = threading.RLock()
        self._status: dict[str, Any] = {}
        self.lost = Tally("live_risk_failed")
        self.queue = ImageQueue("live risk", self.take, self.lost, after_s=AFTER_S)

    # What the cascade asks.

    def policy(self, bundle: LiveBundle) -> ScrcPolicy:
        """The policy with which a bundle decides now: its own, or a more cautious one."""
        if (known := self._policies.get(name := certificate_id(bundle.params))) is None:
            # Until the disk says otherwise there may have been an alarm, and the event loop waits for no disk.
            known = self._policies[name] = policy_with(bundle.params, Caution(exits=False))
            self.queue.submit(lambda: self._begin(bundle))
        return known

    def on_answer(self, record: RequestRecord) -> None:
        """See `miner.answering.record.Observer`."""
        self._hours.add(record)

    def on_image(self, seen: SeenImage) -> None:
        """See `miner.answering.record.ImageObserver`."""
        self.queue.put(seen, reason="not_drawn", message="pictures come faster than they are looked at; not audited")

    # What runs in the thread.

    def take(self, seen: SeenImage) -> None:
        """Place one picture, and draw whether it is audited."""
        record = seen.record
        watch = self._watches.get(certificate_id(seen.params))
        if watch is None or record.roadwork_score is None:
            return
        picture, exits = picture_hash(seen.pixels), record.action is Action.EXIT
        with self._lock:
            visit = self._sites.visit(Sight(record.at.timestamp(), record.hotkey, picture), exits=exits)
        name = audit_name(record.at, record.request_id, record.image_sha256)
        if visit.first:
            with self._lock:
                watch.scores.add(record.roadwork_score, drawn_number(self._secret, f"{name}/rank"))
        if not (exits and visit.first_exit and self.settings.audits and record.prediction_set):
            return
        exit_label: ExitLabel = 1 if record.prediction_set[0] else 0
        shares = watch.audits.book.terms.shares
        number = drawn_number(self._secret, name)
        if number >= shares.of(exit_label):
            return
        with self._lock:
            if len(watch.audits.book.waiting) >= self.settings.most_waiting:
                # Whatever they show: a full store says nothing of the picture.
                self.lost.add("store_full", "too many audits wait: label them, or none are drawn")
                return
            event = Drawn(
                number=watch.audits.book.next_number,
                at=record.at,
                request_id=record.request_id,
                hotkey=record.hotkey,
                image_sha256=record.image_sha256,
                picture=picture,
                site=visit.site,
                exit_label=exit_label,
                score=record.roadwork_score,
                select_score=record.select_score or 0.0,
                probability=record.stage1_probability or 0.0,
                share=shares.of(exit_label),
                drawn=number,
                label_share=shares.labelled,
                label_drawn=drawn_number(self._secret, f"{name}/label") < shares.labelled,
                theta=watch.caution.theta,
                bundle=record.bundle,
            )
            watch.audits.draw(event, seen.content)
        self._hours.count("audits_drawn", 1, record.at, record.bundle)
        if self.audited is not None:
            self.audited(event, seen.content)

    # Verdicts.

    def unasked(self) -> tuple[str, Drawn, bytes] | None:
        """The oldest audit of the live bundle without a verdict: certificate, draw, picture."""
        with self._lock:
            watch = self._watches.get(self._live)
            drawn = None if watch is None else watch.audits.book.unasked()
            content = None if watch is None or drawn is None else watch.audits.picture(drawn.number)
            return None if drawn is None or content is None else (self._live, drawn, content)

    def flagged(self, asked: set[int]) -> tuple[str, int, bytes, str] | None:
        """The oldest that Stage-2 contradicts and that is not among `asked`, with the server that said so."""
        with self._lock:
            watch = self._watches.get(self._live)
            for one in [] if watch is None else watch.audits.book.flagged():
                if one.drawn.number not in asked and one.said is not None and watch is not None:
                    content = watch.audits.picture(one.drawn.number)
                    if content is not None:
                        return self._live, one.drawn.number, content, one.said.server
        return None

    def said(self, certificate: str, number: int, server: str, probability: float) -> None:
        """Take a verdict of Stage-2."""
        self._tell_contradicted(certificate, number, probability)
        self._add(certificate, Said(number=number, at=self._now(), server=server, probability=probability))

    def _tell_contradicted(self, certificate: str, number: int, probability: float) -> None:
        with self._lock:
            watch = self._watches.get(certificate)
            one = None if watch is None else watch.audits.book.waiting.get(number)
            content = None if watch is None else watch.audits.picture(number)
        if self.contradicted is None or one is None or content is None:
            return
        if int(probability > 0.5) != one.drawn.exit_label:
            self.contradicted(one.drawn, probability, content)

    def labelled(self, certificate: str, number: int, label: ExitLabel, by: Literal["person", "second_model"]) -> None:
        """Take a label."""
        self._add(certificate, Labelled(number=number, at=self._now(), label=label, by=by))

    def _add(self, certificate: str, event: Said | Labelled) -> None:
        with self._lock:
            watch = self._watches.get(certificate)
            if watch is None:
                return
            before = watch.audits.book.state.audits
            try:
                watch.audits.add(event)
            finally:
                # What is on the disk counts, also where a file beside it could not be written.
                self._use(watch)
            counted = watch.audits.book.state.audits - before
        self._hours.count("audits_counted", counted, self._now(), watch.bundle)
        self._look(watch)

    def tick(self) -> None:
        """Take labels from the inbox and look at the level again; called now and then, in the thread."""
        for path, labels in self._inbox.waiting():
            with self._lock:  # A watch that begins meanwhile would read its audits before or after, and miss some.
                for one in labels:
                    self.labelled(one.certificate, one.number, one.label, "person")
                label_unwatched(self._directory / STREAMS, labels, self._watches, self._now(), self.lost)
            path.unlink(missing_ok=True)
        self._write_hours(self._now())
        if (watch := self._watches.get(self._live)) is not None:
            self._look(watch)

    # Levels.

    def _look(self, watch: CertificateWatch) -> None:
        with self._lock:
            before, after = watch.stand(self._now()), watch.standing
            # For whoever reacts while another thread writes.
            self._read_status()
        if before is None or certificate_id(watch.params) != self._live:
            return
        self._told(watch, before, after)
        if after.level == "alarm" and before.level != "alarm" and self.react is not None:
            self.react()
        self._write_summary()

    def _told(self, watch: CertificateWatch, before: Standing, after: Standing) -> None:
        level: Literal["info", "warning", "alarm"]
        level = "alarm" if after.level == "alarm" else "warning" if after.level == "watch" else "info"
        details = {
            "risk_level": after.level,
            "risk_level_before": before.level,
            "bundle": watch.bundle,
            "reasons": sorted(after.reasons or {}),
            "theta": watch.caution.theta,
            "exits_as_0": watch.caution.exits0 and watch.caution.exits,
        }
        self._tell("live_risk", level, after.sentence, details)

    def _begin(self, bundle: LiveBundle) -> None:
        """Take up the watch on a certificate that has gone live, where it was left."""
        with self._lock:
            name = certificate_id(bundle.params)
            home = self._directory / STREAMS / name
            try:
                if name not in self._watches:
                    self._watches[name] = CertificateWatch(
                        home, bundle.params, bundle.bundle_id, self.settings, now=self._now()
                    )
                    self._forget_old(home.parent)
            except (CascadeError, OSError) as error:
                self.lost.add("not_watched", f"the certificate of {bundle.bundle_id} is not watched: {error}")
                self._live = ""
                self._policies[name] = policy_with(bundle.params, last_caution(home, self.settings))
                return
            self._live = name
            self._read_status()
            self.queue.submit(self._write_summary)
            self._use(self._watches[name])

    def change(self, settings: LiveRiskSettings) -> None:
        """Go on with other settings; called in the thread.

        Raises:
            SettingsError: they change what is drawn or counted.
        """
        check_change(self.settings, settings)
        with self._lock:
            self.settings = settings
            for watch in self._watches.values():
                watch.settings = settings
                self._use(watch)
            live = self._watches.get(self._live)
        if live is not None:
            self._look(live)

    def live(self, bundle: LiveBundle) -> None:
        """A bundle is live: from now on its certificate is the one that is told of."""
        if certificate_id(bundle.params) != self._live:
            self._begin(bundle)

    def _use(self, watch: CertificateWatch) -> None:
        self._policies[certificate_id(watch.params)] = policy_with(watch.params, watch.caution)

    def _forget_old(self, streams: Path) -> None:
        """Remove the audits of certificates that were live longest ago."""
        homes = sorted(streams.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for home in homes[KEPT_STREAMS:]:
            if home.name not in self._watches:
                shutil.rmtree(home, ignore_errors=True)

    # What is told.

    def drifts(self, score: float) -> bool:
        """Whether scores drift at present, and this one is of those to which they do; from any thread."""
        with self._lock:
            watch = self._watches.get(self._live)
            return watch is not None and "drift" in (watch.standing.reasons or {}) and watch.scores.leads(score)

    def healthy(self, bundle: LiveBundle) -> bool:
        """Whether a bundle is certified and no alarm was raised while it was live."""
        with self._lock:
            if bundle.params.status != "CERTIFIED":
                return False
            name, home = certificate_id(bundle.params), self._directory / STREAMS
            watch = self._watches.get(name) or CertificateWatch(
                home / name, bundle.params, bundle.bundle_id, self.settings, now=self._now()
            )
            return not watch.audits.book.state.alarms

    def status(self) -> dict[str, Any]:
        """Plain values; those of the last time while the thread writes, for the event loop waits for no disk."""
        if self._lock.acquire(blocking=False):
            try:
                self._read_status()
            finally:
                self._lock.release()
        common = {"enabled": True, "audits": self.settings.audits, "reaction": self.settings.reaction}
        return {**common, **self._status, "failed": dict(self.lost.counts)}

    def _read_status(self) -> None:
        watch = self._watches.get(self._live)
        self._status = {} if watch is None else watch.status(self._now(), has_stage2=self.has_stage2())

    def _write_hours(self, now: datetime | None) -> None:
        for counts in self._hours.over(now):
            self._write_hour(counts)

    def _write_hour(self, counts: HourCounts) -> None:
        with self._lock:
            watch = next((one for one in self._watches.values() if one.bundle == counts.bundle), None)
            readings, sites = {} if watch is None else watch.readings(), self._sites.state
            if watch is not None:
                watch.keep_scores()
        self._hourly.append(counts.row(readings))
        write_atomic(self._directory / SITES, sites.model_dump_json().encode())
        self._write_summary()

    def _write_summary(self) -> None:
        with self._lock:
            watch = self._watches.get(self._live)
            if watch is not None:
                self._read_status()
                path = self._directory / SUMMARY
                Summary.of(path).with_status(self._status, self._now()).write(path)

    def in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run something in the thread, from the loop."""
        return asyncio.wrap_future(self.queue.disk.submit(work))

    def close(self, wait_s: float | None = None) -> None:
        """Take what waits, and write what only memory knows; see `ImageQueue.close`."""
        self.queue.close(partial(self._write_hours, None), wait_s)


def _read_sites(path: Path) -> SiteBook:
    """Places of the last day; none where they cannot be read."""
    try:
        state = SiteBookState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return SiteBook()
    return SiteBook.restored(state)
