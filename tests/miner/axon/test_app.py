"""The application alone, driven through ASGI: what a request has to pass, and what comes back."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from miner.answering.deadline import TimeBudget
from miner.answering.request import Prediction
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.places import Capacity
from miner.axon.routes import RouteTable
from miner.axon.settings import MIB, AccessSettings, RequestSettings, WireSettings
from miner.axon.wires import subnet72
from miner.chain.port import Neuron
from tests.support.btauth import sign
from tests.support.virtual_time import run

PATH = "/ImageSynapse"
BODY = json.dumps({"name": "ImageSynapse", "timeout": 9.0, "image": "aGVsbG8=", "prediction": -1.0}).encode()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    json: dict
    body_was_read: bool


@dataclass
class Asking:
    """Sends requests to an application without a network."""

    app: AxonApp
    outcomes: list

    async def __call__(
        self, headers, *, chunks=(BODY,), path=PATH, method="POST", disconnect=False, wait=None, **scope
    ) -> Reply:
        sent, read = [], []
        pending = list(chunks)

        async def receive():
            read.append(True)
            if wait is not None:
                await wait()
            if not pending:
                return {"type": "http.disconnect"}
            body = pending.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(pending) or disconnect}

        async def send(message):
            sent.append(message)

        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        scope |= {"type": "http", "method": method, "path": path, "headers": raw}
        await self.app(scope, receive, send)
        start, body = sent
        received = {name.decode(): value.decode() for name, value in start["headers"]}
        assert received["content-type"] == "application/json"
        assert int(received["content-length"]) == len(body["body"])
        assert received.get("bt_header_axon_status_code", str(start["status"])) == str(start["status"])
        return Reply(start["status"], received, json.loads(body["body"]), bool(read))


@pytest.fixture
def make(validator):
    """Builds an application that knows one validator."""

    def build(answer=None, *, access=None, stakes=None, age_s=None, capacity=None, wire=None, **settings) -> Asking:
        async def constant(_request):
            return Prediction(0.75)

        outcomes: list = []
        stakes = stakes or {validator.hotkey: 0.0}
        neurons = {
            hotkey: Neuron(uid=uid, validator_permit=True, stake=stake)
            for uid, (hotkey, stake) in enumerate(stakes.items(), start=7)
        }
        app = AxonApp(
            answer or constant,
            routes=RouteTable(subnet72.routes(validator.receiver, wire, age_s=age_s or (lambda: math.inf))),
            access=AccessPolicy(access or AccessSettings(), neurons),
            settings=RequestSettings(**settings),
            on_reply=outcomes.append,
            capacity=capacity,
        )
        return Asking(app, outcomes)

    return build


def answering(value):
    async def answer(_request):
        if isinstance(value, BaseException):
            raise value
        return Prediction(value)

    return answer


class TestAnswers:
    def test_a_proved_request_gets_a_prediction(self, make, validator):
        asked = []

        async def answer(request):
            asked.append((request, request.deadline.due - time.monotonic()))
            return Prediction(0.25, "0123456789abcdef", 3)

        asking = make(answer)
        reply = asyncio.run(asking(validator.headers(), chunks=(BODY[:10], BODY[10:])))
        assert (reply.status, reply.json) == (200, {"prediction": 0.25})
        assert reply.headers["bt_header_axon_status_message"] == "Success"
        assert reply.headers["x-cascade-bundle"] == "0123456789abcdef"
        assert reply.headers["x-cascade-generation"] == "3"
        [(request, left_s)] = asked
        assert (request.hotkey, request.uid, request.image_b64) == (validator.hotkey, 7, "aGVsbG8=")
        assert 6.5 < left_s <= 7.0
        [outcome] = asking.outcomes
        assert (outcome.request_id, outcome.status, outcome.prediction.generation) == (request.request_id, 200, 3)
        assert outcome.caller.uid == 7

    @pytest.mark.parametrize("value", [0.0, 1.0, 0.5, -1.0])
    def test_allowed_predictions(self, make, validator, value):
        reply = asyncio.run(make(answering(value))(validator.headers()))
        assert (reply.status, reply.json) == (200, {"prediction": value})

    @pytest.mark.parametrize("value", [math.nan, math.inf, 1.01, -0.25, 1, True, None, "0.5"])
    def test_anything_else_is_a_defect(self, make, validator, value):
        with capture_logs() as logs:
            reply = asyncio.run(make(answering(value))(validator.headers()))
        assert (reply.status, reply.json) == (500, {"message": "Internal error."})
        assert [entry["got"] for entry in logs if entry["event"] == "answer_is_no_prediction"] == [
            repr(Prediction(value))
        ]

    def test_so_is_what_is_no_prediction_at_all(self, make, validator):
        async def answer(_request):
            return 0.5

        assert asyncio.run(make(answer)(validator.headers())).status == 500

    def test_an_exception_is_logged_and_not_told(self, make, validator):
        with capture_logs() as logs:
            reply = asyncio.run(make(answering(RuntimeError("secret path")))(validator.headers()))
        assert (reply.status, reply.json) == (500, {"message": "Internal error."})
        assert "secret" not in str(reply.headers)
        [entry] = [entry for entry in logs if entry["event"] == "answer_failed"]
        assert (entry["log_level"], str(entry["exc_info"])) == ("debug", "secret path")
        [told] = [entry for entry in logs if entry["event"] == "refused"]
        assert (told["reason"], str(told["exc_info"])) == ("failed", "secret path")
        assert told["example"]["request_id"] == entry["request_id"]

    def test_a_defect_before_the_answer_is_a_reply_too_and_fills_no_log(self, make, validator, monkeypatch):
        """Who reaches it may be a stranger, as often as it likes."""

        def broken(*_):
            raise KeyError("secret")

        asking = make()
        monkeypatch.setattr(asking.app._routes, "find", broken)
        with capture_logs() as logs:
            replies = [asyncio.run(asking(validator.headers())) for _ in range(20)]
        assert {(reply.status, reply.json["message"]) for reply in replies} == {(500, "Internal error.")}
        told = [entry for entry in logs if entry["log_level"] != "debug"]
        assert [(entry["event"], entry["reason"], type(entry["exc_info"])) for entry in told] == [
            ("refused", "failed", KeyError)
        ]

    @pytest.mark.parametrize(
        ("timeout_s", "due_s", "cut_s"),
        [(9, 7, 7.5), (60, 7, 7.5), (8, 7, 7.5), (4, 3, 3.5), (1.5, 0.75, 1.125), (0.5, 0.25, 0.375)],
    )
    def test_deadline_leaves_a_margin(self, timeout_s, due_s, cut_s):
        settings = RequestSettings()
        budget = TimeBudget(settings.deadline_s, settings.margin_s, reserve_s=0.25)
        deadline = budget.deadline(100.0, timeout_s)
        assert deadline.due == 100.0 + due_s
        assert deadline.cut == 100.0 + cut_s
        assert deadline.cut < 100.0 + timeout_s
        assert deadline.stage2_until == deadline.due - 0.25

    def test_a_late_answer_is_cancelled(self, make, validator):
        cancelled = []

        async def answer(_request):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        reply = run(make(answer)(validator.headers()))
        assert reply.status == 408
        assert cancelled == [True]

    @pytest.mark.parametrize("error", [asyncio.CancelledError(), TimeoutError()])
    def test_an_answer_that_gives_up_is_late(self, make, validator, error):
        assert asyncio.run(make(answering(error))(validator.headers())).status == 408

    def test_a_body_that_never_comes_is_late(self, make, validator):
        async def never():
            await asyncio.sleep(60)

        asking = make()
        assert run(asking(validator.headers(), wait=never)).status == 408
        assert asking.app.in_flight == 0


class TestRefusals:
    """Whatever is refused before the body is read must not touch the body."""

    @pytest.mark.parametrize(
        ("path", "method", "name"),
        [
            ("/imagesynapse", "POST", "imagesynapse"),
            ("/Synapse", "POST", "Synapse"),
            ("/", "GET", ""),
            ("/healthz", "GET", "healthz"),
            ("/openapi.json", "GET", "openapi.json"),
            ("/ImageSynapse/x", "POST", "ImageSynapse"),
            (PATH, "GET", "GET ImageSynapse"),
        ],
    )
    def test_unknown_route(self, make, validator, path, method, name):
        reply = asyncio.run(make()(validator.headers(), path=path, method=method))
        assert (reply.status, reply.body_was_read) == (404, False)
        assert reply.json == {"message": f"Synapse name '{name}' not found. Available synapses ['ImageSynapse']"}

    def test_announced_size(self, make, validator):
        headers = validator.headers() | {"content-length": str(16 * MIB + 1)}
        reply = asyncio.run(make()(headers))
        assert (reply.status, reply.body_was_read) == (413, False)

    @pytest.mark.parametrize("changes", [{}, {"bt_header_dendrite_hotkey": ""}, {"bt_header_dendrite_nonce": "junk"}])
    def test_strangers(self, make, stranger, changes):
        reply = asyncio.run(make()(stranger.headers(**changes)))
        assert (reply.status, reply.body_was_read) == (403, False)

    @pytest.mark.parametrize("changes", [{"bt_header_dendrite_signature": ""}, {"bt_header_dendrite_nonce": "junk"}])
    def test_unproved_claims(self, make, validator, changes):
        asking = make()
        reply = asyncio.run(asking(validator.headers(**changes)))
        assert (reply.status, reply.body_was_read) == (401, False)
        assert asking.outcomes[0].caller is None

    def test_replays(self, make, validator):
        asking, headers = make(), validator.headers()
        assert asyncio.run(asking(headers)).status == 200
        reply = asyncio.run(asking(headers))
        assert (reply.status, reply.body_was_read) == (401, False)

    def test_a_strangers_nonce_does_not_lock_the_validator_out(self, make, validator):
        asking = make()
        ahead = validator.headers(nonce_ns=time.time_ns() + 10**10, bt_header_dendrite_signature="0x" + "11" * 64)
        assert asyncio.run(asking(ahead)).status == 401
        assert asyncio.run(asking(validator.headers())).status == 200

    def test_a_stranger_cannot_use_up_the_validators_allowance(self, make, validator):
        asking = make(access=AccessSettings(requests_per_s=0.01, burst=1))
        for _ in range(3):
            assert asyncio.run(asking(validator.headers(bt_header_dendrite_signature=""))).status == 401
        assert asyncio.run(asking(validator.headers())).status == 200
        reply = asyncio.run(asking(validator.headers()))
        assert (reply.status, reply.body_was_read) == (429, False)
        assert asking.outcomes[-1].caller.uid == 7

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"null", b"{}", b'{"image": 3}', b'{"image": null}', b"\xff\xfe", b"[" * 100_000],
    )
    def test_unreadable_body(self, make, validator, body):
        reply = asyncio.run(make()(validator.headers(), chunks=(body,)))
        assert (reply.status, reply.json) == (
            400,
            {"message": "The body is not a JSON object with a text field 'image'."},
        )

    def test_unknown_fields_and_an_empty_image_are_the_answers_business(self, make, validator):
        reply = asyncio.run(make(answering(-1.0))(validator.headers(), chunks=(b'{"image": "", "more": [1]}',)))
        assert (reply.status, reply.json) == (200, {"prediction": -1.0})

    def test_a_body_that_grows_over_the_limit(self, make, validator):
        asking = make(max_body_bytes=2048)
        reply = asyncio.run(asking(validator.headers(), chunks=(b"x" * 1024,) * 50))
        assert reply.status == 413
        assert asyncio.run(asking(validator.headers())).status == 200

    def test_a_caller_that_leaves(self, make, validator):
        asking = make()
        reply = asyncio.run(asking(validator.headers(), disconnect=True))
        assert reply.status == 400
        assert asking.app.in_flight == 0


class TestLoad:
    def test_requests_over_the_limit_are_refused_and_then_accepted_again(self, make, validator):
        async def scenario():
            gate = asyncio.Event()

            async def answer(_request):
                await gate.wait()
                return Prediction(0.5)

            asking = make(answer, max_in_flight=2)
            first = [asyncio.create_task(asking(validator.headers())) for _ in range(2)]
            while asking.app.in_flight < 2:
                await asyncio.sleep(0)
            third = await asking(validator.headers())
            gate.set()
            statuses = [(await task).status for task in first]
            return third, statuses, await asking(validator.headers()), asking.app.in_flight

        third, statuses, after, in_flight = asyncio.run(scenario())
        assert (third.status, third.body_was_read) == (503, False)
        assert statuses == [200, 200]
        assert (after.status, in_flight) == (200, 0)

    def test_bodies_in_flight_share_a_budget(self, make, validator):
        async def scenario():
            gate = asyncio.Event()

            async def answer(_request):
                await gate.wait()
                return Prediction(0.5)

            asking = make(answer, max_buffered_bytes=4096)
            body = json.dumps({"image": "x" * 3000}).encode()
            first = asyncio.create_task(asking(validator.headers(), chunks=(body,)))
            while asking.app.in_flight < 1:
                await asyncio.sleep(0)
            second = await asking(validator.headers(), chunks=(body,))
            gate.set()
            return second.status, (await first).status, (await asking(validator.headers(), chunks=(body,))).status

        assert asyncio.run(scenario()) == (503, 200, 200)

    def test_a_cancelled_request_tells_its_caller(self, make, validator):
        async def scenario():
            async def answer(_request):
                await asyncio.sleep(60)

            asking = make(answer)
            task = asyncio.create_task(asking(validator.headers()))
            while asking.app.in_flight < 1:
                await asyncio.sleep(0)
            task.cancel()
            return await task

        reply = asyncio.run(scenario())
        assert (reply.status, reply.json) == (503, {"message": "This miner is stopping."})


class TestLogs:
    def test_strangers_do_not_fill_the_log(self, make, stranger):
        asking = make()
        with capture_logs() as logs:
            for _ in range(20):
                asyncio.run(asking(stranger.headers()))
        told = [entry for entry in logs if entry["log_level"] != "debug"]
        assert [(entry["event"], entry["reason"], entry["times"]) for entry in told] == [
            ("refused", "not_permitted", 1)
        ]
        assert len(logs) == 21

    def test_a_proved_callers_refusal_is_a_warning(self, make, validator):
        asking, headers = make(), validator.headers()
        with capture_logs() as logs:
            asyncio.run(asking(headers))
            asyncio.run(asking(validator.headers(), chunks=(b"{",)))
            asyncio.run(asking(validator.headers(), chunks=(b"{",)))
        told = [entry for entry in logs if entry["log_level"] != "debug"]
        assert [(entry["event"], entry["reason"]) for entry in told] == [("refused", "unreadable")]
        assert told[0]["example"]["hotkey"] == validator.hotkey
        assert told[0]["example"]["proved"]
        answered = next(entry for entry in logs if entry["event"] == "answered")
        assert answered["hotkey"] == validator.hotkey[:8]

    def test_a_clock_that_is_off_is_told_with_the_age_of_the_nonce(self, make, validator):
        """Every validator would be refused, and nobody would know."""
        asking = make()
        with capture_logs() as logs:
            old = validator.headers(nonce_ns=time.time_ns() - 17 * 10**9)
            assert asyncio.run(asking(old)).status == 401
        (told,) = [entry for entry in logs if entry["log_level"] == "warning"]
        assert told["reason"] == "nonce_too_old"
        assert told["example"]["nonce_age_s"] == pytest.approx(17, abs=5)
        assert (told["example"]["hotkey"], told["example"]["proved"]) == (validator.hotkey, True)

    @pytest.mark.parametrize("age_s", [17, -3600])
    def test_a_stranger_cannot_raise_the_alarm_of_a_clock_that_is_off(self, make, validator, age_s):
        """Whoever claims a validator's hotkey would make the operator set a clock that is right."""
        asking = make()
        with capture_logs() as logs:
            nonce_ns = time.time_ns() - age_s * 10**9
            for forged in ("", "0x" + "11" * 64):
                headers = validator.headers(nonce_ns=nonce_ns, bt_header_dendrite_signature=forged)
                assert asyncio.run(asking(headers)).status == 401
        (told,) = [entry for entry in logs if entry["log_level"] == "warning"]
        assert (told["reason"], told["example"]["proved"]) == ("not_proved", False)
        assert told["example"]["nonce_age_s"] == pytest.approx(age_s, abs=5)


class TestPlaces:
    def test_headers_without_a_body_give_their_place_to_a_larger_stake(self, make, validator, stranger):
        """256 signed headers of one permitted hotkey shut all others out."""
        other = stranger

        async def scenario():
            never = asyncio.Event()
            asking = make(stakes={validator.hotkey: 10.0, other.hotkey: 1000.0}, max_in_flight=4)
            silent = [asyncio.create_task(asking(validator.headers(), wait=never.wait)) for _ in range(4)]
            while asking.app.in_flight < 4:
                await asyncio.sleep(0)
            answered = await asking(other.headers())
            done, waiting = await asyncio.wait(silent, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return answered.status, [task.result() for task in done], asking.app.in_flight

        status, pushed_out, left = asyncio.run(scenario())
        assert (status, [reply.status for reply in pushed_out], left) == (200, [503], 0)
        assert "gave the place" in pushed_out[0].json["message"]

    def test_several_axons_hold_no_more_than_one_would(self, make, validator, stranger):
        async def scenario():
            never, capacity = asyncio.Event(), Capacity(4)
            stakes = {validator.hotkey: 1000.0, stranger.hotkey: 10.0}
            first, second = (make(stakes=stakes, max_in_flight=4, capacity=capacity) for _ in range(2))
            silent = [asyncio.create_task(first(validator.headers(), wait=never.wait)) for _ in range(4)]
            while first.app.in_flight < 4:
                await asyncio.sleep(0)
            refused = await second(stranger.headers())
            for task in silent:
                task.cancel()
            await asyncio.gather(*silent, return_exceptions=True)
            return refused.status, (await second(stranger.headers())).status, second.app.in_flight

        # Four of a hundred times the stake weigh less than the one of the newcomer.
        assert asyncio.run(scenario()) == (503, 200, 0)

    def test_other_limits_hold_from_the_next_request_on(self, make, validator):
        async def scenario():
            asking = make(max_body_bytes=2048)
            before = await asking(validator.headers(), chunks=(BODY + b" " * 2000,))
            asking.app.limit(RequestSettings(max_body_bytes=4096), TimeBudget(7.0, 1.0, 0.0))
            return before.status, (await asking(validator.headers(), chunks=(BODY + b" " * 2000,))).status

        assert asyncio.run(scenario()) == (413, 200)


class TestRestart:
    def test_what_was_signed_before_this_process_is_refused(self, make, validator):
        """Another process of this miner may have answered it."""
        headers = validator.headers()
        assert asyncio.run(make(age_s=lambda: 0.0)(headers)).status == 401
        assert asyncio.run(make(age_s=lambda: 60.0)(headers)).status == 200


def signed(signer, body=BODY, **options):
    return sign(signer.key, body, signer.receiver, **options)


class TestBtauth:
    """A request whose signature covers its body, on the same path."""

    def test_it_is_answered_and_told_how_it_was_proved(self, make, validator):
        asking = make()
        reply = asyncio.run(asking(signed(validator), chunks=(BODY[:7], BODY[7:])))
        assert (reply.status, reply.json) == (200, {"prediction": 0.75})
        assert "bt_header_axon_status_code" not in reply.headers
        [outcome] = asking.outcomes
        assert (outcome.caller.uid, outcome.auth_mode) == (7, "btauth/1")
        asyncio.run(asking(validator.headers()))
        assert asking.outcomes[1].auth_mode == "legacy"

    def test_path_and_query_are_those_that_were_sent(self, make, validator):
        target = "/Image%53ynapse?a=%2F"
        where = {"path": PATH, "raw_path": b"/Image%53ynapse", "query_string": b"a=%2F"}
        assert asyncio.run(make()(signed(validator, target=target), **where)).status == 200
        assert asyncio.run(make()(signed(validator), **where)).status == 401

    def test_another_body_is_refused_and_leaves_the_nonce_to_its_owner(self, make, validator):
        asking, headers = make(), signed(validator)
        assert asyncio.run(asking(headers, chunks=(BODY + b" ",))).status == 401
        assert asking.outcomes[0].caller is None
        assert asyncio.run(asking(headers)).status == 200
        again = asyncio.run(asking(headers))
        assert (again.status, again.body_was_read) == (401, False)

    @pytest.mark.parametrize("change", [{"X-Bittensor-Receiver": "5Else"}, {"X-Bittensor-Signature": ""}])
    def test_what_cannot_be_true_costs_no_body(self, make, validator, change):
        reply = asyncio.run(make()(signed(validator) | change))
        assert (reply.status, reply.body_was_read) == (401, False)

    def test_a_strangers_body_is_not_read(self, make, stranger):
        reply = asyncio.run(make()(signed(stranger)))
        assert (reply.status, reply.body_was_read) == (403, False)

    def test_a_forgery_takes_nothing_of_the_validators_allowance(self, make, validator):
        asking = make(access=AccessSettings(requests_per_s=0.01, burst=1))
        for _ in range(3):
            assert asyncio.run(asking(signed(validator, b"other"))).status == 401
        assert asyncio.run(asking(signed(validator))).status == 200
        assert asyncio.run(asking(signed(validator))).status == 429

    def test_a_stranger_cannot_raise_the_alarm_of_a_clock_that_is_off(self, make, validator):
        asking, old_ns = make(), time.time_ns() - 60 * 10**9
        with capture_logs() as logs:
            for body in (b"forged", BODY, b"forged"):
                asyncio.run(asking(signed(validator, body, nonce_ns=old_ns)))
        told = [(e["reason"], e["example"]["proved"]) for e in logs if e["log_level"] == "warning"]
        assert told == [("not_proved", False), ("stale_claim", False)]

    def test_the_alarm_is_raised_by_a_validator(self, make, validator):
        asking, old_ns = make(), time.time_ns() - 60 * 10**9
        with capture_logs() as logs:
            assert asyncio.run(asking(signed(validator, nonce_ns=old_ns))).status == 401
        (told,) = [entry for entry in logs if entry["log_level"] == "warning"]
        assert (told["reason"], told["example"]["proved"]) == ("nonce_too_old", True)
        assert told["example"]["nonce_age_s"] == pytest.approx(60, abs=10)

    def test_claims_take_no_place_from_proved_callers(self, make, validator):
        """Headers that name a validator, and no bodies, from as many addresses as one likes."""

        async def scenario():
            never = asyncio.Event()
            asking = make(max_in_flight=4)
            claims = [
                asyncio.create_task(asking(signed(validator), wait=never.wait, client=(f"192.0.2.{number}", 1)))
                for number in range(4)
            ]
            while asking.app.in_flight < 4:
                await asyncio.sleep(0)
            another = await asking(signed(validator), client=("192.0.2.9", 1))
            proved = await asking(validator.headers())
            done, waiting = await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return another.status, proved.status, [task.result().status for task in done], asking.app.in_flight

        assert asyncio.run(scenario()) == (503, 200, [503], 0)

    def test_bodies_of_claims_leave_memory_for_proved_callers(self, make, validator):
        async def scenario():
            gate = asyncio.Event()
            asking = make(max_buffered_bytes=8192)
            body = json.dumps({"image": "x" * 1500}).encode()
            forged = signed(validator, b"other")

            async def claim(number):
                async def half():
                    if half.sent:
                        await gate.wait()
                    half.sent = True

                half.sent = False
                client = (f"192.0.2.{number}", 1)
                return await asking(forged, chunks=(body[:1400], body[1400:]), wait=half, client=client)

            claims = [asyncio.create_task(claim(number)) for number in range(6)]
            await asyncio.sleep(0)
            while sum(task.done() for task in claims) < 4:
                await asyncio.sleep(0)
            refused = sorted(task.result().status for task in claims if task.done())
            proved = await asking(validator.headers(), chunks=(json.dumps({"image": "x" * 3000}).encode(),))
            gate.set()
            rest = [(await task).status for task in claims]
            after = await asking(signed(validator, body * 2), chunks=(body * 2,), client=("192.0.2.0", 1))
            return refused, proved.status, sorted(rest), after.status

        refused, proved, rest, after = asyncio.run(scenario())
        assert refused == [503] * 4
        assert proved == 200
        assert rest == [401, 401, *[503] * 4]
        # Read, proved, and no JSON: all that the claims held is free again.
        assert after == 400

    def test_an_image_may_come_as_it_is(self, make, validator):
        asked = []

        async def answer(request):
            asked.append(request.image_b64)
            return Prediction(0.5)

        wire = WireSettings(btauth_path="/roads", btauth_body="image")
        asking = make(answer, wire=wire)
        headers = signed(validator, b"\xff\xd8", target="/roads")
        assert asyncio.run(asking(headers, chunks=(b"\xff\xd8",), path="/roads")).status == 200
        assert asked == ["/9g="]
        assert asyncio.run(asking(signed(validator))).status == 403

    def test_it_can_be_turned_off(self, make, validator):
        asking = make(wire=WireSettings(btauth_path=""))
        assert asyncio.run(asking(signed(validator))).status == 403
        assert asyncio.run(asking(validator.headers())).status == 200
