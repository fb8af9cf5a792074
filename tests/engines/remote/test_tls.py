"""A failure of TLS is one that a person must mend, unless the server only went away."""

from __future__ import annotations

import ssl

import pytest

from engines.remote.tls import tls_fault


def failure(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}] it failed")
    error.reason = reason
    return error


def untrusted(why: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 18, why
    return error


@pytest.mark.parametrize("why", ["self-signed certificate", "certificate has expired", "Hostname mismatch"])
def test_a_certificate_that_is_not_accepted_is_told_with_the_reason(why: str) -> None:
    told = tls_fault(untrusted(why))
    assert told is not None
    assert why in told


def test_a_port_without_tls_is_told_as_one() -> None:
    told = tls_fault(failure("WRONG_VERSION_NUMBER"))
    assert told is not None
    assert "does not speak TLS" in told


def test_it_is_found_behind_what_a_library_makes_of_it() -> None:
    outer = ConnectionError("cannot connect")
    outer.__cause__ = untrusted("certificate has expired")
    assert "has expired" in (tls_fault(outer) or "")


@pytest.mark.parametrize(
    "error",
    [
        failure("UNEXPECTED_EOF_WHILE_READING", ssl.SSLEOFError),
        ssl.SSLZeroReturnError(6, "closed"),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
    ],
)
def test_a_server_that_went_away_may_be_there_again(error: Exception) -> None:
    assert tls_fault(error) is None
