"""The table of routes: another subnet's wire is one file, and several may be spoken at one path."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import math
import time
from contextlib import closing

import pytest

from miner.answering.request import Prediction
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.refusals import NotFound
from miner.axon.routes import Route, RouteTable
from miner.axon.server import AxonServer
from miner.axon.settings import AccessSettings, AxonSettings, WireSettings
from miner.axon.wires import subnet72
from miner.axon.wires.btauth_protocol import BtauthProtocol
from miner.axon.wires.image_codecs import ImageInJson
from miner.axon.wires.legacy_protocol import LegacyProtocol
from miner.axon.wires.open_wire import open_wire
from miner.chain.port import Neuron
from stage1.errors import SettingsError

TOY = WireSettings(module="tests.miner.axon.toy_wire")


def opened(settings: WireSettings = TOY) -> RouteTable:
    return open_wire("5Axon", settings, age_s=lambda: math.inf)


def detect(port: int, signer, body: bytes, *, path: str = "/v1/detect") -> tuple[int, dict, str | None]:
    nonce = str(int(time.time()))
    message = f"{nonce}:{hashlib.sha256(b'ffd8').hexdigest()}"
    headers = {"toy-hotkey": signer.hotkey, "toy-nonce": nonce, "toy-signature": "0x" + signer.key.sign(message).hex()}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()), reply.getheader("toy-status")


def test_the_wire_of_another_subnet_is_one_file(validator, stranger):
    waits = []

    async def answer(request):
        waits.append((request.image_b64, request.deadline.due - request.deadline.arrived))
        return Prediction(0.25)

    async def scenario():
        access = AccessPolicy(AccessSettings(), {validator.hotkey: Neuron(uid=7, validator_permit=True)})
        server = AxonServer(AxonApp(answer, routes=opened(), access=access), AxonSettings(host="127.0.0.1", port=0))
        await server.start()
        asked = [
            (validator, b"ffd8", "/v1/detect"),
            (validator, b"ffd8ff", "/v1/detect"),
            (stranger, b"ffd8", "/v1/detect"),
            (validator, b"ffd8", "/ImageSynapse"),
        ]
        try:
            return [await asyncio.to_thread(detect, server.port, s, body, path=path) for s, body, path in asked]
        finally:
            await server.stop(1)

    answered, forged, refused, elsewhere = asyncio.run(scenario())
    assert answered == (200, {"score": 0.25}, "200")
    assert forged[0] == 401
    assert refused[0] == 403
    assert "Key is blacklisted" in refused[1]["detail"]
    assert elsewhere[0] == 404
    assert "['v1/detect']" in elsewhere[1]["detail"]
    assert waits == [("/9g=", pytest.approx(4.0))]


class TestChoice:
    @pytest.mark.parametrize(
        ("headers", "kind"),
        [
            ({"x-bittensor-hotkey": "5"}, BtauthProtocol),
            ({"x-bittensor-version": "1"}, LegacyProtocol),
            ({"bt_header_dendrite_hotkey": "5"}, LegacyProtocol),
            ({"x-bittensor-hotkey": "5", "bt_header_dendrite_hotkey": "5"}, BtauthProtocol),
            ({}, LegacyProtocol),
        ],
    )
    def test_the_headers_that_are_there_choose(self, headers, kind):
        table = RouteTable(subnet72.routes("5Axon"))
        assert isinstance(table.find("POST", "/ImageSynapse", headers).authenticator, kind)

    def test_each_path_stands_by_itself(self):
        table = RouteTable(subnet72.routes("5Axon", WireSettings(btauth_path="/roads")))
        assert isinstance(table.find("POST", "/roads", {}).authenticator, BtauthProtocol)
        assert isinstance(table.find("POST", "/ImageSynapse", {}).authenticator, LegacyProtocol)
        with pytest.raises(NotFound, match=r"Available synapses \['roads', 'ImageSynapse'\]"):
            table.find("POST", "/x", {})
        with pytest.raises(NotFound, match="GET roads"):
            table.find("GET", "/roads", {})

    def test_a_table_has_rows(self):
        with pytest.raises(ValueError, match="at least one"):
            RouteTable(())


class TestSettings:
    @pytest.mark.parametrize(
        ("module", "message"),
        [
            ("tests.no_such_wire", "tests.no_such_wire cannot be imported"),
            ("tests.support.btauth", "has no function `routes"),
        ],
    )
    def test_a_module_that_is_no_wire_is_told(self, module, message):
        with pytest.raises(SettingsError, match=message):
            opened(WireSettings(module=module))

    def test_a_row_bounds_how_long_its_callers_wait(self, validator):
        """The timeout is not signed: a caller may say that it waits less, and not that it waits longer."""
        seen = []

        async def answer(request):
            seen.append(request.deadline.due - request.deadline.arrived)
            return Prediction(0.5)

        legacy = LegacyProtocol(validator.receiver, "X")
        table = RouteTable((Route("/X", ImageInJson(), legacy, waits_s=3.0),))
        access = AccessPolicy(AccessSettings(), {validator.hotkey: Neuron(uid=7, validator_permit=True)})
        app = AxonApp(answer, routes=table, access=access)

        async def ask(waits):
            headers = validator.headers(timeout=waits)
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]

            async def receive():
                return {"type": "http.request", "body": b'{"image": ""}'}

            async def send(_message):
                pass

            await app({"type": "http", "method": "POST", "path": "/X", "headers": raw}, receive, send)

        for waits in ("9", "1e300", "1"):
            asyncio.run(ask(waits))
        assert seen == [pytest.approx(2.0), pytest.approx(2.0), pytest.approx(0.5)]
