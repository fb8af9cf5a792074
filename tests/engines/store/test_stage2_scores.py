"""What Stage-2 servers said, kept beside the bundles."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from engines.errors import StoreError
from engines.store.stage2_scores import SCORES, Score, ScoredServer, score_files, scored_servers, scores_of, server_home

SERVER = ScoredServer(kind="kserve", name="one", model="roadwork", version="3", fingerprint="f")
IMAGE = "a" * 64


def score(image: str = IMAGE, value: float | None = 0.25) -> Score:
    return Score(image=image, score=value, ms=12.5, reason="" if value is not None else "no yes, no no")


def test_what_was_kept_is_there_again_and_the_last_answer_holds(tmp_path: Path) -> None:
    kept = scores_of(tmp_path, SERVER)
    kept.keep([score(), score("b" * 64, None)])
    kept.keep([score(value=0.75)])
    again = scores_of(tmp_path, SERVER)
    assert again.scores == kept.scores == {IMAGE: score(value=0.75), "b" * 64: score("b" * 64, None)}
    [found] = scored_servers(tmp_path)
    assert (found.server, found.scores) == (SERVER, again.scores)
    assert len(score_files(tmp_path)) == 2


def test_another_version_begins_anew_and_another_name_does_not(tmp_path: Path) -> None:
    scores_of(tmp_path, SERVER).keep([score()])
    for field in ("kind", "model", "version", "fingerprint"):
        assert not scores_of(tmp_path, SERVER.model_copy(update={field: "other"})).scores
    assert scores_of(tmp_path, SERVER.model_copy(update={"name": "twin"})).scores
    assert [one.server.name for one in scored_servers(tmp_path)] == ["one"]


def test_a_line_that_a_crash_cut_short_is_asked_again(tmp_path: Path) -> None:
    scores_of(tmp_path, SERVER).keep([score()])
    path = server_home(tmp_path, SERVER) / SCORES
    path.write_bytes(path.read_bytes() + b'{"image": "' + b"c" * 30)
    kept = scores_of(tmp_path, SERVER)
    assert set(kept.scores) == {IMAGE}
    kept.keep([score("d" * 64)])
    assert set(scores_of(tmp_path, SERVER).scores) == {IMAGE, "d" * 64}


def test_a_line_that_is_no_score_is_told(tmp_path: Path) -> None:
    scores_of(tmp_path, SERVER).keep([score()])
    path = server_home(tmp_path, SERVER) / SCORES
    path.write_bytes(path.read_bytes().replace(b"0.25", b"1.25"))
    with pytest.raises(StoreError, match=r"line 1: score"):
        scored_servers(tmp_path)
    with pytest.raises(ValidationError):
        score("../../etc/passwd")


def test_a_store_without_scores_has_no_servers(tmp_path: Path) -> None:
    assert scored_servers(tmp_path) == []
    assert score_files(tmp_path) == []
    scores_of(tmp_path, SERVER)
    assert scored_servers(tmp_path) == []
