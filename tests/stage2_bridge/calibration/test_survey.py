"""A server asked about many images."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from engines.errors import RemoteError
from engines.store.stage2_scores import ScoredServer, scores_of
from stage2_bridge.calibration.survey import ATTEMPTS, GIVE_UP, Survey, survey
from stage2_bridge.client import ImageRefused, MeteredProbability, Stage2Error
from stage2_bridge.protection.budget.cost import Cost

SERVER = ScoredServer(kind="kserve", name="one", model="roadwork")


class Server:
    """Answers with a share of the image's number; fails on some as it is told to."""

    name = "one"

    def __init__(self, failures: dict[bytes, list[Exception]] | None = None, most: int = 10**9) -> None:
        self.asked: list[bytes] = []
        self.failures = failures or {}
        self.most = most
        self.at_work = self.busiest = 0

    async def ask(self, content: bytes, timeout_s: float) -> float:
        assert timeout_s == 5.0
        self.asked.append(content)
        self.at_work += 1
        self.busiest = max(self.busiest, self.at_work)
        await asyncio.sleep(0)
        self.at_work -= 1
        if len(self.asked) > self.most:
            raise RuntimeError("killed")
        if waiting := self.failures.get(content):
            raise waiting.pop(0)
        return int(content) / 100

    async def close(self) -> None:
        pass


def pictures(count: int) -> list[bytes]:
    return [str(n).encode() for n in range(count)]


def run(server: Server, images: list[bytes], store: Path, told: Callable[[int, int], None] = lambda *_: None) -> Survey:
    loads = [partial(bytes, one) for one in images]
    kept = scores_of(store, SERVER)
    return asyncio.run(survey(server, loads, kept, at_a_time=3, timeout_s=5.0, progress=told, pause_s=0.0))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_every_image_is_asked_about_once_and_its_answer_is_kept(tmp_path: Path) -> None:
    server, steps = Server(), list[tuple[int, int]]()
    found = run(server, [*pictures(20), b"7"], tmp_path, lambda done, total: steps.append((done, total)))
    assert found.images == [sha256(one) for one in [*pictures(20), b"7"]]
    assert sorted(server.asked) == sorted(pictures(20))
    assert server.busiest <= 3
    assert found.asked == 20
    assert steps[-1] == (21, 21)
    scores = scores_of(tmp_path, SERVER).scores
    assert {one: scores[sha256(one)].score for one in pictures(20)} == {one: int(one) / 100 for one in pictures(20)}


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run(Server(most=8), pictures(20), tmp_path)
    kept = len(scores_of(tmp_path, SERVER).scores)
    assert 5 <= kept <= 8
    server = Server()
    assert run(server, pictures(20), tmp_path).asked == 20 - kept
    assert len(server.asked) == 20 - kept
    assert len(scores_of(tmp_path, SERVER).scores) == 20


def test_an_image_that_is_refused_is_kept_as_such_and_one_that_failed_is_asked_about_again(tmp_path: Path) -> None:
    broken = [RemoteError("reset", passing=True)] * ATTEMPTS
    failures: dict[bytes, list[Exception]] = {
        b"1": [ImageRefused("no yes, no no")],
        b"2": [RemoteError("too large", status=413)],
        b"3": [RemoteError("busy", status=503, passing=True, retry_after_s=0.0)],
        b"4": list(broken),
    }
    found = run(Server(failures), pictures(6), tmp_path)
    scores = scores_of(tmp_path, SERVER).scores
    assert [scores[sha256(one)].score for one in (b"1", b"2", b"3")] == [None, None, 0.03]
    assert scores[sha256(b"1")].reason == "no yes, no no"
    assert found.failed == {sha256(b"4"): "reset"}
    again = Server()
    assert run(again, pictures(6), tmp_path).failed == {}
    assert again.asked == [b"4"]


def test_a_server_that_is_gone_ends_the_run_and_says_that_answers_are_kept(tmp_path: Path) -> None:
    images = pictures(60)
    gone: list[Exception] = [Stage2Error("connection refused")]
    failures = {one: list(gone * ATTEMPTS) for one in images[10:]}
    server = Server(failures)
    with pytest.raises(Stage2Error, match=r"no answer to 10 images.*connection refused.*kept"):
        run(server, images, tmp_path)
    assert len(scores_of(tmp_path, SERVER).scores) == 10
    assert len(server.asked) < 10 + ATTEMPTS * (GIVE_UP + 3)


class Together(Server):
    """Answers when three images are there."""

    barrier = asyncio.Barrier(3)

    async def ask(self, content: bytes, timeout_s: float) -> float:
        await self.barrier.wait()
        return await super().ask(content, timeout_s)


def test_images_are_asked_about_at_a_time(tmp_path: Path) -> None:
    assert run(Together(), pictures(6), tmp_path).asked == 6


class LanguageModel(Server):
    """A server whose answers depend on which of the two is named first."""

    async def ask_in_both_orders(self, content: bytes, timeout_s: float) -> tuple[float, float] | None:
        first = await self.ask(content, timeout_s)
        return first, MeteredProbability(first + 0.1, 20)

    async def ask(self, content: bytes, timeout_s: float) -> float:
        return MeteredProbability(await super().ask(content, timeout_s), 20)


@pytest.mark.parametrize("mean", [False, True])
def test_a_language_model_is_asked_about_some_images_in_both_orders(tmp_path: Path, mean: bool) -> None:
    server, kept = LanguageModel(), scores_of(tmp_path, SERVER)
    loads = [partial(bytes, one) for one in pictures(6)]
    asked = survey(
        server,
        loads,
        kept,
        at_a_time=2,
        timeout_s=5.0,
        price=Cost(0.5, 0.01, 90),
        both_orders=4,
        mean_of_orders=mean,
        pause_s=0.0,
    )
    asyncio.run(asked)
    found = [kept.scores[sha256(one)] for one in pictures(6)]
    assert [one.order_gap for one in found] == [pytest.approx(0.1)] * 4 + [None, None]
    assert found[3].score == pytest.approx(0.08 if mean else 0.03)
    # Of one hand-off: what was asked only to see how far the order moves it costs no answer anything.
    tokens = [2 * 20 if mean else 20] * 4 + [20, 20]
    assert [one.cost for one in found] == [pytest.approx(0.5 + 0.01 * one) for one in tokens]
    assert scores_of(tmp_path, SERVER).scores == kept.scores


def test_a_price_that_is_named_later_is_put_to_what_was_answered_before(tmp_path: Path) -> None:
    server = Server()
    assert run(server, pictures(4), tmp_path).asked == 4
    kept, loads = scores_of(tmp_path, SERVER), [partial(bytes, one) for one in pictures(5)]
    again = survey(server, loads, kept, at_a_time=2, timeout_s=5.0, price=Cost(0.25), pause_s=0.0)
    assert asyncio.run(again).asked == 1
    assert {one.cost for one in scores_of(tmp_path, SERVER).scores.values()} == {0.25}
    assert len(server.asked) == 5
