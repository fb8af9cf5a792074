"""What an error says of another library's error is the same from run to run."""

from __future__ import annotations

import copy
import io

import pytest

from engines.errors import BundleRefused
from offline.errors import DatasetError
from stage1.errors import CascadeError, ImageError, without_addresses
from stage1.image_file import decode


@pytest.mark.parametrize("kind", [CascadeError, ImageError, BundleRefused, DatasetError])
def test_a_message_has_no_address_of_an_object(kind: type[CascadeError]) -> None:
    error = kind(f"cannot read {io.BytesIO()!r}, and {io.BytesIO()!r}")
    assert str(error) == "cannot read <_io.BytesIO object>, and <_io.BytesIO object>"
    assert "0x" not in repr(error)
    assert str(copy.copy(error)) == str(error)


def test_a_message_of_anything_else_is_as_it_was_given() -> None:
    assert without_addresses("byte 0xff at 0 of a.jpg") == "byte 0xff at 0 of a.jpg"
    assert CascadeError(7).args == (7,)


def test_bytes_that_are_no_image_are_refused_in_the_same_words_each_time() -> None:
    told = set()
    kept = []
    for _ in range(3):
        with pytest.raises(ImageError) as caught:
            decode(b"<html>404</html>")
        kept.append(caught.value.__cause__)
        told.add(str(caught.value))
    assert told == {"not a readable JPEG, PNG, WEBP image: it does not begin like one"}
