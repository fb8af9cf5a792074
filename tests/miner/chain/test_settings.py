"""Which endpoints the settings name, and what of them may be told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from miner.chain.settings import ChainSettings, endpoint_name


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, ("finney",)),
        ({"network": "test"}, ("test",)),
        ({"endpoint": " ws://127.0.0.1:9944 "}, ("ws://127.0.0.1:9944",)),
        ({"endpoints": ["ws://[::1]:9944", "finney"]}, ("ws://[::1]:9944", "finney")),
    ],
)
def test_the_chain_is_named_in_one_of_three_ways(given: dict[str, Any], asked: tuple[str, ...]) -> None:
    assert ChainSettings(**given).asked == asked


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"network": "test", "endpoints": ["finney"]}, "network and endpoints are given"),
        ({"endpoint": "ws://a", "endpoints": ["ws://b"]}, "endpoint and endpoints are given"),
        ({"endpoint": "ws://a", "network": "test"}, "network and endpoint are given"),
        ({"endpoints": ["ws://a", "ws://a"]}, "twice"),
        ({"endpoint": "https://a"}, "https://a is neither a WebSocket URL"),
        ({"endpoint": "ws://a:70000"}, "neither"),
        ({"endpoint": "ws://"}, "neither"),
        ({"endpoints": [""]}, "neither"),
        ({"network": "fin ney"}, "neither"),
    ],
)
def test_what_names_no_chain_or_two_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ChainSettings(**given)


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("finney", "finney"),
        ("ws://127.0.0.1:9944", "ws://127.0.0.1:9944"),
        ("wss://user:secret@node.example:443/path", "wss://node.example:443"),
        ("wss://node.example/secret?key=secret#secret", "wss://node.example"),
        ("wss://node.example?key=a/b@c", "wss://node.example"),
    ],
)
def test_the_name_of_an_endpoint_has_no_key(endpoint: str, name: str) -> None:
    assert endpoint_name(endpoint) == name
