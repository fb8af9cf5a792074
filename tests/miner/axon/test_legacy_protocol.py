from __future__ import annotations

from dataclasses import replace

import pytest
from bittensor_wallet import Keypair
from hypothesis import given
from hypothesis import strategies as st

from miner.axon import refusals
from miner.axon.authenticator import NS_PER_S, SignedRequest
from miner.axon.legacy_protocol import claimed_sender, decode_headers, parse_request, reply_headers, verify
from miner.axon.nonces import NonceBook
from miner.axon.refusals import BadRequest, NotFound, Refusal, Unauthenticated
from miner.axon.settings import WireSettings

NOW_NS = 1_790_000_000 * NS_PER_S
SETTINGS = WireSettings()


def check(headers: dict[str, str], receiver: str, *, now_ns: int = NOW_NS) -> SignedRequest:
    request = parse_request(headers)
    verify(request, receiver=receiver, now_ns=now_ns, settings=SETTINGS)
    return request


def seen_at(nonce_ns: int, *, sender: str = "5Validator", uuid: str = "u") -> SignedRequest:
    return SignedRequest(sender, "5Axon", nonce_ns, uuid, "hash", "0x", 9.0)


class TestVerify:
    def test_accepts_what_a_dendrite_signs(self, validator):
        request = check(validator.headers(nonce_ns=NOW_NS), validator.receiver)
        assert (request.sender, request.nonce_ns, request.timeout_s) == (validator.hotkey, NOW_NS, 9.0)

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

    @pytest.mark.parametrize("timeout", ["", "nan", "inf", "0", "-1", "soon", "None"])
    def test_refuses_a_timeout_that_is_none(self, validator, timeout):
        with pytest.raises(BadRequest, match="timeout"):
            parse_request(validator.headers(timeout=timeout))

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
        assert check(headers, validator.receiver) == check(respelled, validator.receiver)


class TestNonceBook:
    def test_refuses_a_replay(self):
        book = NonceBook(SETTINGS)
        book.record(seen_at(NOW_NS), NOW_NS)
        with pytest.raises(Unauthenticated, match="already used"):
            book.record(seen_at(NOW_NS), NOW_NS + NS_PER_S)

    def test_accepts_concurrent_requests_in_any_order(self):
        book = NonceBook(SETTINGS)
        for offset in (5, 3, 4, 1, 2):
            book.record(seen_at(NOW_NS + offset), NOW_NS)
        assert len(book) == 5

    def test_tells_dendrites_and_hotkeys_apart(self):
        book = NonceBook(SETTINGS)
        book.record(seen_at(NOW_NS), NOW_NS)
        book.record(seen_at(NOW_NS, uuid="v"), NOW_NS)
        book.record(seen_at(NOW_NS, sender="5Other"), NOW_NS)

    def test_forgets_what_the_window_refuses_anyway(self):
        book = NonceBook(SETTINGS)
        book.record(seen_at(NOW_NS), NOW_NS)
        later_ns = NOW_NS + int((SETTINGS.oldest_s + 1) * NS_PER_S)
        book.record(seen_at(later_ns), later_ns)
        assert len(book) == 1

    def test_refuses_what_it_forgot_when_the_clock_is_set_back(self):
        book = NonceBook(SETTINGS)
        book.record(seen_at(NOW_NS), NOW_NS)
        later_ns = NOW_NS + int((SETTINGS.oldest_s + 1) * NS_PER_S)
        book.record(seen_at(later_ns), later_ns)
        with pytest.raises(Unauthenticated):
            book.record(seen_at(NOW_NS), NOW_NS)
        book.record(seen_at(NOW_NS + 1), NOW_NS)

    def test_a_full_page_refuses_up_to_what_it_forgot_and_no_further(self):
        book = NonceBook(WireSettings(nonces_per_hotkey=3))
        for offset in (10, 20, 30, 40):
            book.record(seen_at(NOW_NS + offset), NOW_NS)
        assert len(book) == 3
        for forgotten in (10, 9):
            with pytest.raises(Unauthenticated):
                book.record(seen_at(NOW_NS + forgotten), NOW_NS)
        book.record(seen_at(NOW_NS + 35), NOW_NS)
        book.record(seen_at(NOW_NS + 9, sender="5Other"), NOW_NS)

    def test_silent_hotkeys_leave_nothing_behind(self):
        book = NonceBook(SETTINGS)
        for number in range(100):
            book.record(seen_at(NOW_NS, sender=f"5Key{number}"), NOW_NS)
        later_ns = NOW_NS + int(3 * SETTINGS.oldest_s * NS_PER_S)
        book.record(seen_at(later_ns), later_ns)
        assert len(book) == 1

    @given(
        st.lists(st.tuples(st.integers(0, 200), st.sampled_from("ab"), st.integers(0, 200)), max_size=80),
        st.integers(1, 8),
    )
    def test_never_accepts_twice_and_never_grows(self, arrivals, bound):
        settings = WireSettings(past_grace_s=4, timeout_cap_s=60, nonces_per_hotkey=bound)
        book = NonceBook(settings)
        accepted = set()
        now_s = 0
        for nonce_s, uuid, delay_s in arrivals:
            now_s += delay_s % 7
            if now_s - nonce_s > settings.oldest_s:
                continue  # the window refuses it before the book is asked
            try:
                book.record(seen_at(NOW_NS + nonce_s * NS_PER_S, uuid=uuid), NOW_NS + now_s * NS_PER_S)
            except Unauthenticated:
                continue
            assert (nonce_s, uuid) not in accepted
            accepted.add((nonce_s, uuid))
            assert len(book) <= bound


class TestReplies:
    def test_headers_carry_one_printable_line(self):
        headers = dict(reply_headers(401, "no\r\nset-cookie: x=1 é\t" + "x" * 999, receiver="5Axon", seconds=0.25))
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
        assert claimed_sender(headers) == "5Key"
        assert headers["x"] == "é"
        assert claimed_sender({}) == ""
