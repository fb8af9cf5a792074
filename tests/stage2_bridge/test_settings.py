from __future__ import annotations

import pytest
from pydantic import ValidationError

from miner.settings import load_settings
from stage1.errors import SettingsError
from stage2_bridge.settings import KserveServer


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
