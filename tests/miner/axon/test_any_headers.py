"""Whatever stands in the headers, a caller gets an answer or is refused; nothing breaks."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from miner.answering.request import Prediction
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.routes import RouteTable
from miner.axon.settings import AccessSettings, WireSettings
from miner.axon.wires import subnet72
from miner.chain.port import Neuron
from tests.support.btauth import sign

BODY = b'{"image": ""}'
# What the HTTP parser lets through as a value, and what is near to being right.
values = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    st.integers().map(lambda number: str(number).encode()),
    st.floats().map(lambda number: str(number).encode()),
    st.from_regex(rb"\A(0x)?[0-9a-fA-F]{126,130}\Z"),
    st.sampled_from([b"", b"0", b"-1", b"nan", b"1e309", b"0x", b"sr25519", b"ed25519", b"1", b"2", b"5" * 48]),
)
LEGACY = [
    "timeout",
    "computed_body_hash",
    *(f"bt_header_dendrite_{name}" for name in ("nonce", "uuid", "signature", "version", "ip")),
    "bt_header_axon_hotkey",
]
BTAUTH = [f"x-bittensor-{name}" for name in ("version", "receiver", "nonce", "crypto", "signature")]
changes = st.dictionaries(st.sampled_from([*LEGACY, *BTAUTH, "name", "content-type"]), values, max_size=6)
removed = st.sets(st.sampled_from([*LEGACY, *BTAUTH]), max_size=3)


def answered(signer, headers, *, target=b"/ImageSynapse", method="POST"):
    """The status of the reply to a request with such headers, and what was logged as an error."""

    async def answer(_request):
        return Prediction(0.5)

    async def receive():
        return {"type": "http.request", "body": BODY}

    sent = []

    async def send(message):
        sent.append(message)

    access = AccessPolicy(AccessSettings(), {signer.hotkey: Neuron(uid=7, validator_permit=True)})
    table = RouteTable(subnet72.routes(signer.receiver, WireSettings(allow_unbound_receiver=True)))
    scope = {
        "type": "http",
        "method": method,
        "path": "/ImageSynapse",
        "raw_path": target,
        "headers": list(headers.items()),
    }
    with capture_logs() as logs:
        asyncio.run(AxonApp(answer, routes=table, access=access)(scope, receive, send))
    assert not [entry for entry in logs if entry["log_level"] in {"error", "critical"}]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"]


def legacy(signer):
    return signer.headers()


def btauth(signer):
    return sign(signer.key, BODY, signer.receiver)


@pytest.mark.parametrize("protocol", [legacy, btauth], ids=lambda made: made.__name__)
@settings(max_examples=50, deadline=None)
@given(changed=changes, gone=removed)
def test_a_permitted_hotkey_with_anything_beside_it(validator, protocol, changed, gone):
    headers = {name.lower(): value.encode() for name, value in protocol(validator).items() if name.lower() not in gone}
    headers |= {name: value for name, value in changed.items() if name not in gone}
    raw = {name.encode(): value for name, value in headers.items()}
    assert answered(validator, raw) in {200, 400, 401}


@settings(max_examples=25, deadline=None)
@given(
    headers=st.dictionaries(st.binary(max_size=30), values, max_size=8),
    method=st.sampled_from(["POST", "GET", ""]),
    target=st.binary(max_size=40),
)
def test_anything_at_all(validator, headers, method, target):
    kept = {name: value for name, value in headers.items() if name.lower() != b"content-length"}
    assert answered(validator, kept, target=target, method=method) in {403, 404}


@settings(max_examples=25, deadline=None)
@given(sender=values, name=st.sampled_from([b"x-bittensor-hotkey", b"bt_header_dendrite_hotkey"]))
def test_any_sender(validator, sender, name):
    assert answered(validator, {name: sender}) == 403


@settings(max_examples=25, deadline=None)
@given(target=st.binary(min_size=1, max_size=40))
def test_any_target_is_only_what_is_signed(validator, target):
    headers = {name.lower().encode(): value.encode() for name, value in btauth(validator).items()}
    assert answered(validator, headers, target=target) == (200 if target == b"/ImageSynapse" else 401)
