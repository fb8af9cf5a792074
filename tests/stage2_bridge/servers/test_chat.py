"""Vision-language models behind chat completions, asked over a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engines.errors import RemoteError
from stage1.errors import SettingsError
from stage2_bridge.client import ImageRefused, MeteredProbability, Stage2Error
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.blame import was_not_sent
from stage2_bridge.servers.chat import ChatClient
from stage2_bridge.servers.language.answers import spoken, yes_share
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.settings import OpenAiServer
from tests.support.stage2_servers import Asked, Fake, as_json, chat, http

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
    used = "612 tokens read and 1 written for an image"
    told = asked(Fake(chat({"no": 0.0})), lambda client: client.check(5.0))
    assert told == f"model see, with log-probabilities, {used}"
    told = asked(Fake(chat(None, "yes")), lambda client: client.check(5.0))
    assert told == f"model see, without log-probabilities: its answers are yes or no, never maybe, {used}"


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


@pytest.mark.parametrize(
    ("refused", "sent"),
    [
        ("max_tokens", ("max_completion_tokens", 1)),
        ("temperature", ("logprobs", True)),
        ("top_logprobs", ("top_logprobs", 5)),
    ],
)
def test_what_paid_models_refuse_is_asked_for_in_another_way_from_then_on(refused: str, sent: tuple[str, Any]) -> None:
    knows = chat({"yes": log(0.7), "no": log(0.3)})

    def answer(one: Asked) -> bytes | None:
        body = json.loads(one.body)
        if refused in body and not (refused == "top_logprobs" and body[refused] <= 5):
            return as_json({"error": {"message": f"Unsupported parameter: '{refused}' is not supported"}}, 400)
        return knows(one)

    async def twice(client: Any) -> list[float]:
        return [await client.ask(IMAGE, 5.0), await client.ask(IMAGE, 5.0)]

    fake = Fake(answer)
    assert asked(fake, twice) == pytest.approx([0.7, 0.7])
    assert len(fake.asked) == 3
    body = json.loads(fake.asked[-1].body)
    assert body[sent[0]] == sent[1]
    assert refused == "top_logprobs" or refused not in body


def test_a_model_that_reasons_before_it_answers_is_told_by_the_check() -> None:
    def answer(one: Asked) -> bytes:
        tokens = json.loads(one.body)["max_tokens"]
        text, why = ("", "length") if tokens < 100 else ("yes", "stop")
        return as_json({"choices": [{"message": {"content": text}, "finish_reason": why}]})

    with pytest.raises(Stage2Error, match="set max_tokens higher"):
        asked(Fake(answer), lambda client: client.check(5.0))
    assert asked(Fake(answer), lambda client: client.ask(IMAGE, 5.0), max_tokens=100) == 1.0


def test_log_probabilities_from_before_a_constraint_are_refused_by_the_check() -> None:
    before = Fake(chat({"The": log(0.6), "yes": log(0.3), "no": log(0.1)}))
    with pytest.raises(Stage2Error, match="processed_logprobs"):
        asked(before, lambda client: client.check(5.0), constrained=True)
    after = Fake(chat({"y": log(0.2), "yes": log(0.55), "no": log(0.25), "The": -9999.0}))
    assert asked(after, lambda client: client.ask(IMAGE, 5.0), constrained=True) == pytest.approx(0.75)


def test_answers_with_and_without_log_probabilities_are_not_mixed() -> None:
    fake = Fake(chat({"yes": log(0.7), "no": log(0.3)}))

    async def then_without(client: Any) -> None:
        assert await client.ask(IMAGE, 5.0) == pytest.approx(0.7)
        fake.answer = chat(None, "yes")
        with pytest.raises(Stage2Error, match="do not mix"):
            await client.ask(IMAGE, 5.0)
        fake.answer = chat({"no": 0.0})
        assert await client.ask(IMAGE, 5.0) == 0.0

    asked(fake, then_without)


def test_both_orders_of_the_options_are_asked_and_their_gap_can_be_told() -> None:
    fake = Fake(chat({"yes": log(0.8), "no": log(0.2)}, turned={"yes": log(0.4), "no": log(0.6)}))
    both = asked(fake, lambda client: client.ask_in_both_orders(IMAGE, 5.0))
    assert both == pytest.approx((0.8, 0.4))
    assert asked(fake, lambda client: client.ask(IMAGE, 5.0)) == pytest.approx(0.8)
    assert asked(fake, lambda client: client.ask(IMAGE, 5.0), both_orders=True) == pytest.approx(0.6)
    texts = {json.loads(one.body)["messages"][0]["content"][0]["text"] for one in fake.asked}
    assert {text.rsplit(", ", 1)[1] for text in texts} == {"yes or no.", "no or yes."}


@pytest.mark.parametrize("tokens", [-1_000_000, 10**400])
def test_a_server_that_counts_its_tokens_wrongly_is_no_source_of_money(tokens: int) -> None:
    def answer(one: Asked) -> bytes | None:
        sound = chat({"yes": 0.0})(one)
        assert sound is not None
        found = json.loads(sound.split(b"\r\n\r\n", 1)[1])
        return as_json(found | {"usage": {"prompt_tokens": tokens, "completion_tokens": 1}})

    # Nothing is known of what it took, so that the most that it may be is paid.
    found = asked(Fake(answer), lambda client: client.ask(IMAGE, 5.0))
    assert found == 1.0
    assert not isinstance(found, MeteredProbability)


@pytest.mark.parametrize("failing", ["yes or no.", "no or yes."])
def test_of_two_orders_of_which_one_was_sent_it_is_not_said_that_neither_was(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(chat({"yes": 0.0}), before_s=0.2)

    async def both(client: ChatClient) -> None:
        send = aiohttp.ClientSession.request

        async def request(session: aiohttp.ClientSession, *where: Any, data: bytes, **more: Any) -> Any:
            if failing in data.decode():
                raise aiohttp.ConnectionTimeoutError("nobody there")
            return await send(session, *where, data=data, **more)

        monkeypatch.setattr(aiohttp.ClientSession, "request", request)
        with pytest.raises(RemoteError, match="nobody there") as told:
            await client.ask(IMAGE, 5.0)
        assert not was_not_sent(told.value)
        # It would be sent once more where it were.
        assert not told.value.passing
        assert len(asyncio.all_tasks()) <= 3

    asked(fake, both, both_orders=True)


def test_a_question_of_ones_own_names_the_options_or_has_one_order(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Any cones? Say {options}.")
    fake = Fake(chat({"yes": log(0.8), "no": log(0.2)}, turned={"yes": log(0.4), "no": log(0.6)}))
    both = asked(fake, lambda client: client.ask_in_both_orders(IMAGE, 5.0), prompt_file=prompt)
    assert both == pytest.approx((0.8, 0.4))
    prompt.write_text("Any cones?")
    assert asked(fake, lambda client: client.ask_in_both_orders(IMAGE, 5.0), prompt_file=prompt) is None
    with pytest.raises(SettingsError, match="both_orders is set"):
        asked(fake, lambda client: client.ask(IMAGE, 5.0), prompt_file=prompt, both_orders=True)


VLLM = {
    "/version": {"version": "0.32.0"},
    "/v1/models": {"data": [{"id": "see", "root": "Qwen/Qwen3-VL-8B-Instruct"}]},
    "/server_info?config_format=json": {"vllm_config": {"model_config": {"logprobs_mode": "raw_logprobs", "seed": 1}}},
}
OLLAMA = {
    "/api/version": {"version": "0.14.1"},
    "/api/tags": {"models": [{"name": "see:latest", "digest": "abc123"}]},
}
LLAMA_CPP = {"/props": {"build_info": "b7000-1", "model_path": "/m.gguf", "chat_template": "x" * 500}}


@pytest.mark.parametrize(
    ("facts", "version"),
    [
        (VLLM, "Qwen/Qwen3-VL-8B-Instruct 0.32.0"),
        (OLLAMA, "abc123 0.14.1"),
        (LLAMA_CPP, "/m.gguf b7000-1"),
        ({}, ""),
    ],
    ids=["vllm", "ollama", "llama.cpp", "nothing"],
)
def test_the_version_is_what_each_server_program_tells(facts: dict[str, Any], version: str) -> None:
    fake = Fake(chat({"yes": 0.0}, facts=facts))
    found = asked(fake, lambda client: client.identity(5.0))
    assert (found.kind, found.name, found.model, found.version) == ("openai", "vlm", "see", version)


def test_a_paid_service_tells_the_date_of_its_model() -> None:
    fake = Fake(chat({"yes": 0.0}, model="see-2026-08-07"))
    assert asked(fake, lambda client: client.identity(5.0)).version == "see-2026-08-07"


def test_a_fingerprint_changes_with_what_moves_scores_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Any cones, yes or no?")
    answers = {"yes": 0.0}

    def fingerprint(handler: Any = None, **changes: Any) -> str:
        fake = Fake(handler or chat(answers, facts=VLLM))
        return str(asked(fake, lambda client: client.identity(5.0), **changes).fingerprint)

    info = "/server_info?config_format=json"
    same = {fingerprint(), fingerprint(timeout_s=3.0), fingerprint(connections=2)}
    others = {
        fingerprint(prompt_file=tmp_path / "prompt.txt"),
        fingerprint(constrained=True),
        fingerprint(both_orders=True),
        fingerprint(chat(answers, facts=VLLM | {"/version": {"version": "0.33.0"}})),
        fingerprint(chat(answers, facts=VLLM | {info: {"a": {"logprobs_mode": "processed_logprobs"}}})),
        fingerprint(
            chat(answers, facts=VLLM, refuses=("max_tokens",)),
        ),
        fingerprint(chat(None, "yes", facts=VLLM)),
    }
    assert len(same) == 1
    assert len(others) == 7
    assert not same & others


def test_a_server_that_is_busy_has_no_identity_rather_than_another() -> None:
    knows = chat({"yes": 0.0}, facts=VLLM)
    fake = Fake(lambda one: http(503, b"") if one.path == "/version" else knows(one))
    with pytest.raises(RemoteError, match="status 503"):
        asked(fake, lambda client: client.identity(5.0))


def test_a_server_that_has_answered_loses_nothing_by_a_refusal_that_names_nothing() -> None:
    knows = chat({"yes": log(0.7), "no": log(0.3)})
    fake = Fake(lambda one: http(400, b"try again") if len(fake.asked) == 2 else knows(one))

    async def thrice(client: Any) -> list[float]:
        first = await client.ask(IMAGE, 5.0)
        with pytest.raises(RemoteError, match="try again"):
            await client.ask(IMAGE, 5.0)
        return [first, await client.ask(IMAGE, 5.0)]

    assert asked(fake, thrice, constrained=False) == pytest.approx([0.7, 0.7])
    assert len(fake.asked) == 3
