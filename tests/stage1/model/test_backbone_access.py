"""A backbone that cannot be had is told in a moment, in one line, by a hub that is asked without retries."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stage1.errors import ModelError
from stage1.model.backbone_access import check_backbone, is_here
from stage1.model.settings import DINOV3, PretrainedBackbone, RandomBackbone
from tests.support.http_server import serve_beside

pytest.importorskip("huggingface_hub")
NAME = "somebody/a-model"
Hub = Callable[[dict[str, int | str]], str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub on this machine: the status, or the code of an error, of each file."""
    servers: list[HTTPServer] = []
    asked: list[str] = []

    def start(files: dict[str, int | str]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                name = self.path.rpartition("/")[2]
                asked.append(name)
                answer = files.get(name, "EntryNotFound")
                codes = {"EntryNotFound": 404, "RepoNotFound": 401, "GatedRepo": 403}
                self.send_response(codes[answer] if isinstance(answer, str) else answer)
                if isinstance(answer, str):
                    self.send_header("X-Error-Code", answer)
                    self.send_header("X-Error-Message", "Access to this model is restricted.")
                self.send_header("ETag", '"0"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        serve_beside(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    assert len(asked) <= 3


def refused(name: str, endpoint: str, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as error:
        check_backbone(PretrainedBackbone(name=name), endpoint)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_licence_that_is_not_accepted_says_what_to_accept(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    told = refused(DINOV3, hub({"config.json": "GatedRepo"}), caplog)
    assert f"open https://huggingface.co/{DINOV3} while logged in, accept the licence" in told
    assert "gated" in refused(NAME, hub({"config.json": "GatedRepo"}), caplog)


def test_a_model_that_is_not_there_is_said_to_be_missing(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    assert "cannot be loaded" in refused(NAME, hub({"config.json": "RepoNotFound"}), caplog)


def test_weights_in_another_format_are_refused(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    assert "has no weights in safetensors" in refused(NAME, hub({"config.json": 200}), caplog)


def test_nobody_who_answers_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    told = refused(NAME, "http://127.0.0.1:1", caplog)
    assert told.startswith(f"the backbone {NAME!r} cannot be loaded: ")
    assert "Give a model of the Hugging Face hub or a local directory" in told


@pytest.mark.parametrize("weights", ["model.safetensors", "model.safetensors.index.json"])
def test_a_model_that_can_be_downloaded_is_fine(hub: Hub, weights: str) -> None:
    check_backbone(PretrainedBackbone(name=NAME), hub({"config.json": 200, weights: 200}))


def test_what_is_on_this_machine_is_not_asked_for(tmp_path: Path) -> None:
    assert is_here(str(tmp_path))
    check_backbone(PretrainedBackbone(name=str(tmp_path)), "http://127.0.0.1:1")
    check_backbone(RandomBackbone(), "http://127.0.0.1:1")
    assert not is_here(NAME)
    assert not is_here("no//name/of a model")
    assert "torch" not in vars(sys.modules["stage1.model.backbone_access"])
