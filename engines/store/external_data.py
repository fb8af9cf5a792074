"""Which files a graph reads its weights from: only the one beside it is in the hash that a certificate is bound to."""

from __future__ import annotations

import mmap
from pathlib import Path

from engines.errors import BundleRefused

BESIDE = ".data"
# An entry of `TensorProto.external_data` (onnx.proto3): key "location", then the value as field 2.
_KEY = b"\n\x08location"
_VALUE = 0x12


def check_external_data(graph: Path) -> None:
    """Refuse a graph that reads weights from a file that the certificate does not cover.

    The bytes are searched, because a live miner has no reader of ONNX; a key is found wherever in the graph it stands.

    Args:
        graph: an ONNX file.

    Raises:
        BundleRefused: it names another file than its own name with `.data`.
    """
    allowed = graph.name + BESIDE
    for location in _locations(graph):
        if location != allowed:
            raise BundleRefused(
                f"{graph.name} reads weights from {location!r}, which its certificate does not cover; only {allowed!r} "
                "is: export the graph with its weights under that name"
            )


def _locations(graph: Path) -> list[str]:
    if not graph.stat().st_size:
        return []
    with graph.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found, at = list[str](), content.find(_KEY)
        while at >= 0:
            found.append(_value(content, at + len(_KEY)))
            at = content.find(_KEY, at + 1)
        return found


def _value(content: mmap.mmap, at: int) -> str:
    """The length-delimited text that follows a key; a marker where it does not, which no file is called."""
    if content[at : at + 1] != bytes([_VALUE]):
        return "?"
    size = shift = 0
    for place in range(at + 1, min(at + 6, len(content))):
        byte = content[place]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return bytes(content[place + 1 : place + 1 + size]).decode(errors="replace")
    return "?"
