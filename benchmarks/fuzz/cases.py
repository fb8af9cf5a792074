"""Broken headers, bodies and image files, as Hypothesis draws them."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from benchmarks.serving.callers import ROUTE, Caller, body_of
from benchmarks.serving.miner import photograph, text_of

SIDE = 96
JUNK = st.binary(max_size=200)
# Where programs count wrong.
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30)]), st.integers(), st.floats()
)
TEXTS = st.one_of(
    st.text(max_size=60),
    NUMBERS.map(str),
    st.sampled_from(["", " ", "nan", "inf", "-inf", "1e309", "0x10", "é", "\x00", "\t", "9" * 4000, "%00", "%zz"]),
)
HEADERS = (
    "name",
    "timeout",
    "computed_body_hash",
    "bt_header_axon_hotkey",
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_hotkey",
    "bt_header_dendrite_signature",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "upgrade",
    "expect",
    "host",
)
TOKENS = (b"chunked", b"gzip, chunked", b"close", b"keep-alive", b"upgrade", b"websocket", b"100-continue", b"identity")
LINES = (b"GET / HTTP/1.1", b"POST * HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"PRI * HTTP/2.0", b"POST //% HTTP/1.1", b"X")
METHODS = (b"POST", b"GET", b"PUT", b"OPTIONS", b"HEAD", b"BREW")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.1 ")
Draw = st.DrawFn


@st.composite
def mutated(draw: Draw, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with some bytes changed, cut out, doubled, put in, or another seed's in their place."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 8))):
        # Headers are at the front, and the front of a file is small: half of all changes are there.
        most = min(len(content), draw(st.sampled_from([64, 700, 10**9])))
        begin = draw(st.integers(0, most))
        end = min(len(content), begin + draw(st.sampled_from([0, 1, 2, 4, 16, 256, 10**9])))
        match draw(st.integers(0, 6)):
            case 0:
                content[begin:end] = draw(st.binary(max_size=64))
            case 1:
                del content[begin:end]
            case 2:
                content[begin:begin] = content[begin:end][:4096] * draw(st.integers(1, 20))
            case 3:
                content[begin:end] = bytes([draw(st.integers(0, 255))]) * (end - begin)
            case 4:
                number = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF]))
                content[begin : begin + 4] = struct.pack(">I", number)
            case 5:
                other = draw(st.sampled_from(seeds))
                content[begin:end] = other[begin:end]
            case 6:
                content = content[:end]
    return bytes(content)


def image_seeds(directory: Path | None) -> list[bytes]:
    """Image files of every kind that a decoder has code of its own for, and some of a directory."""
    photo = Image.open(io.BytesIO(photograph(0, SIDE, SIDE)))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (photo, "JPEG", {"quality": 75}),
        (photo, "JPEG", {"progressive": True}),
        (photo, "JPEG", {"exif": exif, "icc_profile": b"no profile", "comment": b"x" * 100}),
        (photo.convert("L"), "JPEG", {}),
        (photo.convert("CMYK"), "JPEG", {}),
        (photo, "PNG", {}),
        (photo.convert("P"), "PNG", {"transparency": 3}),
        (photo.convert("RGBA"), "PNG", {}),
        (photo.convert("1"), "PNG", {}),
        (Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)), "PNG", {}),
        (Image.new("RGB", (8000, 8000)), "PNG", {}),
        (Image.new("L", (16000, 16000)), "PNG", {}),
        (photo, "WEBP", {}),
        (photo, "GIF", {}),
        (photo, "TIFF", {}),
    ]
    seeds = []
    for image, name, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        seeds.append(buffer.getvalue())
    found = (
        [] if directory is None else sorted(path for path in directory.rglob("*") if path.suffix in {".jpg", ".png"})
    )
    return seeds + [path.read_bytes() for path in found[:: max(1, len(found) // 20)]]


@st.composite
def image_texts(draw: Draw, seeds: Sequence[bytes]) -> str:
    """The field `image` of a request: base64 of a broken file, and sometimes broken itself."""
    text = base64.b64encode(draw(mutated(seeds))).decode()
    if draw(st.integers(0, 9)):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(TEXTS) + text[place:]


@st.composite
def requests_with_broken_headers(draw: Draw, caller: Caller) -> list[bytes]:
    """A signed request with headers left out, doubled, changed or made up, whole or in two pieces."""
    body = body_of("aGVsbG8=")
    head = caller.head(len(body))
    lines = head[:-4].split(b"\r\n")
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.one_of(st.sampled_from(HEADERS), st.text(max_size=20))).encode("utf-8", "surrogatepass")
        value = draw(
            st.one_of(TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.sampled_from(TOKENS), JUNK)
        )
        line = name + draw(st.sampled_from([b": ", b":", b" : ", b""])) + value
        place = draw(st.integers(0, len(lines)))
        match draw(st.integers(0, 4)):
            case 0:
                lines = [each for each in lines if not each.startswith(name + b":")] + [line]
            case 1:
                lines.insert(place, line)
            case 2:
                del lines[place : place + draw(st.integers(1, 3))]
            case 3:
                lines.insert(place, line * draw(st.integers(1, 400)))
            case 4:
                target = draw(
                    st.one_of(JUNK, st.sampled_from([ROUTE.encode(), b"/%49mageSynapse", b"*", b"http://a/b?c#d"]))
                )
                method, version = draw(st.sampled_from(METHODS)), draw(st.sampled_from(VERSIONS))
                first = draw(st.one_of(st.sampled_from(LINES), st.just(b" ".join([method, target, version]))))
                lines = [first, *lines[1:]]
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    content = end.join(lines) + end + end + body
    if not draw(st.integers(0, 3)):
        content = draw(mutated([content]))
    return _in_pieces(draw, content)


def json_values(most: int = 30) -> st.SearchStrategy[Any]:
    leaves = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=30))
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
        max_leaves=most,
    )


@st.composite
def _other_fields(draw: Draw, whole: bytes) -> bytes:
    content = json.loads(whole)
    for _ in range(draw(st.integers(1, 3))):
        content[draw(st.sampled_from([*content, "image", "x"]))] = draw(json_values())
    return json.dumps(content, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def _deep(draw: Draw) -> bytes:
    depth = draw(st.sampled_from([10, 200, 1000, 20_000, 30_000]))
    opens, closes = draw(st.sampled_from([(b"[", b"]"), (b'{"image":', b"}"), (b'{"a":[', b"]}")]))
    return bytes(opens * depth + draw(JUNK) + closes * draw(st.sampled_from([0, depth])))


@st.composite
def _huge_number(draw: Draw) -> bytes:
    digits = b"9" * draw(st.sampled_from([20, 400, 5000, 60_000]))
    return b'{"image": "aGVsbG8=", "prediction": ' + draw(st.sampled_from([b"", b"-", b"0.", b"1e"])) + digits + b"}"


@st.composite
def _strange_text(draw: Draw) -> bytes:
    text = draw(st.one_of(JUNK, st.sampled_from([b"\xff\xfe", b"\\ud800", b"\\u0000", b"\x00", b"\\", b'\\"'])))
    return b'{"image": "' + text * draw(st.sampled_from([1, 3, 40, 3000])) + b'"}'


@st.composite
def _several_images(draw: Draw) -> bytes:
    known = [b'"image": "a"', b'"image": 1', b'"image": ""', b'"a": {"image": "b"}']
    fields = draw(st.lists(st.sampled_from(known)))
    return b"{" + b", ".join(fields) + b" " * draw(st.sampled_from([0, 70_000])) + b"}"


@st.composite
def _long(draw: Draw) -> bytes:
    large = b'"image" : "' + b"A" * draw(st.sampled_from([65_000, 66_000, 200_000])) + b'"'
    return b"{" + draw(JUNK) + large + draw(JUNK) + b"}"


def broken_bodies() -> st.SearchStrategy[bytes]:
    """A body that is nearly one of a dendrite, or nothing like it."""
    whole = body_of(text_of(photograph(0, SIDE, SIDE)))
    near = mutated([whole, b'{"image": "aGVsbG8="}'])
    made = (_other_fields(whole), _deep(), _huge_number(), _strange_text(), _several_images(), _long())
    return st.one_of(near, JUNK, *made)


@st.composite
def requests_with_broken_bodies(draw: Draw, caller: Caller, bodies: st.SearchStrategy[bytes]) -> list[bytes]:
    """A signed request with a broken body: of its own length, of a wrong one, or in chunks that may be broken too."""
    body = draw(bodies)
    match draw(st.integers(0, 3)):
        case 0 | 1:
            return _in_pieces(draw, caller.head(len(body)) + body)
        case 2:
            wrong = max(0, len(body) + draw(st.integers(-50, 50)))
            return _in_pieces(draw, caller.head(wrong) + body)
        case _:
            head = caller.head(0, nonce_ns=None, **{"content-length": "", "transfer-encoding": "chunked"})
            chunks, place = bytearray(), 0
            while place < len(body):
                size = draw(st.sampled_from([1, 7, 1000, 10**6]))
                size = max(size, len(body) // 50)
                piece = body[place : place + size]
                extension = draw(st.sampled_from([b"", b"", b"", b";x=y", b";" + b"z" * 5000]))
                chunks += f"{len(piece):x}".encode() + extension + b"\r\n" + piece + b"\r\n"
                place += size
            trailer = draw(st.sampled_from([b"", b"", b"x: y\r\n", b"x: " + b"y" * 20_000 + b"\r\n", b"junk"]))
            chunks += b"0\r\n" + trailer + b"\r\n"
            content = bytes(chunks) if draw(st.integers(0, 2)) else draw(mutated([bytes(chunks)]))
            return _in_pieces(draw, head + content)


def _in_pieces(draw: Draw, content: bytes) -> list[bytes]:
    place = draw(st.integers(0, len(content)))
    return draw(st.sampled_from([[content], [content], [content[:place], content[place:]]]))


def seed_of_now() -> int:
    """Another one in every run."""
    return time.time_ns() % 2**32
