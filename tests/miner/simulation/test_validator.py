"""What arrives at a miner: signed by the real SDK, and changed as validators changed it in each era."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from miner.simulation.exchange import Challenge, Exchange, Target
from miner.simulation.keys import throw_away_key
from miner.simulation.processes import Manner, ValidatorProcess
from stage1.certificate.stream import Stream
from tests.support.axon_peer import AxonPeer, axon_peer
from tests.support.challenges import jpeg, patches

REQUESTS = 24
# Black after JPEG.
DARK = 12


def sent(home: Path, stream: Stream) -> tuple[AxonPeer, list[Exchange]]:
    """A wide picture, asked about often."""
    picture = home / "wide.jpg"
    picture.write_bytes(jpeg(patches()))
    key = throw_away_key(home / "keys", "miner")
    throw_away_key(home / "keys", "validator")
    with axon_peer(lambda number: (200, json.dumps({"prediction": number / 100}))) as peer:
        manner = Manner(home / "keys", "validator", stream, seed=3)
        with ValidatorProcess(Target("127.0.0.1", peer.port, key), manner, home / "log") as validator:
            validator.wait_until_ready()
            for number in range(REQUESTS):
                validator.send(Challenge(str(number), picture, 1, "g"))
                validator.wait_for(number + 1)
            exchanges = validator.finish()
    assert len(peer.images) == REQUESTS
    return peer, exchanges


def dark_share(pixels: NDArray[np.uint8]) -> float:
    return float((pixels < DARK).all(-1).mean())


def decoded(content: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(content))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    # 4:2:0, quality 75: the first value of the table of luminance is 16 scaled by a half.
    assert JpegImagePlugin.get_sampling(image) == 2
    assert image.quantization[0][0] == 8
    return np.asarray(image)


@pytest.mark.parametrize("stream", ["challenges-2026-01", "challenges-2026-04"])
def test_before_may_squares_of_224_arrive_which_differ_with_every_request(tmp_path: Path, stream: Stream) -> None:
    peer, exchanges = sent(tmp_path, stream)
    assert [exchange.prediction for exchange in exchanges] == [number / 100 for number in range(REQUESTS)]
    pictures = [decoded(content) for content in peer.images]
    assert {picture.shape for picture in pictures} == {(224, 224, 3)}
    # One in four is of level 0, which draws nothing.
    assert len(set(peer.images)) > REQUESTS // 2
    # Measured on pictures of 224 pixels: 3.6, 5.3 and 10.9 KB at 5, 50 and 95 %.
    assert 2_000 < np.median([len(content) for content in peer.images]) < 12_000
    black = [dark_share(picture) for picture in pictures]
    if stream == "challenges-2026-04":
        # Bars: 7 of 16 rows. Noise, on two in three of level 3, lights up half of their pixels.
        assert np.median(black) == pytest.approx(0.45, abs=0.05)
        assert min(black) > 0.15
    else:
        assert np.median(black) < 0.15
    # Black by rotation: some corner of some picture.
    corners = [picture[y, x].max() for picture in pictures for y in (0, -1) for x in (0, -1)]
    assert min(corners) < DARK


def test_since_may_the_picture_arrives_whole_and_only_compressed_again(tmp_path: Path) -> None:
    peer, exchanges = sent(tmp_path, "challenges-2026-05")
    [content] = set(peer.images)
    assert decoded(content).shape == (720, 1280, 3)
    original = Image.open(tmp_path / "wide.jpg")
    assert content == jpeg(original, quality=75)
    assert len({exchange.sha256 for exchange in exchanges}) == 1


def test_a_request_is_the_one_of_the_subnet(tmp_path: Path) -> None:
    peer, _ = sent(tmp_path, "originals")
    body = peer.bodies[0]
    assert (peer.paths[0], body["name"], body["timeout"]) == ("/ImageSynapse", "ImageSynapse", 9.0)
    assert (body["testnet_label"], body["prediction"]) == (-1, -1.0)
    assert peer.headers[0]["bt_header_dendrite_signature"].startswith("0x")
    assert len({headers["bt_header_dendrite_nonce"] for headers in peer.headers}) == REQUESTS
    assert peer.images[0] == (tmp_path / "wide.jpg").read_bytes()


def test_a_picture_that_cannot_be_sent_is_told_and_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg(patches().resize((64, 36))))
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "no text \udcff.jpg").write_bytes((tmp_path / "good.jpg").read_bytes())
    key = throw_away_key(tmp_path / "keys", "miner")
    throw_away_key(tmp_path / "keys", "validator")
    with axon_peer(lambda _: (200, '{"prediction": 0.25}')) as peer:
        manner = Manner(tmp_path / "keys", "validator", "mixture", seed=0)
        with ValidatorProcess(Target("127.0.0.1", peer.port, key), manner, tmp_path / "log") as validator:
            validator.wait_until_ready()
            for number, name in enumerate(("bad.jpg", "good.jpg", "gone.jpg", "no text \udcff.jpg")):
                validator.send(Challenge(str(number), tmp_path / name, 1, "g"))
            exchanges = validator.finish()
            unsent = validator.unsent
    assert [exchange.image for exchange in exchanges] == [str(tmp_path / "good.jpg")]
    names = ("bad.jpg", "gone.jpg", "no text \ufffd.jpg")
    assert sorted(text.split(":")[0] for text in unsent) == [str(tmp_path / name) for name in names]
