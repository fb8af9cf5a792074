"""Files of results: what is there is not measured again, unless the code has changed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from stage1.artifacts import write_atomic

ROOT = Path(__file__).parents[2]
HOME = ROOT / "benchmarks" / "results" / "on_gpu"
CODE = (
    "benchmarks/on_gpu",
    "benchmarks/engines_on_gpu.py",
    "benchmarks/learning_on_gpu.py",
    "engines",
    "stage1",
    "offline",
)


def code_sha256(root: Path = ROOT) -> str:
    """Of everything that a result depends on."""
    digest = hashlib.sha256()
    for name in CODE:
        place = root / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def slug(device: str, *, small: bool) -> str:
    """A directory's name for a device: `nvidia-h200`, `cpu-small`."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{words}-small" if small else words


def path_of(home: Path, place: str, unit: str) -> Path:
    return home / place / f"{unit}.json"


def is_done(path: Path, code: str) -> bool:
    """Whether a result is there that this code measured."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return found.get("code") == code and found.get("status") in {"ok", "skipped"}


def keep(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
