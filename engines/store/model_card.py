"""`model_card.json`, which NATIX looks for in the repository of a model: what it is, whose, and since when.

A card lies beside its bundle and not in it: the id of a bundle is a hash of its files, and neither a hotkey nor a time
may change that. So old bundles need none, and a card may be made anew.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.errors import StoreError
from engines.store.bundle import Manifest
from engines.store.records import PUBLISHED, PublishedEntry, read_entries
from stage1.artifacts import write_atomic
from stage1.settings import first_problem

CARDS = "model_cards"
NAME = "streetvision-cascade"
DESCRIPTION = "Roadwork in images of streets: a small vision transformer whose exits are certified."
# NATIX pays a model in full for so many days.
FULL_REWARD_DAYS = 90.0
DAY_S = 86_400.0
VERSION = r"^\d+\.\d+\.\d+$"
# An ss58 address of an account: base 58, which has no 0, O, I and l.
SS58 = r"^[1-9A-HJ-NP-Za-km-z]{47,48}$"


class ModelCard(BaseModel):
    """The file, with exactly the fields that NATIX reads.

    Attributes:
        model_name: what the model is called.
        description: what it does.
        version: X.Y.Z.
        submitted_by: ss58 address of the hotkey; None in a card of the store whose hotkey nobody has named yet.
        submission_time: seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: str = Field(default=NAME, min_length=1)
    description: str = DESCRIPTION
    version: str = Field(pattern=VERSION)
    submitted_by: str | None = Field(default=None, pattern=SS58)
    submission_time: int = Field(ge=0)

    def to_json(self) -> str:
        """The content of the file."""
        return self.model_dump_json(indent=2) + "\n"


def card_path(root: Path, bundle: str) -> Path:
    """Where a store keeps the card of a bundle.

    Args:
        root: of the store.
        bundle: its whole id.
    """
    return root / CARDS / f"{bundle}.json"


def write_card(root: Path, bundle: str, card: ModelCard) -> None:
    """Keep the card of a bundle, instead of the one before; see `card_path`."""
    path = card_path(root, bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, card.to_json().encode())


def read_card(root: Path, bundle: str) -> ModelCard | None:
    """The card of a bundle, None if there is none; see `card_path`.

    Raises:
        StoreError: it is damaged.
    """
    path = card_path(root, bundle)
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        told = first_problem(error, otherwise="the file")
        raise StoreError(f"{path}: not a model card: {told}; remove it and make a new one") from error


def next_version(root: Path, bundle: str) -> str:
    """The version of a bundle: its place in the order of publication, which is never used twice.

    Args:
        root: of the store.
        bundle: its whole id.
    """
    order = [entry.bundle for entry in read_entries(root / PUBLISHED, PublishedEntry)]
    # One that is not listed was there before there was a list.
    return f"1.0.{len(order) - order[::-1].index(bundle) if bundle in order else 0}"


def submitted_at(root: Path, manifest: Manifest) -> datetime | None:
    """Since when a model counts: the time on its card, or else that of its publication; None if neither can be read.

    Args:
        root: of the store.
        manifest: of its bundle.
    """
    # Told to people, and nothing depends on it: a damaged card must not keep a miner from saying how it is.
    with contextlib.suppress(StoreError, ValueError, OverflowError, OSError):
        card = read_card(root, manifest.bundle_id)
        if card is not None:
            return datetime.fromtimestamp(card.submission_time, UTC)
        at = datetime.fromisoformat(manifest.provenance.created_at)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None


def age_days(root: Path, manifest: Manifest, now: datetime) -> float | None:
    """Age of a model in days; None where nothing says since when it counts.

    Args:
        root: of the store.
        manifest: of its bundle.
        now: with a time zone.
    """
    since = submitted_at(root, manifest)
    return None if since is None else (now - since).total_seconds() / DAY_S
