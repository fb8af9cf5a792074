"""`btauth/1`: what bittensor 11 signs is accepted, once and in time, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from bittensor_wallet import Keypair

from miner.axon.authenticator import NS_PER_S, Claim, Head
from miner.axon.refusals import Unauthenticated
from miner.axon.settings import WireSettings
from miner.axon.wires.btauth_protocol import BtauthProtocol
from tests.support.btauth import sign

GOLDEN = json.loads(Path(__file__).with_name("btauth_vectors.json").read_text())
NOW_NS = GOLDEN["nonce_ns"]
BODY = b'{"image": ""}'
each_vector = pytest.mark.parametrize("vector", GOLDEN["vectors"], ids=lambda v: f"{v['path']} {len(v['headers'])}")


def head_of(headers: dict[str, str], *, method: str = "POST", target: str = "/x") -> Head:
    return Head(method, target, {name.lower(): value for name, value in headers.items()})


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class TestGolden:
    """Requests that bittensor 11.3.0 signed itself; see `make_btauth_vectors.py`."""

    @staticmethod
    def protocol() -> BtauthProtocol:
        return BtauthProtocol(GOLDEN["hotkey"], WireSettings(allow_unbound_receiver=True))

    @staticmethod
    def head(vector: dict) -> Head:
        return head_of(vector["headers"], method=vector["method"].upper(), target=vector["path"])

    @each_vector
    def test_the_same_text_is_signed(self, vector):
        claim = self.protocol().read(self.head(vector), NOW_NS)
        assert claim.message(digest(vector["body"].encode())) == vector["payload"]

    @each_vector
    def test_it_is_proved(self, vector):
        protocol = self.protocol()
        claim = protocol.read(self.head(vector), NOW_NS)
        protocol.prove(claim, digest(vector["body"].encode()), NOW_NS)
        assert claim.sender == vector["headers"]["X-Bittensor-Hotkey"]
        assert claim.auth_mode == ("btauth/1" if vector["receiver_ss58"] else "btauth/1 unbound")

    @each_vector
    @pytest.mark.parametrize("what", ["body", "target", "method", "nonce_ns", "scheme"])
    def test_nothing_of_it_may_be_changed(self, vector, what):
        protocol, head, body = self.protocol(), self.head(vector), vector["body"].encode()
        if what == "body":
            body += b" "
        elif what in {"target", "method"}:
            head = replace(head, **{what: "/other" if what == "target" else "PUT"})
        else:
            other = {"ed25519": "sr25519"}.get(head.headers.get("x-bittensor-crypto", ""), "ed25519")
            changed = {"nonce_ns": {"x-bittensor-nonce": str(NOW_NS + 1)}, "scheme": {"x-bittensor-crypto": other}}
            head = replace(head, headers={**head.headers, **changed[what]})
        claim = protocol.read(head, NOW_NS)
        with pytest.raises(Unauthenticated, match="Signature mismatch"):
            protocol.prove(claim, digest(body), NOW_NS)

    @pytest.mark.parametrize("named", [True, False])
    def test_nor_who_is_asked(self, named):
        vector = next(v for v in GOLDEN["vectors"] if (v["receiver_ss58"] is None) == named)
        head = self.head(vector)
        headers = {name: value for name, value in head.headers.items() if name != "x-bittensor-receiver"}
        if named:
            headers["x-bittensor-receiver"] = GOLDEN["hotkey"]
        protocol = self.protocol()
        claim = protocol.read(replace(head, headers=headers), NOW_NS)
        with pytest.raises(Unauthenticated, match="Signature mismatch"):
            protocol.prove(claim, digest(vector["body"].encode()), NOW_NS)


@pytest.fixture
def protocol(validator):
    return BtauthProtocol(validator.receiver)


@pytest.fixture
def claimed(validator, protocol):
    """What a protocol makes of a signed request, after some headers are changed; None removes one."""

    def read(
        changes: dict[str, str | None] | None = None, *, by: BtauthProtocol | None = None, age_s: float = 0.0
    ) -> Claim:
        headers: dict[str, str | None] = {**sign(validator.key, BODY, validator.receiver, target="/x", nonce_ns=NOW_NS)}
        headers |= changes or {}
        kept = {name: value for name, value in headers.items() if value is not None}
        return (by or protocol).read(head_of(kept), NOW_NS + int(age_s * NS_PER_S))

    return read


class TestHead:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"X-Bittensor-Version": None}, "X-Bittensor-Version is missing"),
            ({"X-Bittensor-Version": "2"}, "X-Bittensor-Version is '2'; this axon speaks version 1"),
            ({"X-Bittensor-Nonce": None}, "X-Bittensor-Nonce is missing"),
            ({"X-Bittensor-Nonce": "-5"}, "not a decimal integer"),
            ({"X-Bittensor-Nonce": "1_0"}, "not a decimal integer"),
            ({"X-Bittensor-Nonce": "²"}, "not a decimal integer"),
            ({"X-Bittensor-Nonce": "9" * 21}, "not a decimal integer"),
            ({"X-Bittensor-Signature": None}, "X-Bittensor-Signature is missing or is not 128"),
            ({"X-Bittensor-Signature": "0x12"}, "is not 128 hex digits"),
            ({"X-Bittensor-Signature": "0x" + "zz" * 64}, "is not 128 hex digits"),
            ({"X-Bittensor-Receiver": None}, "X-Bittensor-Receiver is missing: this axon takes only"),
            ({"X-Bittensor-Receiver": ""}, "addressed to another hotkey"),
            ({"X-Bittensor-Receiver": "-"}, "addressed to another hotkey"),
            ({"X-Bittensor-Receiver": "5Else"}, "addressed to another hotkey"),
            ({"X-Bittensor-Crypto": "ecdsa"}, "'ecdsa' is no scheme .* it can verify ed25519 and sr25519"),
            ({"X-Bittensor-Crypto": ""}, "is no scheme"),
            ({"X-Bittensor-Crypto": "2"}, "is no scheme"),
        ],
    )
    def test_what_cannot_be_true_is_refused_before_the_body(self, claimed, changes, message):
        with pytest.raises(Unauthenticated, match=message) as refused:
            claimed(changes)
        nonce_is_there = changes.get("X-Bittensor-Nonce", "0") == "0"
        assert ("nonce_age_s" in refused.value.known) == nonce_is_there

    @pytest.mark.parametrize("scheme", ["sr25519", "1", " SR25519 "])
    def test_a_scheme_has_more_than_one_name(self, protocol, claimed, scheme):
        protocol.prove(claimed({"X-Bittensor-Crypto": scheme}), digest(BODY), NOW_NS)

    def test_a_signature_may_come_without_0x(self, validator, protocol):
        headers = sign(validator.key, BODY, validator.receiver, target="/x", nonce_ns=NOW_NS)
        headers["X-Bittensor-Signature"] = headers["X-Bittensor-Signature"].removeprefix("0x").upper()
        protocol.prove(protocol.read(head_of(headers), NOW_NS), digest(BODY), NOW_NS)

    def test_a_receiver_may_be_absent_only_where_the_operator_allows_it(self, validator):
        lenient = BtauthProtocol(validator.receiver, WireSettings(allow_unbound_receiver=True))
        headers = sign(validator.key, BODY, None, target="/x", nonce_ns=NOW_NS)
        claim = lenient.read(head_of(headers), NOW_NS)
        lenient.prove(claim, digest(BODY), NOW_NS)
        assert claim.auth_mode == "btauth/1 unbound"
        with pytest.raises(Unauthenticated, match="another hotkey"):
            lenient.read(head_of(headers | {"X-Bittensor-Receiver": "5Else"}), NOW_NS)


class TestFreshness:
    @pytest.mark.parametrize(("age_s", "fresh"), [(10.0, True), (10.1, False), (-2.0, True), (-2.1, False)])
    def test_the_window_is_that_of_the_sdk(self, claimed, age_s, fresh):
        assert (claimed(age_s=age_s).stale is None) == fresh

    def test_a_clock_that_is_off_is_told_as_proved_only_by_its_signature(self, protocol, claimed):
        claim = claimed(age_s=17.0)
        with pytest.raises(Unauthenticated) as refused:
            protocol.prove(claim, digest(BODY), NOW_NS + 17 * NS_PER_S)
        assert (refused.value.kind, refused.value.known) == ("nonce_too_old", {"proved": True, "nonce_age_s": 17.0})
        with pytest.raises(Unauthenticated) as refused:
            protocol.prove(claim, digest(b"other"), NOW_NS + 17 * NS_PER_S)
        assert (refused.value.kind, refused.value.known) == ("not_proved", {"nonce_age_s": 17.0})

    def test_of_many_stale_claims_one_in_a_while_has_its_body_read(self, validator, claimed):
        now_s = [0.0]
        protocol = BtauthProtocol(validator.receiver, clock=lambda: now_s[0])
        assert claimed(by=protocol, age_s=3600.0).stale is not None
        for _ in range(3):
            with pytest.raises(Unauthenticated) as refused:
                claimed(by=protocol, age_s=3600.0)
            assert (refused.value.kind, refused.value.known) == ("stale_claim", {"nonce_age_s": 3600.0})
        now_s[0] += 11.0
        assert claimed(by=protocol, age_s=3600.0).stale is not None

    def test_what_was_signed_before_this_process_is_refused_however_slowly_its_body_comes(self, validator, claimed):
        """Another process of this miner may have answered it."""
        age_s = [0.5]
        young = BtauthProtocol(validator.receiver, age_s=lambda: age_s[0])
        claim = claimed(by=young, age_s=1.0)
        age_s[0] = math.inf
        with pytest.raises(Unauthenticated, match="older than this miner's process"):
            young.prove(claim, digest(BODY), NOW_NS + NS_PER_S)


class TestReplay:
    def test_a_request_counts_once(self, protocol, claimed):
        protocol.prove(claimed(), digest(BODY), NOW_NS)
        with pytest.raises(Unauthenticated, match="already used") as refused:
            claimed()
        assert (refused.value.kind, "proved" in refused.value.known) == ("replay", False)

    def test_two_of_the_same_whose_bodies_come_at_one_time_count_once(self, protocol, claimed):
        first, second = claimed(), claimed()
        protocol.prove(first, digest(BODY), NOW_NS)
        with pytest.raises(Unauthenticated, match="already used"):
            protocol.prove(second, digest(BODY), NOW_NS)

    def test_a_forgery_uses_up_no_nonce(self, protocol, claimed):
        with pytest.raises(Unauthenticated, match="Signature mismatch"):
            protocol.prove(claimed(), digest(b"forged"), NOW_NS)
        protocol.prove(claimed(), digest(BODY), NOW_NS)

    def test_another_key_proves_nothing(self, validator, stranger, protocol):
        headers = sign(stranger.key, BODY, validator.receiver, target="/x", nonce_ns=NOW_NS)
        claim = protocol.read(head_of(headers | {"X-Bittensor-Hotkey": validator.hotkey}), NOW_NS)
        with pytest.raises(Unauthenticated, match="Signature mismatch"):
            protocol.prove(claim, digest(BODY), NOW_NS)


def test_a_key_of_the_other_scheme_with_the_same_bytes_is_another_key(validator):
    mnemonic = Keypair.generate_mnemonic()
    keys = [Keypair.create_from_mnemonic(mnemonic, crypto_type=scheme) for scheme in (0, 1)]
    protocol = BtauthProtocol(validator.receiver)
    for key in keys:
        headers = sign(key, BODY, validator.receiver, target="/x", nonce_ns=NOW_NS)
        protocol.prove(protocol.read(head_of(headers), NOW_NS), digest(BODY), NOW_NS)
