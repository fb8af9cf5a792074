"""A command line of the reference miner, as shells hand it over."""

from __future__ import annotations

import pytest

from miner.upstream.command_line import Parted, part
from miner.upstream.flag_table import FLAGS, SHARED
from stage1.errors import SettingsError

ONE_WORD = [flag for flag in FLAGS if flag not in SHARED and not FLAGS[flag].switch]
SWITCHES = [flag for flag in FLAGS if FLAGS[flag].switch]


@pytest.mark.parametrize("flag", ONE_WORD)
def test_a_value_may_follow_or_be_part_of_the_word(flag: str) -> None:
    for words in ([flag, "7"], [f"{flag}=7"]):
        assert part([*words, "--set", "a=1"]) == Parted({flag: "7"}, ["--set", "a=1"])


@pytest.mark.parametrize("flag", SWITCHES)
def test_a_switch_may_have_a_word_after_it(flag: str) -> None:
    assert part([flag]).given == {flag: "True"}
    assert part([flag, "--retrain-now"]).rest == ["--retrain-now"]
    for words in ([flag, "False"], [f"{flag}=False"]):
        assert part(words).given == {flag: "False"}
    assert part([flag, "elsewhere"]).rest == ["elsewhere"]


@pytest.mark.parametrize("empty", [["--model_url"], ["--model_url", ""], ["--model_url="], ["--model_url", "  "]])
def test_an_empty_value_is_as_if_nothing_was_given(empty: list[str]) -> None:
    parted = part([*empty, "--subtensor.network", "test"])
    assert parted.given == {"--subtensor.network": "test"}
    assert parted.rest == []


def test_our_own_options_pass_with_their_values() -> None:
    words = ["--wallet", "w", "--port=9", "--netuid", "323", "--config", "cascade.toml", "--set", "axon.port=1"]
    assert part(words).rest == words
    assert part(["--netuid", "--model_url", "--config="]) == Parted(
        {}, [], frozenset({"--netuid", "--model_url", "--config"})
    )


def test_of_a_flag_that_is_given_twice_the_last_one_holds() -> None:
    assert part(["--axon.port", "1", "--axon.port", "2"]).given == {"--axon.port": "2"}


def test_a_negative_number_is_a_value() -> None:
    assert part(["--neuron.epoch_length", "-5"]).given == {"--neuron.epoch_length": "-5"}


def test_what_follows_two_dashes_is_left_alone() -> None:
    assert part(["--", "--axon.port", "1"]).rest == ["--", "--axon.port", "1"]


@pytest.mark.parametrize(
    ("word", "near"),
    [("--axon.prot", "--axon.port"), ("--model_ur=x", "--model_url"), ("--blacklist.force", "--blacklist")],
)
def test_an_unknown_flag_is_an_error_with_a_near_one(word: str, near: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(SettingsError, match=rf"^No such option: {name}( Did you mean {near}|$)"):
        part([word, "1"])


def test_an_unknown_flag_that_is_near_to_none_is_an_error_too() -> None:
    with pytest.raises(SettingsError, match=r"^No such option: --qqq\.zzz$"):
        part(["--qqq.zzz"])
