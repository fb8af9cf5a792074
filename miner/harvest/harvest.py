"""Keeps images of requests for labelling, in a thread of its own, after their answers have left."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

from engines.machine.tally import Tally
from miner.answering.image_queue import ImageQueue
from miner.answering.record import RequestRecord, SeenImage
from miner.harvest.kept_image import KeptImage, Reason, week_of
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import HarvestStore
from miner.live_risk.audit_events import Drawn
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.secret import read_secret
from stage1.decisions import Action
from stage1.monitor.audit import ExitLabel, drawn_number
from stage1.monitor.picture_hash import picture_hash
from stage1.monitor.sites import Sight, SiteBook, SiteBookState

DIRECTORY = "harvest"
AFTER_S = 0.2


class Harvest:
    """An observer of images.

    Args:
        directory: of the store.
        settings: which are kept.
        secret: key of the draw.
    """

    def __init__(self, directory: Path, settings: HarvestSettings, *, secret: bytes) -> None:
        self._settings = settings
        self._secret = secret
        self.store = HarvestStore(directory, most_bytes=settings.max_mib * 2**20, per_place=settings.per_place)
        # Numbers of places go on where they were.
        last = max((one.site for one in self.store.images.values()), default=0)
        self._sites = SiteBook.restored(SiteBookState(next_site=last + 1))
        self.lost = Tally("harvest_failed")
        self._queue = ImageQueue("harvest", self.take, self.lost, after_s=AFTER_S)

    def on_image(self, seen: SeenImage) -> None:
        """See `miner.answering.record.ImageObserver`."""
        self._queue.put(seen, reason="not_kept", message="pictures came faster than they are written")

    def take(self, seen: SeenImage) -> bool:
        """Keep one image, if there is a reason; in the thread.

        Returns:
            Whether it was kept.
        """
        record = seen.record
        reasons = self._reasons(record)
        if not reasons or record.roadwork_score is None:
            return False
        exit_label: ExitLabel | None = None
        if record.action is Action.EXIT and record.prediction_set:
            exit_label = 1 if record.prediction_set[0] else 0
        picture = picture_hash(seen.pixels)
        image = KeptImage(
            sha256=record.image_sha256,
            at=record.at,
            reasons=reasons,
            week=week_of(record.at) if "random" in reasons else "",
            request_id=record.request_id,
            hotkey=record.hotkey,
            bundle=record.bundle,
            site=self._site(record.at, record.hotkey, picture),
            picture=picture,
            size=len(seen.content),
            suffix=_suffix(seen.content),
            exit_label=exit_label,
            score=record.roadwork_score,
            probability=record.stage1_probability or 0.0,
            stage2_probability=record.stage2_probability,
        )
        return self.store.keep(image, seen.content)

    def take_contradicted(self, drawn: Drawn, probability: float, content: bytes) -> None:
        """Keep the picture of an audit that Stage-2 contradicts; from any thread."""
        if not self._settings.picked:
            return

        def keep() -> None:
            image = KeptImage(
                sha256=drawn.image_sha256,
                at=drawn.at,
                reasons=("contradicted",),
                request_id=drawn.request_id,
                hotkey=drawn.hotkey,
                bundle=drawn.bundle,
                site=self._site(drawn.at, drawn.hotkey, drawn.picture),
                picture=drawn.picture,
                size=len(content),
                suffix=_suffix(content),
                exit_label=drawn.exit_label,
                score=drawn.score,
                probability=drawn.probability,
                stage2_probability=probability,
            )
            try:
                self.store.keep(image, content)
            except OSError as error:
                self.lost.add("not_written", str(error))

        self._queue.submit(keep)

    def _site(self, at: datetime, hotkey: str, picture: int | None) -> int:
        return self._sites.visit(Sight(at.timestamp(), hotkey, picture), exits=False).site

    def _reasons(self, record: RequestRecord) -> tuple[Reason, ...]:
        found: list[Reason] = []
        name = f"{record.at.isoformat()}/{record.request_id}/{record.image_sha256}/harvest"
        if drawn_number(self._secret, name) < self._settings.random_share:
            found.append("random")
        if self._settings.picked:
            if record.action is Action.DEFER:
                found.append("ambiguous" if record.review else "deferred")
            said = record.stage2_probability
            if said is not None and int(said > 0.5) != record.likelier_label:
                found.append("disagree")
        return tuple(found)

    def close(self) -> None:
        """Write what waits."""
        self._queue.close()

    def status(self) -> dict[str, object]:
        """Plain values for the status."""
        # Copied in one step, because the thread adds to it meanwhile.
        images = [one for one in list(self.store.images.values()) if not one.gone]
        reasons = Counter(reason for one in images for reason in one.reasons)
        return {
            "pictures": len(images),
            "mib": round(self.store.size / 2**20, 1),
            "reasons": dict(reasons),
            "failed": dict(self.lost.counts),
        }


def _suffix(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"


def open_harvest(
    settings: HarvestSettings, state: Path, risk: LiveRisk | None, stack: AsyncExitStack
) -> Harvest | None:
    """The harvest, None where the settings want none.

    Args:
        settings: which images are kept.
        state: directory of what must survive a restart.
        risk: the watch, which knows what audits contradict.
        stack: closes it.

    Raises:
        stage1.errors.ArtifactError: the key of the draws cannot be read.
    """
    if not settings.enabled:
        return None
    home = state / DIRECTORY
    home.mkdir(parents=True, exist_ok=True)
    harvest = Harvest(home, settings, secret=read_secret(home))
    stack.push_async_callback(asyncio.to_thread, harvest.close)
    if risk is not None:
        risk.contradicted = harvest.take_contradicted
    return harvest
