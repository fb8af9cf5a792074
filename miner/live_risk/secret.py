"""The key of the draws: whoever has it can check every one, and nobody else foresees any."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from stage1.errors import ArtifactError

FILE, BYTES = "secret.key", 32


def read_secret(directory: Path) -> bytes:
    """The key of this directory, made where there is none; only its owner may read it.

    Raises:
        ArtifactError: the file is there and is no key.
    """
    path = directory / FILE
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        return _made(path)
    if len(secret) != BYTES:
        raise ArtifactError(f"{path}: has {len(secret)} bytes, a key has {BYTES}; remove it, and another one is made")
    return secret


def _made(path: Path) -> bytes:
    secret = secrets.token_bytes(BYTES)
    partial = path.with_name(f".{FILE}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return secret
