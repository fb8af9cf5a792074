"""`cascade engines card`: a model card with nothing left open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from engines.store.bundle import Manifest
from engines.store.file_names import MANIFEST
from engines.store.model_card import ModelCard, next_version, read_card, submitted_at, write_card
from engines.store.store import Store
from stage1.errors import SettingsError
from stage1.settings import problems


def completed_card(
    root: Path,
    bundle: str,
    given: Mapping[str, str | None],
    *,
    now: datetime,
    renew: bool,
    ask: Callable[[str], str | None],
) -> ModelCard:
    """The card of a bundle, which is kept beside it.

    Args:
        root: of the store.
        bundle: id or an unambiguous beginning of one.
        given: fields of the card; those that are None stay as they are.
        now: the time, with a time zone.
        renew: the model is submitted at this time.
        ask: a person for the hotkey; None if there is nobody.

    Raises:
        UnknownBundle: it is not in the store.
        SettingsError: a field does not fit, or nobody names the hotkey.
        StoreError: the card that is there is damaged.
    """
    home = Store(root).path(bundle)
    card = read_card(root, home.name)
    fields = {} if card is None else card.model_dump()
    fields |= {name: value for name, value in given.items() if value is not None}
    fields.setdefault("version", next_version(root, home.name))
    if renew or "submission_time" not in fields:
        since = None if renew else submitted_at(root, Manifest.read(home / MANIFEST))
        fields["submission_time"] = int((since or now).timestamp())
    if not fields.get("submitted_by"):
        fields["submitted_by"] = ask("ss58 address of the hotkey that submits it")
    if not fields["submitted_by"]:
        raise SettingsError("the card does not know the hotkey: give --hotkey, which `cascade doctor` names")
    try:
        whole = ModelCard.model_validate(fields)
    except ValidationError as error:
        raise SettingsError(f"the card: {problems(error)}") from error
    write_card(root, home.name, whole)
    return whole
