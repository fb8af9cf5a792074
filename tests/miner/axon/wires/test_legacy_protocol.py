from __future__ import annotations

from dataclasses import replace

import pytest
from bittensor_wallet import Keypair

from miner.axon import refusals
from miner.axon.authenticator import NS_PER_S, Claim, Head, decode_headers
from miner.axon.refusals import BadRequest, NotFound, Refusal, Unauthenticated
from miner.axon.wires.legacy_protocol import LegacyProtocol

NOW_NS = 1_790_000_000 * NS_PER_S
AXON = LegacyProtocol("5Axon", "ImageSynapse")


def check(headers: dict[str, str], receiver: str, *, now_ns: int = NOW_NS) -> Claim:
    protocol = LegacyProtocol(receiver, "ImageSynapse")
    claim = protocol.read(Head("POST", "/ImageSynapse", headers), now_ns)
    protocol.prove(claim, "", now_ns)
    return claim


class TestVerify:
    def test_accepts_what_a_dendrite_signs(self, validator):
        request = check(validator.headers(nonce_ns=NOW_NS), validator.receiver)
        assert (request.sender, request.nonce_ns, request.waits_s) == (validator.hotkey, NOW_NS, 9.0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"bt_header_dendrite_signature": ""}, "Missing Signature"),
            ({"bt_header_dendrite_signature": "0x12"}, "not 0x and 128 hex digits"),
            ({"bt_header_dendrite_signature": "garbage"}, "not 0x and 128 hex digits"),
            ({"bt_header_dendrite_signature": "0x" + "00" * 64}, "Signature mismatch"),
            ({"bt_header_dendrite_nonce": str(NOW_NS + 1)}, "Signature mismatch"),
            ({"bt_header_dendrite_uuid": "another"}, "Signature mismatch"),
            ({"computed_body_hash": "another"}, "Signature mismatch"),
            ({"bt_header_dendrite_hotkey": "not-an-address"}, "Signature mismatch"),
            ({"bt_header_dendrite_hotkey": ""}, "Signature mismatch"),
            ({"bt_header_axon_hotkey": ""}, "addressed to another hotkey"),
            ({"bt_header_axon_hotkey": "5Else"}, "addressed to another hotkey"),
            ({"bt_header_dendrite_nonce": ""}, "Missing Nonce"),
            ({"bt_header_dendrite_nonce": "-5"}, "Nonce is not an integer"),
            ({"bt_header_dendrite_nonce": "1_0"}, "Nonce is not an integer"),
            ({"bt_header_dendrite_nonce": "٣"}, "Nonce is not an integer"),
            ({"bt_header_dendrite_nonce": "9" * 30}, "Nonce is not an integer"),
            ({"bt_header_dendrite_uuid": ""}, "bt_header_dendrite_uuid is missing"),
            ({"bt_header_dendrite_uuid": "u" * 129}, "longer than 128"),
            ({"computed_body_hash": ""}, "computed_body_hash is missing"),
        ],
    )
    def test_refuses_what_was_not_signed_for_us(self, validator, changes, message):
        with pytest.raises(Unauthenticated, match=message):
            check(validator.headers(nonce_ns=NOW_NS, **changes), validator.receiver)

    def test_refuses_another_keys_signature(self, validator, stranger):
        forged = stranger.headers(nonce_ns=NOW_NS, bt_header_dendrite_hotkey=validator.hotkey)
        with pytest.raises(Unauthenticated, match="Signature mismatch"):
            check(forged, validator.receiver)

    def test_refuses_a_request_signed_for_another_axon(self, validator):
        elsewhere = str(Keypair.create_from_mnemonic(Keypair.generate_mnemonic()).ss58_address)
        headers = replace(validator, receiver=elsewhere).headers(nonce_ns=NOW_NS)
        with pytest.raises(Unauthenticated, match="another hotkey"):
            check(headers, validator.receiver)
        with pytest.raises(Unauthenticated, match="Signature mismatch"):
            check(headers | {"bt_header_axon_hotkey": validator.receiver}, validator.receiver)

    def test_after_a_proved_stale_claim_others_of_its_sender_are_refused_unproved_for_a_while(
        self, validator, stranger
    ):
        now_s = [0.0]
        protocol = LegacyProtocol(validator.receiver, "ImageSynapse", clock=lambda: now_s[0])
        old_ns = NOW_NS - 60 * NS_PER_S

        def ask(headers: dict[str, str]) -> None:
            protocol.prove(protocol.read(Head("POST", "/ImageSynapse", headers), NOW_NS), "", NOW_NS)

        def kind(headers: dict[str, str]) -> str:
            with pytest.raises(Unauthenticated) as refused:
                ask(headers)
            assert refused.value.known["nonce_age_s"] == 60.0
            return refused.value.kind

        forged = stranger.headers(nonce_ns=old_ns, bt_header_dendrite_hotkey=validator.hotkey)
        # What nobody signed hides no clock that is off.
        assert [kind(forged), kind(forged)] == ["not_proved", "not_proved"]
        assert kind(validator.headers(nonce_ns=old_ns)) == "nonce_too_old"
        assert kind(validator.headers(nonce_ns=old_ns)) == "stale_claim"
        assert kind(forged) == "stale_claim"
        now_s[0] = 11.0
        assert kind(validator.headers(nonce_ns=old_ns)) == "nonce_too_old"

    @pytest.mark.parametrize("timeout", ["", "nan", "inf", "0", "-1", "soon", "None"])
    def test_refuses_a_timeout_that_is_none(self, validator, timeout):
        with pytest.raises(BadRequest, match="timeout"):
            check(validator.headers(timeout=timeout), validator.receiver)

    @pytest.mark.parametrize(
        ("age_s", "timeout", "accepted"),
        [
            (0, "9.0", True),
            (13, "9.0", True),
            (13.001, "9.0", False),
            (64, "60", True),
            (64, "1e6", True),
            (64.001, "1e6", False),
            (3600, "1e6", False),
            (-15, "9.0", True),
            (-15.001, "9.0", False),
            (-3600, "9.0", False),
        ],
    )
    def test_window_is_bounded_on_both_sides(self, validator, age_s, timeout, accepted):
        headers = validator.headers(nonce_ns=NOW_NS, timeout=timeout)
        now_ns = NOW_NS + int(age_s * NS_PER_S)
        if accepted:
            check(headers, validator.receiver, now_ns=now_ns)
        else:
            with pytest.raises(Unauthenticated, match=r"too old|too new"):
                check(headers, validator.receiver, now_ns=now_ns)

    def test_two_spellings_of_a_nonce_are_one(self, validator):
        headers = validator.headers(nonce_ns=NOW_NS)
        respelled = headers | {"bt_header_dendrite_nonce": f"0{NOW_NS}"}
        protocol = LegacyProtocol(validator.receiver, "ImageSynapse")
        first, second = (protocol.read(Head("POST", "/", each), NOW_NS) for each in (headers, respelled))
        protocol.prove(first, "", NOW_NS)
        with pytest.raises(Unauthenticated, match="already used"):
            protocol.prove(second, "", NOW_NS)


class TestReplies:
    def test_headers_carry_one_printable_line(self):
        headers = dict(AXON.reply_headers(401, "no\r\nset-cookie: x=1 é\t" + "x" * 999, seconds=0.25))
        line = headers[b"bt_header_axon_status_message"].decode()
        assert line.startswith("no set-cookie: x=1 ")
        assert line.isascii()
        assert line.isprintable()
        assert len(line) == 300
        assert headers[b"bt_header_axon_status_code"] == b"401"
        assert float(headers[b"bt_header_axon_process_time"]) == 0.25

    def test_unknown_synapse_is_named_and_cut(self):
        message = str(NotFound("x" * 1000, ["ImageSynapse"]))
        assert message == f"Synapse name '{'x' * 128}' not found. Available synapses ['ImageSynapse']"

    def test_every_refusal_has_its_own_status(self):
        statuses = [cls.status for cls in Refusal.__subclasses__()]
        assert sorted(statuses) == [400, 401, 403, 404, 408, 413, 429, 500, 503]
        assert refusals.Refusal.status == 500

    def test_headers_are_read_whatever_their_case(self):
        headers = decode_headers([(b"BT_Header_Dendrite_Hotkey", b"5Key"), (b"x", b"\xe9")])
        assert AXON.claimed_sender(headers) == "5Key"
        assert headers["x"] == "é"
        assert AXON.claimed_sender({}) == ""
