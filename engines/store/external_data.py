"""Which files a graph reads its weights from: only the one beside it is in the hash that a certificate is bound to."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from engines.errors import BundleRefused

BESIDE = ".data"
# An entry of `TensorProto.external_data` (onnx.proto3): key "location", then the value as field 2. Protobuf also reads
# numbers that are longer than they need be, which nothing that exports graphs writes.
_ENTRY = re.compile(rb"(?:\n|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location", re.DOTALL)
_KEY = b"\n\x08location"
_VALUE = 0x12
_VALUES = (b"\x12", b"\x92")


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
        return [_value(content, entry.end()) if entry.group() == _KEY else "?" for entry in _ENTRY.finditer(content)]


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
            # Of two values protobuf takes the last one.
            twice = content[place + 1 + size : place + 2 + size] in _VALUES
            return "?" if twice else bytes(content[place + 1 : place + 1 + size]).decode(errors="replace")
    return "?"
