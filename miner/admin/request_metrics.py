"""Metrics that are measured with every request; everything else is read when it is asked for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from miner.admin.history import History
from miner.answering.record import RequestRecord
from stage2_bridge.client import Outcome

# Seconds. An answer takes tens of milliseconds without Stage-2; with the defaults Stage-2 has until 6.75, an answer is
# due at 7, cut off at 7.5, and the validator leaves at 9.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.75, 7.0, 7.5, 8.0, 9.0)
ANSWERED = 200


class RequestMetrics:
    """An observer of answers and replies; it is told of each on the event loop, and takes microseconds.

    Args:
        registry: where the metrics are.
        history: told of each answer as well.
    """

    def __init__(self, registry: CollectorRegistry, history: History) -> None:
        self.registry = registry
        self.history = history
        self._answers = Counter(
            "cascade_answers",
            "Answers by how they came about; an empty label is a step that was not reached.",
            ("result", "action", "decision", "stage2"),
            registry=registry,
        )
        self._request = Histogram(
            "cascade_request_duration_seconds",
            "Time from the header of an answered request to its reply, by our hotkey.",
            ("hotkey",),
            buckets=BUCKETS,
            registry=registry,
        )
        self._stage1 = Histogram(
            "cascade_stage1_duration_seconds",
            "Decoding and Stage-1, with the wait for a worker and a batch.",
            buckets=BUCKETS,
            registry=registry,
        )
        self._stage2 = Histogram(
            "cascade_stage2_duration_seconds",
            "Hand-offs to Stage-2, with the wait for a turn, whatever became of them.",
            buckets=BUCKETS,
            registry=registry,
        )

    def on_answer(self, record: RequestRecord) -> None:
        """See `miner.answering.record.Observer`."""
        self.history.on_answer(record)
        action = "" if record.action is None else record.action.value
        stage2 = "" if record.stage2 is None else record.stage2.value
        self._answers.labels(record.result, action, record.level or "", stage2).inc()
        if record.stage1_ms is not None:
            self._stage1.observe(record.stage1_ms / 1e3)
        if record.stage2_ms is not None and record.stage2 is not Outcome.ABSENT:
            self._stage2.observe(record.stage2_ms / 1e3)

    def on_reply(self, hotkey: str, status: int, seconds: float) -> None:
        """Take note of a reply.

        Args:
            hotkey: which of ours was asked.
            status: HTTP status.
            seconds: from the request's header to the reply.
        """
        if status == ANSWERED:
            self._request.labels(hotkey).observe(seconds)
