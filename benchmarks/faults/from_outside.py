"""What anybody, or one permitted validator, does to the others."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.faults.asking import (
    Reply,
    ask,
    ask_many,
    body_of,
    crowd,
    headers_of,
    one_bit,
    picture,
    post,
    probed,
    raw_request,
)
from benchmarks.faults.row import Row
from benchmarks.faults.running import Miner, Tree, begin, mining, until

SIDE = 8000
# A palette with transparency whose decoder meets an assertion.
DAMAGED = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAEAgMAAADUn3btAAAAAXRSTlMAQObYZgAAAAtJREFUeJxjYIAAAAAIAAG3WHOVAAAAAElFTkSuQmCC"
)
STRANGERS = [f"127.0.1.{number}" for number in range(1, 101)]


def silent_connections(tree: Tree) -> list[Row]:
    with mining(tree, files=1024) as miner, crowd(miner, 1010, STRANGERS):
        before = miner.log_size()
        time.sleep(3)
        grown = miner.log_size() - before
        reply = ask(miner)
    return [
        Row(
            "1 silent connections, 1,024 files",
            "log in 3 s; a valid request",
            f"{grown:,} bytes; {reply.status} in {reply.seconds:.2f} s",
            "< 100,000 bytes; 200",
            grown >= 100_000 or reply.status != 200,
        )
    ]


def idle_connections(tree: Tree) -> list[Row]:
    with mining(tree) as miner:
        before = miner.log_size()
        with crowd(miner, 1100, ["127.0.0.5"]) as held:
            reply = ask(miner)
            try:
                held[-1].sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                refusal = held[-1].recv(4096)
            except OSError as error:
                refusal = repr(error).encode()
        told = len(miner.warnings(before))
    said = "JSON" if b'{"message"' in refusal else "text" if refusal.startswith(b"HTTP") else "nothing"
    return [
        Row(
            "2 idle connections of one address",
            "a valid request; what the last is told; log lines",
            f"{reply.status}; {said}; {told}",
            "200; JSON; 1 to 5",
            reply.status != 200 or said != "JSON" or not 1 <= told <= 5,
        )
    ]


def headers_without_bodies(tree: Tree) -> list[Row]:
    with mining(tree) as miner:
        sources = [f"127.0.3.{number}" for number in range(1, 9)]
        with crowd(miner, 256, sources) as held:
            for one in held:
                one.sendall(raw_request(headers_of(miner, "low"), 1000))
            time.sleep(1)
            replies = [ask(miner) for _ in range(3)]
    statuses = [reply.status for reply in replies]
    return [
        Row(
            "3 256 headers without a body",
            "three requests of the highest stake",
            str(statuses),
            "200 each",
            set(statuses) != {200},
        )
    ]


def large_png(tree: Tree) -> list[Row]:
    return [_large(tree, "PNG", compress_level=1)]


def large_jpeg(tree: Tree) -> list[Row]:
    return [_large(tree, "JPEG", progressive=True)]


def _large(tree: Tree, kind: str, **how: Any) -> Row:
    content = picture((90, 90, 90), SIDE, kind, **how)
    with mining(tree) as miner:
        ask(miner)
        before = miner.memory_mb()
        miner.forget_peak()
        replies = _beside(miner, content, count=10)
        peak = miner.memory_mb("VmHWM") - before
    bad = sum(not reply.is_answer for reply in replies)
    slowest = max(reply.seconds for reply in replies)
    return Row(
        f"4 {SIDE} x {SIDE} {kind}, five a second",
        "another validator's requests without an answer of the model; slowest; memory more",
        f"{bad} of {len(replies)}; {slowest:.1f} s; {peak:.0f} MB",
        "0; < 400 MB",
        bad > 0 or peak >= 400,
    )


def _beside(miner: Miner, content: bytes, *, count: int) -> list[Any]:
    """The replies to another validator while one sends this picture five times a second."""
    threads = []
    body = body_of(content)
    replies = []
    for number in range(count):
        send = threading.Thread(target=lambda: post(miner, headers_of(miner, "low"), body, source="low"))
        send.start()
        threads.append(send)
        time.sleep(0.2)
        if number % 5 == 4:
            replies.append(ask(miner))
    for send in threads:
        send.join()
    return replies


def webp(tree: Tree) -> list[Row]:
    content = picture((90, 90, 90), SIDE, "WEBP", lossless=True, quality=0, method=0)
    with mining(tree) as miner:
        ask(miner)
        before = miner.memory_mb()
        miner.forget_peak()
        with probed(miner) as took:
            ask_many(miner, "low", content, 4)
        peak = miner.memory_mb("VmHWM") - before
    return [
        Row(
            f"4 {SIDE} x {SIDE} lossless WebP of {len(content)} bytes, four times",
            "longest time in which nothing is answered; memory more",
            f"{max(took):.2f} s; {peak:.0f} MB",
            "< 1 s; < 400 MB",
            max(took) >= 1 or peak >= 400,
        )
    ]


def numbers(tree: Tree) -> list[Row]:
    body = b'{"image": "", "x": [' + b"1," * 8_300_000 + b"1]}"
    with mining(tree) as miner:
        ask(miner)
        before = miner.cpu_s()
        replies = [post(miner, headers_of(miner, "low"), body, source="low") for _ in range(3)]
        each = (miner.cpu_s() - before) / 3
    return [
        Row(
            "5 16 MB of JSON numbers",
            "CPU for each; status",
            f"{each:.2f} s; {replies[0].status}",
            "< 0.3 s; 400",
            each >= 0.3 or replies[0].status != 400,
        )
    ]


def damaged_picture(tree: Tree) -> list[Row]:
    with mining(tree) as miner:
        before = miner.log_size()
        replies = [ask(miner, "low", DAMAGED) for _ in range(50)]
        records = len(miner.journal())
        loud = len(miner.warnings(before))
        grown = miner.log_size() - before
        before = miner.log_size()
        for side in range(9_500, 9_530):
            ask(miner, "low", one_bit(side))
        foreign = sum(not line.startswith(b"{") for line in miner.log.read_bytes()[before:].splitlines())
    status, said = replies[0].status, replies[0].content
    answer = said.get("prediction") if isinstance(said, dict) else said
    return [
        Row(
            "6 a damaged palette PNG, 50 times",
            "status; prediction; journal lines",
            f"{status}; {answer}; {records}",
            "200; a number; 50",
            (status, records) != (200, 50) or not isinstance(answer, float),
        ),
        Row(
            "17 warnings that one permit buys: this picture, 50 times",
            "lines at WARNING or above; bytes of log",
            f"{loud}; {grown:,}",
            "<= 3; < 50,000",
            loud > 3 or grown >= 50_000,
        ),
        Row(
            "new: 30 small files of 90 megapixels, each of another size",
            "log lines that are no JSON",
            str(foreign),
            "0",
            foreign > 0,
        ),
    ]


def refusals(tree: Tree) -> list[Row]:
    with mining(tree) as miner:
        rows = []
        valid = headers_of(miner)
        post(miner, valid, body_of(picture()))
        kinds: dict[str, Callable[[], Reply]] = {
            "7 a clock 17 s off": lambda: ask(miner, age_s=17.0),
            "7 a hotkey without a permit": lambda: ask(miner, "stranger"),
            "7 a replay": lambda: post(miner, valid, body_of(picture())),
            "17 warnings that one permit buys: bodies that are no JSON": lambda: post(
                miner, headers_of(miner, "low"), b"no JSON", source="low"
            ),
        }
        for name, send in kinds.items():
            before = miner.log_size()
            replies = [send() for _ in range(30)]
            told = len(miner.warnings(before))
            rows.append(
                Row(
                    f"{name}, 30 times",
                    "status; log lines at WARNING or above",
                    f"{replies[-1].status}; {told}",
                    "401, 403 or 400; 1 to 3",
                    replies[-1].status not in {400, 401, 403} or not 1 <= told <= 3,
                )
            )
        long = headers_of(miner) | {"x-long": "x" * 100_000}
        reply = post(miner, long, body_of(picture()))
        rows.append(
            Row(
                "17 100 KB in one header",
                "status of a valid request",
                str(reply.status),
                "not 200",
                reply.status == 200,
            )
        )
    return rows


def replay_after_restart(tree: Tree) -> list[Row]:
    with mining(tree) as miner:
        headers, body = headers_of(miner, timeout_s=60.0), body_of(picture())
        first = post(miner, headers, body)
        miner.end()
        before = miner.log_size()
        begin(miner)
        until(lambda: any(event.get("event") == "ready" for event in miner.events("ready", since=before)), 30)
        second = post(miner, headers, body)
    return [
        Row(
            "16 a replay after a restart",
            "status before; after",
            f"{first.status}; {second.status}",
            "200; 401",
            second.status == 200,
        )
    ]


def callers_that_leave(tree: Tree) -> list[Row]:
    body = body_of(picture((90, 90, 90), 4400, "JPEG", progressive=True))
    with mining(tree) as miner:
        ask(miner)
        requests = [raw_request(headers_of(miner, "low"), len(body)) + body for _ in range(16)]
        before, records = miner.cpu_s(), len(miner.journal())
        with crowd(miner, len(requests), ["127.0.0.3"]) as held:
            for one, request in zip(held, requests, strict=True):
                one.sendall(request)
            # Less than two of them take on a fast machine.
            time.sleep(0.05)
        time.sleep(8)
        spent, told = miner.cpu_s() - before, miner.journal()[records:]
    answered = sum(record.get("result") != "abandoned" for record in told)
    return [
        Row(
            "17 work whose caller has gone, 16 pictures of 19 Mpx",
            "requests that are answered all the same; CPU",
            f"{answered}; {spent:.1f} s",
            "<= 6",
            answered > 6,
        )
    ]


def dear_to_read(tree: Tree) -> list[Row]:
    """What a stranger sends in a few kilobytes, and a parser reads for seconds."""
    head = b"POST /x HTTP/1.1\r\nhost: a\r\n"
    sent = {
        "a body in chunks of one byte": head + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000,
        "a header of 3,900 lines": head + b"a:\r\n" * 3_900 + b"\r\n",
    }
    rows = []
    with mining(tree) as miner:
        ask(miner)
        for name, what in sent.items():
            before = miner.cpu_s()
            for _ in range(8):
                with crowd(miner, 1, ["127.0.0.4"], what):
                    ask(miner)
            each = (miner.cpu_s() - before) / 8
            rows.append(
                Row(
                    f"new: {name} from a stranger",
                    f"CPU for each ({len(what):,} bytes)",
                    f"{each * 1e3:.0f} ms",
                    "< 15 ms",
                    each >= 0.015,
                )
            )
    return rows


def busy_parser(tree: Tree) -> list[Row]:
    """What one permitted validator sends, and Pillow reads byte by byte."""
    with mining(tree) as miner:
        ask(miner)
        before = miner.cpu_s()
        for _ in range(2):
            ask(miner, "low", b"\xff\xd8" + b"\xff" * 2_000_000)
        each = (miner.cpu_s() - before) / 2
    return [
        Row(
            "new: a JPEG of 2 MB of fill bytes",
            "CPU for each",
            f"{each:.2f} s",
            "< 0.5 s",
            each >= 0.5,
        )
    ]
