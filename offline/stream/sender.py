"""Who sends pictures: one draw a picture, by hash, so that it is the same for every model and in every night."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from offline.stream.challenge import CELLS, Cell, as_jpeg, challenge, drawn_cell, sent
from stage1.certificate.stream import Era, Stream, era_shares, even_weights
from stage1.preprocess import PreprocessSettings, upright


class Streamed(Protocol):
    """What says which stream it is for: settings of a calibration, or its certificate."""

    @property
    def stream(self) -> Stream:
        """The stream."""
        ...

    @property
    def stream_weights(self) -> Mapping[Era, float]:
        """Weights of the eras in a mixture, up to a factor."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the draws."""
        ...


@dataclass(frozen=True)
class StreamSender:
    """Sends a stream.

    Attributes:
        stream: see `stage1.certificate.stream`; originals are sent as they are.
        weights: of the eras in a mixture, up to a factor.
        seed: of the draws.
    """

    stream: Stream
    weights: Mapping[Era, float] = field(default_factory=even_weights)
    seed: int = 0

    def __call__(self, name: str, content: bytes, settings: PreprocessSettings) -> bytes:
        """See `offline.data.dataset.Sender`."""
        if not era_shares(self.stream, self.weights):
            return content
        return self.send(name, upright(content, settings))

    def send(self, name: str, picture: Image.Image) -> bytes:
        """The bytes that are sent of a picture that is decoded already.

        Args:
            name: id of the row; it decides everything that is drawn.
            picture: RGB, upright, in its own size.
        """
        rng = generator_of(self.seed, name)
        cell = drawn_cell(era_shares(self.stream, self.weights), rng)
        return as_jpeg(challenge(picture, cell, rng))


@dataclass(frozen=True)
class CellSender:
    """Sends every picture in one way.

    Attributes:
        cell: era and level.
        seed: of the draws.
    """

    cell: Cell
    seed: int = 0

    def __call__(self, name: str, content: bytes, settings: PreprocessSettings) -> bytes:
        """See `offline.data.dataset.Sender`."""
        return sent(content, self.cell, generator_of(self.seed, f"{self.cell}\0{name}"), settings)


def sender_of(asked: Streamed) -> StreamSender:
    """Sends the stream that a certificate is for, or is to be for."""
    return StreamSender(asked.stream, asked.stream_weights, asked.seed)


def every_sender(seed: int) -> dict[str, StreamSender | CellSender]:
    """Originals, then every era at every level, by name.

    Args:
        seed: of the draws.
    """
    return {"originals": StreamSender("originals")} | {str(cell): CellSender(cell, seed) for cell in CELLS}


def generator_of(seed: int, name: str) -> np.random.Generator:
    """A generator that is the same for a seed and a name on every machine."""
    return np.random.default_rng(int.from_bytes(draw_key(seed, name)))


def draw_key(seed: int, name: str) -> bytes:
    """What a seed and a name draw from; also an order of names that knows nothing of pictures or labels."""
    return hashlib.blake2b(f"stream\0{seed}\0{name}".encode(), digest_size=16).digest()
