"""Errors of the Stage-1 definition.

Stage1Error
├── ArtifactError          a file on disk is missing, damaged or of another version
├── ImageError             bytes that are not an image we accept
├── OutputsError           an engine returned something that is not a Stage-1 output
├── RowsError              labelled rows are wrong, or two sets share some
├── CertificateError       a certificate does not belong to what it is used with
└── CalibrationError       probabilities cannot be calibrated, or not for what is asked
"""

from __future__ import annotations


class Stage1Error(Exception):
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
