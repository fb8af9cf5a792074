from __future__ import annotations

import pytest
from pydantic import ValidationError

from miner.settings import load_settings
from stage1.errors import SettingsError
from stage2_bridge.settings import KserveServer, Stage2Settings


def server(url: str) -> KserveServer:
    return KserveServer(name="one", url=url, model="m")


@pytest.mark.parametrize(
    "url", ["http://gpu-1:8000", "https://host", "http://[::1]:8000", "http://10.0.0.1:1/some/path", "HTTP://host"]
)
def test_addresses_of_hosts_ports_and_paths_are_taken(url: str) -> None:
    assert server(f"{url}/").url == url


@pytest.mark.parametrize(
    "url",
    [
        "gpu-1:8000",
        "ftp://host",
        "http://",
        "http:///v2",
        "http://:8000",
        "http://host:99999",
        "http://host:port",
        "http://[::1",
        "https://host/?key=geheim",
        "https://host/#there",
        "http://ho st",
        "http://host\n",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="write http://HOST:PORT"):
        server(url)


def test_a_password_in_an_address_is_refused_and_not_told() -> None:
    changes = {"stage2.servers": [{"kind": "kserve", "name": "one", "url": "https://me:geheim@host", "model": "m"}]}
    with pytest.raises(SettingsError, match="key_env or key_file") as caught:
        load_settings(None, changes)
    assert "geheim" not in str(caught.value)


def stage2(**more: object) -> Stage2Settings:
    return Stage2Settings.model_validate(more)


ONE = {"kind": "kserve", "name": "one", "url": "http://host", "model": "m"}
VLM = {"kind": "openai", "name": "vlm", "url": "http://host", "model": "m"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"budget": {}}, "calls or of money"),
        ({"budget": {"calls": 10, "money": 1.0}}, "calls or of money"),
        ({"budget": {"calls": 1}}, "at least 2, or 0"),
        ({"budget": {"calls": -1}}, "greater than or equal to 0"),
        ({"budget": {"calls": 10, "per": "week"}}, "'hour' or 'day'"),
        ({"budget": {"money": 1.0}, "servers": [ONE]}, "'one' has no price: set its price_a_call, or free = true"),
        ({"budget": {"money": 1.0}, "servers": [VLM]}, "price_a_call, or price_per_1000_tokens, or free"),
        ({"budget": {"money": 1.0}, "servers": [ONE | {"price_a_call": 0.6}]}, "the price of at least 2 calls"),
        ({"budget": {"money": 1.0}, "servers": [VLM | {"price_per_1000_tokens": 1.0}]}, "may cost 4.096"),
        ({"cache": {"window_s": -1}}, "greater than or equal to 0"),
        ({"hedge": {"enabled": True, "quantile": 1.0}}, "less than 1"),
        ({"max_image_bytes_a_second": 10}, "greater than or equal to 1024"),
    ],
)
def test_a_budget_and_its_like_that_make_no_sense_are_refused_at_the_start(
    settings: dict[str, object], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        load_settings(None, {f"stage2.{name}": value for name, value in settings.items()})


def test_as_many_hand_offs_as_the_servers_take_together_unless_it_is_said() -> None:
    two = [ONE | {"connections": 8}, VLM | {"connections": 4}]
    assert (stage2().hand_offs, stage2(servers=two).hand_offs, stage2(servers=two, engine="e").hand_offs) == (1, 12, 28)
    assert stage2(servers=two, max_in_flight=6).hand_offs == 6


def test_a_budget_of_nothing_asks_nobody_and_one_of_money_needs_no_price_of_what_is_free() -> None:
    assert stage2(servers=[ONE]).is_asked
    assert not stage2().is_asked
    assert not stage2(servers=[ONE], budget={"calls": 0}).is_asked
    paid = VLM | {"price_per_1000_tokens": 0.01}
    budget = {"money": 2.0, "per": "day"}
    assert stage2(servers=[ONE | {"free": True}, paid], budget=budget).dearest_image == pytest.approx(0.04096)
    assert stage2(servers=[ONE, paid], budget={"calls": 10}).dearest_image == 1.0
