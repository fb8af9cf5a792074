"""Keeps images of requests for labelling, in a thread of its own, after their answers have left."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

from engines.machine.tally import Tally
from miner.answering.image_queue import ImageQueue
from miner.answering.record import RequestRecord, SeenImage
from miner.harvest.kept_image import PLACES_LAST, KeptImage, Reason, draw_name, week_of
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import HarvestStore, Limits
from miner.live_risk.audit_events import Drawn
from stage1.decisions import Action
from stage1.monitor.audit import ExitLabel, drawn_number
from stage1.monitor.picture_hash import picture_hash
from stage1.monitor.sites import Sight, SiteBook, SiteBookState, place_name

DIRECTORY = "harvest"
AFTER_S = 0.2


class Harvest:
    """An observer of images.

    Args:
        directory: of the store.
        settings: which are kept.
        secret: key of the draw.
        drifts: whether scores drift, and one is of those to which they do.

    Attributes:
        store: of the images.
        lost: counts what is not kept.
        queue: of the images, with the thread that has the disk.
    """

    def __init__(
        self,
        directory: Path,
        settings: HarvestSettings,
        *,
        secret: bytes,
        drifts: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._drifts = drifts
        self.store = HarvestStore(directory, limits_of(settings), rank=self._rank)
        self._sites = _places_of(self.store.images.values())
        self.lost = Tally("harvest_failed")
        self.queue = ImageQueue("harvest", self.take, self.lost, after_s=AFTER_S)

    def on_image(self, seen: SeenImage) -> None:
        """See `miner.answering.record.ImageObserver`."""
        self.queue.put(seen, reason="not_kept", message="pictures came faster than they are written")

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

    def take_audited(self, drawn: Drawn, content: bytes) -> None:
        """Keep the picture of an audit; from any thread."""
        self._take_drawn(drawn, "audited", None, content)

    def take_contradicted(self, drawn: Drawn, probability: float, content: bytes) -> None:
        """Keep the picture of an audit that Stage-2 contradicts; from any thread."""
        self._take_drawn(drawn, "contradicted", probability, content)

    def _take_drawn(self, drawn: Drawn, reason: Reason, stage2_probability: float | None, content: bytes) -> None:
        if not self._settings.picked:
            return

        def keep() -> None:
            image = KeptImage(
                sha256=drawn.image_sha256,
                at=drawn.at,
                reasons=(reason,),
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
                stage2_probability=stage2_probability,
            )
            try:
                self.store.keep(image, content)
            except OSError as error:
                self.lost.add("not_written", str(error))

        self.queue.submit(keep)

    def _site(self, at: datetime, hotkey: str, picture: int | None) -> int:
        return self._sites.visit(Sight(at.timestamp(), hotkey, picture), exits=False).site

    def _reasons(self, record: RequestRecord) -> tuple[Reason, ...]:
        found: list[Reason] = []
        name = draw_name(record.at, record.request_id, record.image_sha256)
        if drawn_number(self._secret, name) < self._settings.random_share:
            found.append("random")
        if self._settings.picked:
            if record.action is Action.DEFER:
                found.append("ambiguous" if record.review else "deferred")
            if self._follows_drift(record.roadwork_score, name):
                found.append("drift")
            said = record.stage2_probability
            if said is not None and int(said > 0.5) != record.likelier_label:
                found.append("disagree")
        return tuple(found)

    def _follows_drift(self, score: float | None, name: str) -> bool:
        drawn = drawn_number(self._secret, f"{name}/drift") < self._settings.drift_share
        return drawn and score is not None and self._drifts(score)

    def _rank(self, image: KeptImage) -> float:
        """The number that was drawn for an image."""
        return drawn_number(self._secret, draw_name(image.at, image.request_id, image.sha256))

    def close(self, wait_s: float | None = None) -> None:
        """Write what waits; see `ImageQueue.close`."""
        self.queue.close(wait_s=wait_s)

    def status(self) -> dict[str, object]:
        """Plain values for the status."""
        # Copied in one step, because the thread adds to it meanwhile.
        reasons = dict(self.store.reasons)
        return {
            "pictures": self.store.number,
            "mib": round(self.store.size / 2**20, 1),
            "reasons": {reason: number for reason, number in reasons.items() if number},
            "failed": dict(self.lost.counts),
        }


def limits_of(settings: HarvestSettings) -> Limits:
    """How much a store of these settings keeps."""
    return Limits(
        size=settings.max_mib * 2**20,
        pictures=settings.max_pictures,
        per_place=settings.per_place,
        random_per_place=settings.random_per_place,
    )


def _places_of(images: Collection[KeptImage]) -> SiteBook:
    """Places go on where they were when the process ended, and their numbers too."""
    last, newest = 0, datetime.min.replace(tzinfo=UTC)
    for one in images:
        last, newest = max(last, one.site), max(newest, one.at)
    recent = sorted((one for one in images if newest - one.at <= PLACES_LAST), key=lambda one: one.at)
    pictures = tuple((one.picture, one.at.timestamp(), one.site) for one in recent if one.picture is not None)
    names: dict[str, tuple[str, float, int]] = {}
    for one in recent:
        name = place_name(Sight(one.at.timestamp(), one.hotkey, one.picture))
        names.setdefault(name, (name, one.at.timestamp(), one.site))
    return SiteBook.restored(SiteBookState(next_site=last + 1, pictures=pictures, names=tuple(names.values())))


def _suffix(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"
