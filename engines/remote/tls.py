"""Failures of TLS that do not pass: settings or a server that a person must mend, with the reason in plain words."""

from __future__ import annotations

import ssl

# Of a server that goes away, or is restarted, within the handshake.
PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})


def tls_fault(error: BaseException) -> str | None:
    """Why two machines cannot speak TLS; None where that is not the failure, or may pass by itself.

    Args:
        error: of a request; what it was raised from is looked at as well.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if (why := _fault(found)) is not None:
            return why
        # A library keeps what it translates in one of these.
        inner = getattr(found, "certificate_error", None) or getattr(found, "os_error", None)
        found = inner if isinstance(inner, BaseException) else found.__cause__ or found.__context__
    return None


def _fault(error: BaseException) -> str | None:
    # What a library derives from these has none of their attributes.
    if type(error).__module__ not in {"ssl", "_ssl"} or not isinstance(error, ssl.SSLError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted ({error.verify_message}): name the authority that vouches for it, or "
            "mend the certificate, the address or the clock"
        )
    if isinstance(error, PASSING) or error.reason is None:
        return None
    if error.reason in NO_TLS:
        return "it does not speak TLS on this port: mend the address, which begins with https://"
    return f"TLS is refused ({error.reason}): see which versions and certificates it asks for"
