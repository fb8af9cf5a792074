"""CPU time that the metrics cost a request, and a scrape of what is measured with requests.

    python -m benchmarks.metrics --requests 20000

A request pays for the observer and for the count of its reply.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest

from miner.admin.history import History
from miner.admin.request_metrics import RequestMetrics
from miner.answering.record import RequestRecord
from stage1.decisions import Action
from stage2_bridge.client import Outcome

HOTKEY = "5Ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    requests = parser.parse_args().requests
    metrics, replies = RequestMetrics(CollectorRegistry(), History(lambda: 0)), Counter[tuple[str, int]]()
    record = RequestRecord(
        request_id="1",
        at=datetime.now(UTC),
        hotkey="5Caller",
        result="answered",
        answer=0.5,
        action=Action.DEFER,
        level="UNSURE",
        stage2=Outcome.ANSWERED,
        stage1_ms=40.0,
        stage2_ms=6900.0,
        total_ms=6950.0,
    )
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(requests):
            metrics.on_answer(record)
            replies[HOTKEY, 200] += 1
            metrics.on_reply(HOTKEY, 200, 6.95)
        best = min(best, (time.process_time() - began) / requests)
    print(f"a request: {best * 1e3:.4f} CPU-ms, least of 5 rounds of {requests}")
    began = time.process_time()
    for _ in range(100):
        generate_latest(metrics.registry)
    print(f"a scrape of what is measured with requests: {(time.process_time() - began) * 10:.2f} CPU-ms")


if __name__ == "__main__":
    main()
