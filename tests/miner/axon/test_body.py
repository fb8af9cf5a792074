"""The image is found in a body as by reading all of it as JSON, and what has much beside it is refused unread."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from miner.axon import body as body_module
from miner.axon.body import MOST_BESIDE, image_of
from miner.axon.refusals import BadRequest

IMAGE = base64.b64encode(bytes(range(256)) * 1200).decode()


class Whole(BaseModel):
    model_config = ConfigDict(strict=True)

    image: str


def by_reading_all(body: bytes) -> str | None:
    try:
        return Whole.model_validate_json(body).image
    except ValidationError:
        return None


def found(body: bytes) -> str | None:
    try:
        return image_of(body)
    except BadRequest:
        return None


@pytest.mark.parametrize("beside", [{}, {"name": "ImageSynapse", "timeout": 9.0, "dendrite": {"ip": "1.2.3.4"}}])
def test_a_large_image_is_found(beside: dict[str, object]) -> None:
    for tree in ({"image": IMAGE, **beside}, {**beside, "image": IMAGE}):
        for separators in ((",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")):
            assert image_of(json.dumps(tree, separators=separators).encode()) == IMAGE


def test_escaped_slashes_are_slashes() -> None:
    """JSON of PHP and of some JavaScript writes them so."""
    body = json.dumps({"image": IMAGE}).replace("/", "\\/").encode()
    assert image_of(body) == IMAGE == by_reading_all(body)


NUMBERS = b"[" + b"1," * MOST_BESIDE + b"1]"
REFUSED = {
    "numbers beside the image": b'{"image": "%s", "more": %s}' % (IMAGE.encode(), NUMBERS),
    "numbers before the image": b'{"more": %s, "image": "%s"}' % (NUMBERS, IMAGE.encode()),
    "numbers for the image": b'{"image": %s}' % NUMBERS,
    "no image": b'{"more": %s}' % NUMBERS,
    "the image of something else": b'{"of": {"image": "%s"}}' % IMAGE.encode(),
    "the image of something else, and none": b'{"of": {"image": "%s"}, "image": 1}' % IMAGE.encode(),
    "another image after it": b'{"image": "%s", "image": 1}' % IMAGE.encode(),
    "a list": b'[{"image": "%s"}]' % IMAGE.encode(),
    "no end": b'{"image": "%s' % IMAGE.encode(),
    "no end of the object": b'{"image": "%s"' % IMAGE.encode(),
    "more after the object": b'{"image": "%s"} x' % IMAGE.encode(),
    "no text": b'{"image": "%s\xff"}' % IMAGE.encode(),
    "only backslashes": b'{"image": "' + b"\\" * 2 * MOST_BESIDE + b'"}',
    "only quotes": b'{"image": "' + b'\\"' * MOST_BESIDE + b'"}',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_dendrite_does_not_send_is_refused(name: str) -> None:
    assert found(REFUSED[name]) is None


@pytest.mark.parametrize("name", [name for name in REFUSED if "numbers" in name or name == "no image"])
def test_numbers_are_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = body_module._read

    def counted(body: bytes) -> str:
        read.append(len(body))
        return original(body)

    monkeypatch.setattr(body_module, "_read", counted)
    assert found(REFUSED[name]) is None
    assert all(size <= MOST_BESIDE + 100 for size in read)


KEYS = st.text(max_size=5) | st.just("image")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just('"image": "x"'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("image"), inner, max_size=3)
    ),
    max_leaves=8,
)
TEXTS = st.text(st.sampled_from('ab/\\"\n\x01é"'), max_size=12) | st.just(IMAGE[:100])


@given(
    st.dictionaries(st.sampled_from(["image", "a", "b"]), VALUES | TEXTS, max_size=3),
    st.booleans(),
    st.binary(max_size=3),
)
def test_what_is_found_is_what_reading_all_finds(tree: dict[str, object], plain: bool, tail: bytes) -> None:
    body = json.dumps(tree, ensure_ascii=plain).encode() + tail.strip()
    whole = by_reading_all(body)
    assert found(body) == whole
    with pytest.MonkeyPatch.context() as patch:
        # As if the body were long: the image is cut out.
        patch.setattr(body_module, "SHORT", -1)
        cut = found(body)
    # Refusing more is allowed; finding another text is not. Control characters are left to the base64 of the image.
    assert cut in (None, whole) or (cut is not None and any(ord(each) < 32 for each in cut))
