"""A bundle that passes every check and fails live: how soon a miner is rid of it, and what it costs who asks.

    python -m benchmarks.canary
    python -m benchmarks.canary --per-s 10 --requests 100

`cascade mine` serves a good bundle over HTTP, and is asked at a steady rate, whether or not earlier requests are
answered. Then the pointer moves to a bundle whose own golden images, certificate and engine fit each other, and which
on the pictures that are asked for defers everything, or emits no numbers; and last to one that is as good as the
first. Ends with status 1 if a request failed, if a bad bundle was not rolled back inside its window or would be taken
again, or if the good one was.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.made_bundles import SIZE_PX, publish
from benchmarks.serving.callers import Caller, body_of
from benchmarks.serving.client import Reply, open_loop
from benchmarks.serving.miner import NOW, UNLIMITED, Home, Miner, text_of, wait_until
from engines.errors import BundleRefused

# Share of pictures without any colour, of which the good bundle says nothing: its certificate has about so many.
GREY = 0.2
LIMIT_S = 120.0
KINDS = ("defers everything", "emits no numbers")


def write_engine(path: Path, kind: str) -> Path:
    """An engine of the mean colour: red is roadwork, blue is none, grey says nothing.

    Args:
        path: of the ONNX file.
        kind: `good`, `as good`, or one of `KINDS`: too small weights, or a division by the mean of green, which is zero
            on pictures that are asked for. Golden images have some, and black ones, with which engines are warmed up,
            are left out.
    """
    scale = {"defers everything": 1e-3, "as good": 1.01}.get(kind, 1.0)
    constants: dict[str, Any] = {
        "axes": np.array([2, 3], np.int64),
        "weights": np.array([[-0.02, 0.02, 0.0], [0.0, 0.0, 0.0], [0.02, -0.02, 0.02]], np.float32) * scale,
        "first_two": np.array([0, 1], np.int64),
        "third": np.array(2, np.int64),
        "green": np.array([1], np.int64),
        "colour_axis": np.array([1], np.int64),
        "one": np.array(1.0, np.float32),
        "nothing": np.array(0.0, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["plain"]),
        helper.make_node("Gather", ["colour", "green"], ["mean_green"], axis=1),
        helper.make_node("Mul", ["mean_green", "nothing"], ["zero"]),
        helper.make_node("ReduceSum", ["colour", "colour_axis"], ["bright"]),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Relu", ["dark"], ["black"]),
        helper.make_node("Add", ["mean_green", "black"], ["divisor"]),
        helper.make_node("Div", ["zero", "divisor"], ["unsure"]),
        helper.make_node("Add", ["plain", "unsure" if kind == "emits no numbers" else "zero"], ["heads"]),
        helper.make_node("Gather", ["heads", "first_two"], ["logits"], axis=1),
        helper.make_node("Gather", ["heads", "third"], ["select_score"], axis=1),
    ]
    asked = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, SIZE_PX, SIZE_PX])]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "select_score")]
    known = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, kind.replace(" ", "_"), asked, given, known)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def pictures(seed: int) -> Iterator[bytes]:
    """PNGs without end, no two alike: red, blue, or black with a little of both."""
    rng = np.random.default_rng(seed)
    while True:
        grey = rng.random() < GREY
        level = rng.integers(0, 6) if grey else rng.integers(150, 256)
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[..., rng.integers(0, 2) * 2] = level
        # So that no two are alike.
        pixels[rng.integers(0, 64, 8), rng.integers(0, 64, 8), 0] = rng.integers(0, 256, 8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        yield buffer.getvalue()


@dataclass
class Stream:
    """What was asked and answered.

    Attributes:
        caller: who asks.
        port: of the miner.
        per_s: requests a second.
        replies: all of them.
    """

    caller: Caller
    port: int
    per_s: float
    source: Iterator[bytes]
    replies: list[Reply] = field(default_factory=list)

    def ask(self, seconds: float) -> None:
        """For so long."""
        count = max(1, round(seconds * self.per_s))
        requests = [self.caller.request(body_of(text_of(next(self.source)))) for _ in range(count)]
        self.replies += asyncio.run(open_loop(self.port, requests, self.per_s))

    @property
    def failed(self) -> Counter[int]:
        return Counter(reply.status for reply in self.replies if reply.status != 200)


def current(home: Home) -> str | None:
    """Id of the bundle that the pointer names."""
    pointer = home.store.current()
    return None if pointer is None else pointer.bundle


def swap_and_watch(home: Home, miner: Miner, stream: Stream, bad: str) -> dict[str, Any] | None:
    """Make a bundle current and ask until it is rolled back; what the log says of that, None if it was not."""
    before = len(miner.events("canary_rolled_back"))
    home.activate(bad)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        stream.ask(2.0)
        if miner.events("bundle_refused"):
            raise SystemExit(f"it did not pass the checks: {miner.events('bundle_refused')[-1]['reason']}")
        if len(found := miner.events("canary_rolled_back")) > before:
            stream.ask(2.0)
            return found[-1]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-s", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=100, help="that a canary counts")
    parser.add_argument("--minutes", type=float, default=0.2, help="that a canary watches at least")
    options = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="canary-") as directory:
        root = Path(directory)
        home = Home.make(root / "home")
        ids = {
            kind: publish(home.store, write_engine(root / f"{number}.onnx", kind), root / f"files-{number}")
            for number, kind in enumerate(("good", *KINDS, "as good"))
        }
        home.activate(ids["good"])
        settings = UNLIMITED | {
            "engine.threads": 1,
            "engine.swap.canary.requests": options.requests,
            "engine.swap.canary.minutes": options.minutes,
        }
        with home.miner("canary", settings) as miner:
            stream = Stream(home.callers[0], miner.port, options.per_s, pictures(0))
            stream.ask(max(6.0, 60 / options.per_s))
            for kind in KINDS:
                told = swap_and_watch(home, miner, stream, ids[kind])
                if told is None:
                    wrong.append(f"{kind}: not rolled back within {LIMIT_S:.0f} s")
                    continue
                counted = (
                    f"{told['requests']} requests, {told['failed']} failed in Stage-1, {told['deferred']} deferred"
                )
                print(f"{kind}: rolled back {told['seconds']} s after the swap ({counted})\n  {told['reason']}")
                wait_until(lambda: home.store.current().bundle == ids["good"], 10, "the pointer did not follow")  # type: ignore[union-attr]
                try:
                    home.store.activate(ids[kind], now=NOW)
                    wrong.append(f"{kind}: the store took it again")
                except BundleRefused as error:
                    print(f"  taken again: refused ({error})")
            home.activate(ids["as good"])
            deadline = time.monotonic() + LIMIT_S
            while not miner.events("canary_passed") and time.monotonic() < deadline:
                stream.ask(2.0)
            passed = miner.events("canary_passed")
            if passed and current(home) == ids["as good"]:
                print(f"as good: passed after {passed[-1]['seconds']} s and {passed[-1]['requests']} requests")
            else:
                wrong.append("the good bundle did not pass")
        print(f"requests: {len(stream.replies)}, not answered with 200: {json.dumps(stream.failed)}")
        if stream.failed:
            wrong.append("requests failed")
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
