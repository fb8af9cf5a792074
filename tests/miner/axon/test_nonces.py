"""A request counts once: nonces that were seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.axon.authenticator import NS_PER_S
from miner.axon.nonces import NonceBook
from miner.axon.refusals import Unauthenticated

NOW_NS = 1_790_000_000 * NS_PER_S
RETENTION_S = 64.0


def record(book: NonceBook, nonce_ns: int, *, now_ns: int, sender: str = "5Validator", uuid: str = "u") -> None:
    book.record(sender, nonce_ns, uuid, now_ns)


class TestNonceBook:
    def test_refuses_a_replay(self):
        book = NonceBook(RETENTION_S, 4096)
        record(book, NOW_NS, now_ns=NOW_NS)
        with pytest.raises(Unauthenticated, match="already used"):
            record(book, NOW_NS, now_ns=NOW_NS + NS_PER_S)

    def test_accepts_concurrent_requests_in_any_order(self):
        book = NonceBook(RETENTION_S, 4096)
        for offset in (5, 3, 4, 1, 2):
            record(book, NOW_NS + offset, now_ns=NOW_NS)
        assert len(book) == 5

    def test_tells_dendrites_and_hotkeys_apart(self):
        book = NonceBook(RETENTION_S, 4096)
        record(book, NOW_NS, now_ns=NOW_NS)
        record(book, NOW_NS, uuid="v", now_ns=NOW_NS)
        record(book, NOW_NS, sender="5Other", now_ns=NOW_NS)

    def test_forgets_what_the_window_refuses_anyway(self):
        book = NonceBook(RETENTION_S, 4096)
        record(book, NOW_NS, now_ns=NOW_NS)
        later_ns = NOW_NS + int((RETENTION_S + 1) * NS_PER_S)
        record(book, later_ns, now_ns=later_ns)
        assert len(book) == 1

    def test_refuses_what_it_forgot_when_the_clock_is_set_back(self):
        book = NonceBook(RETENTION_S, 4096)
        record(book, NOW_NS, now_ns=NOW_NS)
        later_ns = NOW_NS + int((RETENTION_S + 1) * NS_PER_S)
        record(book, later_ns, now_ns=later_ns)
        with pytest.raises(Unauthenticated):
            record(book, NOW_NS, now_ns=NOW_NS)
        record(book, NOW_NS + 1, now_ns=NOW_NS)

    def test_a_full_page_refuses_up_to_what_it_forgot_and_no_further(self):
        book = NonceBook(RETENTION_S, 3)
        for offset in (10, 20, 30, 40):
            record(book, NOW_NS + offset, now_ns=NOW_NS)
        assert len(book) == 3
        for forgotten in (10, 9):
            with pytest.raises(Unauthenticated):
                record(book, NOW_NS + forgotten, now_ns=NOW_NS)
        record(book, NOW_NS + 35, now_ns=NOW_NS)
        record(book, NOW_NS + 9, sender="5Other", now_ns=NOW_NS)

    def test_silent_hotkeys_leave_nothing_behind(self):
        book = NonceBook(RETENTION_S, 4096)
        for number in range(100):
            record(book, NOW_NS, sender=f"5Key{number}", now_ns=NOW_NS)
        later_ns = NOW_NS + int(3 * RETENTION_S * NS_PER_S)
        record(book, later_ns, now_ns=later_ns)
        assert len(book) == 1

    @given(
        st.lists(st.tuples(st.integers(0, 200), st.sampled_from("ab"), st.integers(0, 200)), max_size=80),
        st.integers(1, 8),
    )
    def test_never_accepts_twice_and_never_grows(self, arrivals, bound):
        book = NonceBook(RETENTION_S, bound)
        accepted = set()
        now_s = 0
        for nonce_s, uuid, delay_s in arrivals:
            now_s += delay_s % 7
            if now_s - nonce_s > RETENTION_S:
                continue  # the window refuses it before the book is asked
            try:
                record(book, NOW_NS + nonce_s * NS_PER_S, uuid=uuid, now_ns=NOW_NS + now_s * NS_PER_S)
            except Unauthenticated:
                continue
            assert (nonce_s, uuid) not in accepted
            accepted.add((nonce_s, uuid))
            assert len(book) <= bound
