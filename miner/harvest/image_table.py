"""What is known of kept images, packed: a fifth of the memory of as many models, for a miner that runs for months."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import NamedTuple

from miner.harvest.kept_image import REASONS, KeptImage, Reason
from stage1.monitor.audit import ExitLabel

# Microseconds since 1970, bytes, place, hash, three scores, reasons, flags, week, who asked, bundle, suffix.
_PACKED = Struct("<qQQQdddBBIIII")
_ORDER = Struct("<qQ40xBBI")
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_GONE, _HAS_HASH, _HAS_STAGE2, _EXITS, _EXITS_1 = 1, 2, 4, 8, 16
_REASON_BITS = {reason: 1 << place for place, reason in enumerate(REASONS)}


class Outline(NamedTuple):
    """What decides who makes room.

    Attributes:
        sha256: hash of the picture.
        at: when its request came, microseconds since 1970.
        size: of the file, bytes.
        main_reason: the rarest of its reasons.
        gone: the picture was removed.
        week: of the draw, empty if it was not drawn at random.
    """

    sha256: str
    at: int
    size: int
    main_reason: Reason
    gone: bool
    week: str


class ImageTable(MutableMapping[str, KeptImage]):
    """Images by hash, in the order in which they were put in; one that is put in again keeps its place in it."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._words: list[str] = []
        self._numbers: dict[str, int] = {}

    def __getitem__(self, sha256: str) -> KeptImage:
        key = _key(sha256)
        return self._unpacked(key, self._rows[key])

    def __setitem__(self, sha256: str, image: KeptImage) -> None:
        self._rows[_key(sha256)] = self._packed(image)

    def __delitem__(self, sha256: str) -> None:
        del self._rows[_key(sha256)]

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and _key(sha256) in self._rows

    def __iter__(self) -> Iterator[str]:
        return (key.hex() for key in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def outlines(self) -> Iterator[Outline]:
        """The outline of each, in order; a tenth of the work of reading all of each."""
        for key, row in self._rows.items():
            at, size, reasons, flags, week = _ORDER.unpack_from(row)
            yield Outline(
                key.hex(), at, size, REASONS[reasons.bit_length() - 1], bool(flags & _GONE), self._words[week]
            )

    def _packed(self, image: KeptImage) -> bytes:
        flags = _GONE * image.gone + _HAS_HASH * (image.picture is not None)
        flags += _HAS_STAGE2 * (image.stage2_probability is not None)
        flags += _EXITS * (image.exit_label is not None) + _EXITS_1 * (image.exit_label == 1)
        fixed = _PACKED.pack(
            (image.at - _EPOCH) // _MICROSECOND,
            image.size,
            image.site,
            image.picture or 0,
            image.score,
            image.probability,
            image.stage2_probability or 0.0,
            sum(_REASON_BITS[reason] for reason in {*image.reasons}),
            flags,
            *(self._number(word) for word in (image.week, image.hotkey, image.bundle, image.suffix)),
        )
        return fixed + image.request_id.encode()

    def _unpacked(self, key: bytes, row: bytes) -> KeptImage:
        at, size, site, picture, score, probability, stage2, reasons, flags, *words = _PACKED.unpack_from(row)
        week, hotkey, bundle, suffix = (self._words[number] for number in words)
        exit_label: ExitLabel | None = None
        if flags & _EXITS:
            exit_label = 1 if flags & _EXITS_1 else 0
        # It was validated when it was put in.
        return KeptImage.model_construct(
            sha256=key.hex(),
            at=_EPOCH + at * _MICROSECOND,
            reasons=tuple(reason for reason, bit in _REASON_BITS.items() if reasons & bit),
            week=week,
            request_id=row[_PACKED.size :].decode(),
            hotkey=hotkey,
            bundle=bundle,
            site=site,
            picture=picture if flags & _HAS_HASH else None,
            size=size,
            suffix=suffix,
            exit_label=exit_label,
            score=score,
            probability=probability,
            stage2_probability=stage2 if flags & _HAS_STAGE2 else None,
            gone=bool(flags & _GONE),
        )

    def _number(self, word: str) -> int:
        """Weeks, callers, bundles and suffixes are few, so each is kept once."""
        number = self._numbers.setdefault(word, len(self._words))
        if number == len(self._words):
            self._words.append(word)
        return number


def _key(sha256: str) -> bytes:
    return bytes.fromhex(sha256)
