"""What wins where the reference miner was told a thing twice, and what is told to people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from miner.upstream.translation import ADDRESS, Sources, translate
from stage1.errors import SettingsError


def settings_from(**said) -> dict[str, object]:
    return {name: taken.value for name, taken in translate(Sources(**said)).settings.items()}


def test_flags_win_over_the_env_file_over_the_yaml_file_over_the_variables_of_the_sdk() -> None:
    said = {
        "environment": {"BT_AXON_PORT": "1"},
        "env_file": {"BT_AXON_PORT": "2"},
        "config": {"--axon.port": "3"},
        "flags": {"--axon.port": "5"},
    }
    named = said | {"env_file": {"BT_AXON_PORT": "2", "MINER_AXON_PORT": "4"}}
    assert settings_from(**named)["axon.port"] == 5
    assert settings_from(**named | {"flags": {}})["axon.port"] == 4
    assert settings_from(**said | {"flags": {}})["axon.port"] == 3
    assert settings_from(**said | {"flags": {}, "config": {}})["axon.port"] == 2
    assert settings_from(environment=said["environment"])["axon.port"] == 1


def test_variables_of_miner_env_count_in_the_file_alone() -> None:
    assert settings_from(environment={"WALLET_NAME": "someone", "NETUID": "1"}) == {}


def test_an_empty_value_is_none() -> None:
    assert settings_from(environment={"BT_WALLET_NAME": "w"}, env_file={"WALLET_NAME": ""})["wallet.name"] == "w"


def test_an_empty_name_is_told_unless_another_source_names_it() -> None:
    sources = Sources(env_file={"WALLET_NAME": "", "MODEL_URL": ""}, empty={"--wallet.hotkey", "--model_url"})
    said = [(remark.name, remark.consequence) for remark in translate(sources).remarks]
    assert [name for name, _ in said] == ["WALLET_NAME", "--wallet.hotkey"]
    assert all("is empty and counts as not given" in consequence for _, consequence in said)
    named = replace(sources, environment={"BT_WALLET_NAME": "w", "BT_WALLET_HOTKEY": "h"})
    assert translate(named).remarks == ()


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ({"--logging.trace": "True", "--logging.info": "True"}, "DEBUG"),
        ({"--logging.info": "True"}, "INFO"),
        ({"--logging.debug": "False", "--logging.info": "True"}, "INFO"),
    ],
)
def test_of_several_levels_the_lowest_holds(flags: dict[str, str], level: str) -> None:
    assert settings_from(flags=flags)["log.level"] == level


def test_a_network_is_not_reached_through_the_endpoint_of_something_weaker() -> None:
    told = translate(
        Sources({"BT_SUBTENSOR_CHAIN_ENDPOINT": "wss://finney.example/KEY"}, flags={"--subtensor.network": "test"})
    )
    assert {name: taken.value for name, taken in told.settings.items() if name != ADDRESS} == {"chain.network": "test"}
    [remark] = told.remarks
    assert remark.name == "BT_SUBTENSOR_CHAIN_ENDPOINT"
    assert remark.consequence == "is passed over: --subtensor.network names a network and wins"
    both = {"--subtensor.network": "test", "--subtensor.chain_endpoint": "wss://a"}
    for sources in (Sources(flags=both), Sources(flags=both, env_file={"SUBTENSOR_NETWORK": "finney"})):
        told = translate(sources)
        assert (told.settings["chain.endpoint"].value, told.remarks) == ("wss://a", ())
    # The endpoint of something stronger stays.
    weaker = settings_from(env_file={"SUBTENSOR_NETWORK": "finney"}, flags={"--subtensor.chain_endpoint": "wss://a"})
    assert weaker["chain.endpoint"] == "wss://a"


@pytest.mark.parametrize("word", ["True", "False", "0", "anything"])
def test_a_validator_permit_is_required_whatever_the_switch_says(word: str) -> None:
    told = translate(Sources(env_file={"BLACKLIST_FORCE_VALIDATOR_PERMIT": word}))
    assert told.settings["access.require_validator_permit"].value is True
    said = [remark.consequence for remark in told.remarks]
    assert bool(said) == (word in {"False", "0"})
    assert all("access.require_validator_permit=false" in line for line in said)


def test_the_address_is_found_as_it_was_there_unless_one_is_named() -> None:
    assert settings_from(flags={"--logging.debug": "True"})[ADDRESS] == "auto"
    assert settings_from(env_file={})[ADDRESS] == "auto"
    assert settings_from(flags={"--axon.external_ip": "192.0.2.1"})[ADDRESS] == "192.0.2.1"
    # Somebody who starts this miner by its own settings has said nothing of the kind.
    assert ADDRESS not in settings_from(environment={"BT_WALLET_NAME": "w"})


@pytest.mark.parametrize(
    ("flag", "text", "why"),
    [
        ("--axon.port", "eighty", "--axon.port: 'eighty' is not a whole number"),
        ("--axon.external_ip", "miner.example", "is no IPv4 or IPv6 address"),
        ("--logging.debug", "maybe", "--logging.debug: 'maybe' is neither True nor False"),
        ("--wallet.path", "~nobody-of-that-name/x", "--wallet.path: "),
    ],
)
def test_a_value_that_does_not_fit_names_its_flag(flag: str, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        translate(Sources(flags={flag: text}))


def test_each_flag_without_effect_is_told_once_with_what_to_use_instead() -> None:
    said = {"IMAGE_DETECTOR": "ViT", "MODEL_URL": "", "PROXY_CLIENT_URL": "https://x.example"}
    told = translate(Sources(env_file=said, flags={"--neuron.image_detector": "ViT", "--wandb.off": "False"}))
    assert [remark.name for remark in told.remarks] == ["--neuron.image_detector", "PROXY_CLIENT_URL"]
    assert all("\n" not in remark.consequence and "no effect: " in remark.consequence for remark in told.remarks)


def test_a_variable_that_nobody_knows_is_told_with_a_near_one() -> None:
    [remark] = translate(Sources(env_file={"WALET_NAME": "w", "CASCADE_STORE": "x"})).remarks
    assert (remark.name, "perhaps WALLET_NAME is meant" in remark.consequence) == ("WALET_NAME", True)


def test_a_variable_that_a_shell_would_have_replaced_is_told_without_its_value() -> None:
    told = translate(Sources(env_file={"WALLET_NAME": "$USER", "WALLET_HOTKEY": "one$"}))
    [remark] = told.remarks
    assert (remark.name, "write it as ${NAME}" in remark.consequence) == ("WALLET_NAME", True)
    assert "USER" not in remark.consequence
