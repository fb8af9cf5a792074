"""What may arrive, row by row, and what our axon has to say to it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

MB = 1_000_000
# Rows about something else than time pass on a machine that is busy, too.
PATIENT_S = 400.0
Side = Literal["dendrite", "http_auth"]
YES = "200 / 0.9"
UNDECODABLE = "200 / -1.0"
NO_FIELDS = "our axon has no synapse class"
NO_TIMEOUT = "the protocol has no timeout"
OTHER_RECEIVERS = "a dendrite always names the receiver"


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: what arrives.
        steps: what is sent, see `peer.py`.
        expected: the outcomes, step by step; as a dictionary where the two kinds of peers get different ones.
        absent: why the row does not apply to a kind of peer.
    """

    name: str
    steps: tuple[dict[str, Any], ...] = ()
    expected: tuple[str, ...] | dict[Side, tuple[str, ...]] = ()
    absent: dict[Side, str] = field(default_factory=dict)

    def expects(self, side: Side) -> tuple[str, ...]:
        """The outcomes for a kind of peer."""
        return self.expected[side] if isinstance(self.expected, dict) else self.expected


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def jpeg() -> bytes:
    """A road of 224 px."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((224, 224)).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def _says(word: str) -> dict[str, Any]:
    return {"image": _b64(word.encode())}


def _big(size: int) -> dict[str, Any]:
    return {"image": "YmlnYmln" * (size // 8), "timeout": PATIENT_S}


def cases(*, slow: bool = True) -> list[Case]:
    """All rows.

    Args:
        slow: also those that take seconds or hundreds of requests.
    """
    road = {"image": _b64(jpeg())}
    dendrites_only: dict[Side, str] = {"http_auth": NO_TIMEOUT}
    both_absent: dict[Side, str] = {"dendrite": NO_FIELDS, "http_auth": NO_FIELDS}
    unbound: dict[Side, str] = {"dendrite": OTHER_RECEIVERS}
    many = {"axon": "patient", "timeout": PATIENT_S}
    rows = [
        Case("valid JPEG of 224 px", (road,), (YES,)),
        Case("empty image", ({"image": ""},), (UNDECODABLE,)),
        Case("bad base64", ({"image": "%%% no base64 %%%"},), (UNDECODABLE,)),
        Case("no image", (_says("this is text"),), (UNDECODABLE,)),
        Case("prediction left at -1", (_says("unset"),), (UNDECODABLE,)),
        Case("handler raises", (_says("raise"),), ("500",)),
        Case("handler says NaN, Inf", (_says("nan"), _says("inf")), ("500", "500")),
        Case("handler says np.float32", (_says("float32"),), ("500",)),
        Case("handler says a text, None", (_says("text"), _says("none")), ("500", "500")),
        Case("handler says -0.25", (_says("negative"),), ("500",)),
        Case("body of 1, 10 MB", (_big(MB), _big(10 * MB)), (YES, YES)),
        Case("body of 50 MB", (_big(50 * MB),), ("413",)),
        Case("handler is slower than the caller waits", (_says("slow") | {"timeout": 1.0},), ("408",), dendrites_only),
        Case("hotkey without a permit", (road | {"wallet": "stranger"},), ("403",)),
        Case("hotkey without a permit, body of 10 MB", (_big(10 * MB) | {"wallet": "stranger"},), ("403",)),
        Case("a validator's hotkey, unsigned", (road | {"signature": "none"},), ("401",)),
        Case(
            "a validator's hotkey, signed by a stranger",
            (road | {"wallet": "stranger", "headers": {"hotkey": "VALIDATOR"}},),
            ("401",),
        ),
        Case(
            "garbage, zeros for a signature",
            (road | {"signature": "garbage"}, road | {"signature": "zeros"}),
            ("401", "401"),
        ),
        Case("the same request again", (road | {"keep": True}, {"again": True}), (YES, "401")),
        Case(
            "body swapped after it was signed",
            (road | {"swapped": '{"image": ""}'},),
            {"dendrite": (UNDECODABLE,), "http_auth": ("401",)},
        ),
        Case(
            "nonce 5 s, 14 s old",
            (road | {"age_s": 5.0}, road | {"age_s": 14.0}),
            (YES, "401"),
        ),
        Case("nonce 60 s, 3600 s ahead", (road | {"age_s": -60.0}, road | {"age_s": -3600.0}), ("401", "401")),
        Case(
            "nonce an hour old, timeout of a million",
            (road | {"age_s": 3600.0, "headers": {"timeout": "1e6"}},),
            ("401",),
            dendrites_only,
        ),
        Case(
            "unsigned nonce ahead, then the validator",
            (road | {"age_s": -1.0, "signature": "none"}, road),
            ("401", YES),
        ),
        Case("signed for another receiver", (road | {"receiver": "other"},), ("401",)),
        Case(
            "signed for no receiver; where that is allowed",
            (
                road | {"receiver": "nobody"},
                {"receiver": "nobody", "axon": "lenient", "sign_path": "/roads", "file": jpeg().hex()},
            ),
            ("401", YES),
            unbound,
        ),
        Case(
            "signed by an ed25519 key",
            (road | {"wallet": "ed25519"},),
            (YES,),
            {"dendrite": "a dendrite signs by sr25519"},
        ),
        Case(
            "signed path with a query; another query",
            (
                road | {"sign_path": "/ImageSynapse?a=%2f&b"},
                road | {"sign_path": "/ImageSynapse?a=1", "path": "/ImageSynapse?a=2"},
            ),
            (YES, "401"),
            {"dendrite": "a dendrite does not sign the path"},
        ),
        Case(
            "wrong name, wrong case of the synapse",
            tuple(road | {"path": path, "sign_path": path} for path in ("/Image", "/imagesynapse")),
            ("404", "404"),
        ),
        Case(
            "GET /, /docs, /openapi.json",
            tuple({"method": "GET", "path": path} for path in ("/", "/docs", "/openapi.json")),
            ("404", "404", "404"),
        ),
        Case(
            "a stranger's ping of /Synapse",
            ({"wallet": "stranger", "path": "/Synapse", "sign_path": "/Synapse"},),
            ("404",),
        ),
        Case("another key in the body", (road | {"extra": {"more": [1, 2]}},), (YES,)),
        Case("the miner's synapse has another optional field", absent=both_absent),
        Case("the miner's synapse has another required field", absent=both_absent),
        Case("the miner's synapse has required_hash_fields", absent=both_absent),
        Case(
            "image is a number; bad JSON; nonce is no number",
            ({"raw": '{"image": 3}'}, {"raw": "{"}, road | {"headers": {"nonce": "soon"}}),
            ("400", "400", "401"),
        ),
        Case("16 at once, each waits for the others", (_says("nap") | many | {"times": 16},), (YES,) * 16),
    ]
    if slow:
        rows += [
            Case("200 at once from one validator", (road | many | {"times": 200},), (YES,) * 200),
            Case("connection idle for 6 s, then used", (road | {"times": 3, "gap_s": 6.0},), (YES,) * 3),
        ]
    return rows
