"""Vision-language models behind chat completions, asked over a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.errors import RemoteError
from stage1.errors import SettingsError
from stage2_bridge.client import ImageRefused, Stage2Error
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.chat import spoken, yes_share
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.settings import OpenAiServer
from tests.support.stage2_servers import Asked, Fake, as_json, chat

IMAGE = black_image()


def log(share: float) -> float:
    return math.log(share)


def asked(fake: Fake, do: Callable[[Any], Any], **changes: Any) -> Any:
    async def run() -> Any:
        async with fake.running():
            client = client_of(OpenAiServer(name="vlm", url=fake.url, model="see", **changes))
            try:
                return await do(client)
            finally:
                await client.close()

    return asyncio.run(run())


def test_spellings_of_yes_and_no_are_summed() -> None:
    likely = {"Yes": log(0.4), " yes": log(0.2), "No": log(0.1), "NO.": log(0.1), "Maybe": log(0.2)}
    fake = Fake(chat(likely))
    assert asked(fake, lambda client: client.ask(IMAGE, 5.0)) == pytest.approx(0.75)


def test_the_image_and_the_question_are_sent_and_one_token_is_wanted(tmp_path: Path) -> None:
    fake = Fake(chat({"yes": 0.0}))
    (tmp_path / "prompt.txt").write_text("Roadwork?\n")
    asked(fake, lambda client: client.ask(IMAGE, 5.0), prompt_file=tmp_path / "prompt.txt")
    body = json.loads(fake.asked[-1].body)
    text, image = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Roadwork?"}
    assert base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,")) == IMAGE
    assert (body["max_tokens"], body["temperature"], body["top_logprobs"]) == (1, 0, 20)
    assert "structured_outputs" not in body


def test_an_address_may_end_with_the_path_that_other_clients_want() -> None:
    fake = Fake(chat({"yes": 0.0}))

    async def run() -> float:
        async with fake.running():
            client = client_of(OpenAiServer(name="vlm", url=f"{fake.url}/v1/", model="see"))
            try:
                return await client.ask(IMAGE, 5.0)
            finally:
                await client.close()

    assert asyncio.run(run()) == 1.0


def test_a_constraint_is_sent_only_where_it_is_wanted() -> None:
    fake = Fake(chat({"yes": 0.0}))
    asked(fake, lambda client: client.ask(IMAGE, 5.0), constrained=True)
    assert json.loads(fake.asked[-1].body)["structured_outputs"] == {"choice": ["yes", "no"]}


def test_what_a_server_does_not_know_is_left_out_from_then_on() -> None:
    fake = Fake(chat(None, "No, none.", refuses=("structured_outputs", "logprobs")))

    async def twice(client: Any) -> list[float]:
        return [await client.ask(IMAGE, 5.0), await client.ask(IMAGE, 5.0)]

    assert asked(fake, twice, constrained=True) == [0.0, 0.0]
    assert len(fake.asked) == 2 + 1 + 1


def test_an_image_that_is_refused_takes_nothing_from_the_others() -> None:
    knows = chat({"yes": log(0.7), "no": log(0.3)})
    bad = base64.b64encode(b"bad image").decode()

    def answer(asked: Asked) -> bytes | None:
        if bad in asked.body.decode():
            return as_json({"error": {"message": "cannot identify image file"}}, 400)
        return knows(asked)

    async def after_a_bad_one(client: Any) -> float:
        with pytest.raises(RemoteError, match="cannot identify"):
            await client.ask(b"bad image", 5.0)
        return float(await client.ask(IMAGE, 5.0))

    fake = Fake(answer)
    assert asked(fake, after_a_bad_one, constrained=True) == pytest.approx(0.7)
    assert "structured_outputs" in json.loads(fake.asked[-1].body)


def test_an_answer_in_other_words_is_the_images_fault() -> None:
    with pytest.raises(ImageRefused):
        asked(Fake(chat({"The": 0.0})), lambda client: client.ask(IMAGE, 5.0))


def test_the_check_says_whether_there_are_log_probabilities() -> None:
    assert asked(Fake(chat({"no": 0.0})), lambda client: client.check(5.0)) == "model see, with log-probabilities"
    told = asked(Fake(chat(None, "yes")), lambda client: client.check(5.0))
    assert told == "model see, without log-probabilities: its answers are yes or no, never maybe"


def test_a_model_that_answers_something_else_is_told_by_the_check() -> None:
    with pytest.raises(Stage2Error, match=r"likelier were 'The'"):
        asked(Fake(chat({"The": log(0.9), "yes": log(1e-4)})), lambda client: client.check(5.0))
    with pytest.raises(Stage2Error, match="neither yes nor no"):
        asked(Fake(chat(None, "A street.")), lambda client: client.check(5.0))


def test_thousands_of_log_probabilities_are_not_read() -> None:
    with pytest.raises(RemoteError, match="longer than"):
        asked(Fake(chat({f"t{number}": -9.0 for number in range(20_000)})), lambda client: client.ask(IMAGE, 5.0))


@pytest.mark.parametrize("content", [IMAGE, IMAGE + bytes(2**20)], ids=["small", "large"])
def test_an_image_of_any_size_arrives_whole(content: bytes) -> None:
    fake = Fake(chat({"yes": 0.0}))
    assert asked(fake, lambda client: client.ask(content, 5.0)) == 1.0
    _, image = json.loads(fake.asked[-1].body)["messages"][0]["content"]
    assert base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,")) == content


def wrong(_: Asked) -> bytes:
    return as_json({"choices": []})


def test_a_reply_that_is_no_completion_is_an_error() -> None:
    with pytest.raises(RemoteError, match="no chat completion"):
        asked(Fake(wrong), lambda client: client.ask(IMAGE, 5.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("yes", 1.0), ("No.", 0.0), ("0.35", 0.35), ("80%", 0.8), ("I say: yes, there is", 1.0), ("Probability: .5", 0.5)],
)
def test_words_become_a_probability(text: str, expected: float) -> None:
    assert spoken(text) == pytest.approx(expected)


def test_impossible_log_probabilities_count_for_nothing_more_than_one() -> None:
    assert yes_share([("yes", 700.0), ("no", 0.0), ("no", math.nan)]) == pytest.approx(0.5)


def test_a_prompt_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    settings = OpenAiServer(name="vlm", url="http://here", model="see", prompt_file=tmp_path / "none.txt")
    with pytest.raises(SettingsError, match="vlm: prompt_file cannot be read"):
        client_of(settings)
