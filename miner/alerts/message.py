"""An event as each receiver reads it."""

from __future__ import annotations

from typing import Any

from miner.alerts.settings import Form
from miner.events.event import Event

OVER = "over"
# Discord takes 2,000 characters, Telegram 4,096.
LONGEST = 1_800


def message(event: Event, form: Form, *, miner: str, at: str, unsent: int, chat: str | None) -> dict[str, Any]:
    """The body of a message, as JSON.

    Args:
        event: what happened.
        form: who reads it.
        miner: which miner it is, for a person.
        at: when, ISO 8601.
        unsent: how many before it were not sent, because there were too many.
        chat: for Telegram, the id of the chat.
    """
    if form == "json":
        return {
            "kind": event.kind,
            "level": event.level,
            "text": event.text,
            "details": dict(event.details),
            "miner": miner,
            "at": at,
            "unsent": unsent,
        }
    mark = OVER if event.kind == "condition_over" else event.level
    more = f"\n{unsent} earlier messages were not sent, because there were too many." if unsent else ""
    text = f"[{mark}] {miner}: {event.text}{more}"
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    if form == "discord":
        # Nobody is called by a text that holds an @.
        return {"content": text, "allowed_mentions": {"parse": []}}
    if form == "slack":
        return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    # Without a parse mode the text is taken as it is.
    return {"chat_id": chat, "text": text, "link_preview_options": {"is_disabled": True}}
