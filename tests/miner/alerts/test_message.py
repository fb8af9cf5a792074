"""Bodies of messages against what each receiver documents."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from miner.alerts.message import message
from miner.alerts.settings import Form
from miner.events.event import Event


def of(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


# Discord, Webhook Resource, Execute Webhook: one of content, embeds and others must be there; content has up to 2,000
# characters. Allowed mentions: `parse` names roles, users and everyone.
DISCORD = of(
    ["content"],
    content={"type": "string", "minLength": 1, "maxLength": 2000},
    username={"type": "string", "minLength": 1, "maxLength": 80},
    tts={"type": "boolean"},
    allowed_mentions=of([], parse={"type": "array", "items": {"enum": ["roles", "users", "everyone"]}}),
)
# Slack, Sending messages using incoming webhooks: `text`, in which &, < and > stand as &amp;, &lt; and &gt;. Truncated
# beyond 40,000 characters.
SLACK = of(
    ["text"], text={"type": "string", "minLength": 1, "maxLength": 40_000, "pattern": "^([^&<>]|&(amp|lt|gt);)*$"}
)
# Telegram Bot API 7.0 and later, sendMessage: 1 to 4,096 characters; link_preview_options has taken the place of
# disable_web_page_preview.
TELEGRAM = of(
    ["chat_id", "text"],
    chat_id={"type": ["integer", "string"]},
    text={"type": "string", "minLength": 1, "maxLength": 4096},
    parse_mode={"enum": ["HTML", "MarkdownV2"]},
    disable_notification={"type": "boolean"},
    link_preview_options=of([], is_disabled={"type": "boolean"}),
)
FORMS: dict[Form, dict[str, Any]] = {"discord": DISCORD, "slack": SLACK, "telegram": TELEGRAM}
EVENTS = [
    Event("slow", "alarm", "It is slow."),
    Event("x", "warning", "@everyone <!channel> & <b>all</b> " + "y" * 5000),
    Event("condition_over", "info", "Over after 2 minutes: gpu fault 0 xid.", {"condition": "gpu_fault 0 xid"}),
    Event("umlaut", "alarm", "älter als 90 °C " * 300),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_each_body_is_what_its_receiver_documents(form: Form, event: Event) -> None:
    body = message(event, form, miner="box, state", at="2026-01-01T00:00:00+00:00", unsent=3, chat="-100123")
    jsonschema.Draft202012Validator(FORMS[form]).validate(body)
    # Discord counts as UTF-16 does, at the worst.
    assert len(str(body).encode("utf-16-le")) // 2 < 2000 + 200


def test_the_schemas_refuse_what_is_wrong() -> None:
    wrong = {
        "discord": {"content": "x" * 2001},
        "slack": {"text": "a <b>"},
        "telegram": {"chat_id": "7", "text": "a", "disable_web_page_preview": True},
    }
    for form, schema in FORMS.items():
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(wrong[form])
