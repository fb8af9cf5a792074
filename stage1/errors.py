"""The root of all errors that this program raises on purpose, and those of the Stage-1 definition.

Each has the exit status of a command that it ends, 1 unless the class says otherwise.

CascadeError
├── SettingsError              2   settings that do not fit
├── Stage1Error
│   ├── ArtifactError              a file on disk is missing, damaged or of another version
│   ├── ImageError                 bytes that are not an image we accept
│   ├── OutputsError               an engine returned something that is not a Stage-1 output
│   ├── RowsError                  labelled rows are wrong, or two sets share some
│   ├── CertificateError           a certificate does not belong to what it is used with
│   ├── CalibrationError           probabilities cannot be calibrated, or not for what is asked
│   └── ModelError                 a network or its weights cannot be made, read or adapted
├── engines.errors.EngineError
├── offline.errors.OfflineError
├── stage2_bridge.client.Stage2Error
└── miner.errors.MinerError
"""

from __future__ import annotations

import re
from typing import ClassVar

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def without_addresses(text: str) -> str:
    """A message of a library without the addresses of its objects, which differ from run to run.

    `<_io.BytesIO object at 0x7f3a5c0d1b20>` becomes `<_io.BytesIO object>`.
    """
    # Nearly no text has one, and looking for a part of it costs a fifth of the expression.
    return _ADDRESS.sub("", text) if " at 0x" in text else text


class CascadeError(Exception):
    """Root of the errors that this program raises on purpose; the message says what was wrong and what to do.

    What it quotes of a library's error is the same from run to run; see `without_addresses`.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, *told: object) -> None:
        super().__init__(*(without_addresses(part) if isinstance(part, str) else part for part in told))


class SettingsError(CascadeError):
    """Settings that do not fit; the message names each."""

    exit_status = 2


class Stage1Error(CascadeError):
    """Root of the errors of `stage1`."""


class ArtifactError(Stage1Error):
    """A file on disk is missing, damaged, or was written by another version."""


class ImageError(Stage1Error):
    """The bytes are not an image that this project accepts."""


class OutputsError(Stage1Error):
    """An engine's answer has the wrong shape, type or values."""


class RowsError(Stage1Error):
    """Labelled rows are inconsistent, or two sets that must be disjoint are not."""


class CertificateError(Stage1Error):
    """A certificate is used with something it was not computed for."""


class CalibrationError(Stage1Error):
    """Labels or outputs that no probability can be calibrated on, or a head that was not."""


class ModelError(Stage1Error):
    """A network, its weights or an adapter cannot be made, read or put together."""
