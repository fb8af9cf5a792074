"""What Stage-2 servers said of images, kept beside the bundles of a store: `stage2/SERVER/scores.jsonl`.

A server has a directory under the hash of everything that decides its scores. So another version of its model begins
anew, a server that is renamed does not, and a run that was killed goes on where it was. A bundle cannot hold this: its
id is a hash of its files, and a server may be asked long after the night.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from engines.store.records import read_entries
from stage1.artifacts import Artifact, append_lines, fsync_directory, sha256_json

HOME = "stage2"
SERVER = "server.json"
SCORES = "scores.jsonl"
RECORD = "stage2.json"


class ScoredServer(Artifact):
    """`server.json`: who gave the scores; see `stage2_bridge.client.ServerIdentity`.

    Attributes:
        kind: of the server.
        name: what the journal called it when it was first asked.
        model: its name on the server.
        version: of the model; empty if it tells none.
        fingerprint: hash of what else decides its scores.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    kind: str
    name: str
    model: str
    version: str = ""
    fingerprint: str = ""

    @property
    def in_words(self) -> str:
        """Its model and version."""
        return self.model if not self.version else f"{self.model}, version {self.version}"


class Score(BaseModel):
    """One line of `scores.jsonl`; of several about one image the last one holds.

    Attributes:
        image: SHA-256 of the bytes that were sent.
        score: of roadwork, in [0, 1], before any calibrator; None where the server could not answer this image.
        order_gap: how far the score moves where the question names its two answers the other way round; None where
            that was not asked.
        ms: how long the answer took.
        cost: of handing it on once, in whatever money the operator counts; None if nobody named a price.
        reason: why there is no score.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    schema_version: Literal[1] = 1
    image: str = Field(pattern=r"^[0-9a-f]{64}$")
    score: float | None = Field(ge=0, le=1)
    order_gap: float | None = Field(default=None, ge=0, le=1)
    ms: float = Field(ge=0)
    cost: float | None = Field(default=None, ge=0)
    reason: str = ""


@dataclass(frozen=True)
class ServerScores:
    """Everything that one server said.

    Attributes:
        server: who it is.
        directory: where it is kept; the record of what it is worth lies there too.
        scores: by hash of the image.
    """

    server: ScoredServer
    directory: Path
    scores: dict[str, Score]

    def keep(self, scores: Iterable[Score]) -> None:
        """Write down more scores, flushed to the disk."""
        new = list(scores)
        append_lines(self.directory / SCORES, new)
        self.scores.update({one.image: one for one in new})


def server_home(root: Path, server: ScoredServer) -> Path:
    """Where a store keeps what a server said.

    Args:
        root: of the store.
        server: the server; its name decides nothing.
    """
    fields = server.model_dump(include={"kind", "model", "version", "fingerprint"})
    return root / HOME / sha256_json(fields)[:16]


def scores_of(root: Path, server: ScoredServer) -> ServerScores:
    """What a server said so far; its directory is made if it is not there.

    Args:
        root: of the store.
        server: the server.

    Raises:
        StoreError: a line of its scores is none.
        OSError: the directory cannot be made.
    """
    home = server_home(root, server)
    if not (home / SERVER).exists():
        home.mkdir(parents=True, exist_ok=True)
        server.write(home / SERVER)
        fsync_directory(home.parent)
    return _read(server, home)


def scored_servers(root: Path) -> list[ServerScores]:
    """All servers that a store has scores of, by the name that each was first asked under.

    Args:
        root: of the store.

    Raises:
        ArtifactError: the description of a server is damaged.
        StoreError: a line of scores is none.
    """
    homes = [path.parent for path in (root / HOME).glob(f"*/{SERVER}")]
    found = [_read(ScoredServer.read(home / SERVER), home) for home in sorted(homes)]
    return sorted((one for one in found if one.scores), key=lambda one: (one.server.name, one.directory.name))


def score_files(root: Path) -> list[Path]:
    """The files that decide what `scored_servers` finds, in order.

    Args:
        root: of the store.
    """
    return sorted(path for name in (SERVER, SCORES) for path in (root / HOME).glob(f"*/{name}"))


def _read(server: ScoredServer, home: Path) -> ServerScores:
    return ServerScores(server, home, {one.image: one for one in read_entries(home / SCORES, Score)})
