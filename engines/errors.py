"""Errors of engines, bundles and the store.

EngineError
├── InferenceError         the runtime failed on a batch
├── BuildFailed            a runtime could not compile a graph
├── QueueFull              as many images wait for the engine as may
├── DeadlineExceeded       the engine had no time for an image before it was due
├── BundleRefused          a bundle failed a check; whatever was live stays live
│   └── ParityError        the engine's numbers are not the ones that were stored with it
└── StoreError             the store cannot do what was asked
    └── UnknownBundle      no such bundle, or no bundle at all
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of the errors of `engines`."""


class InferenceError(EngineError):
    """The runtime failed on a batch."""


class BuildFailed(EngineError):
    """A runtime could not compile a graph."""


class QueueFull(EngineError):
    """As many images wait for the engine as may."""


class DeadlineExceeded(EngineError):
    """The engine had no time for an image before it was due."""


class BundleRefused(EngineError):
    """A bundle failed a check and must not serve."""


class ParityError(BundleRefused):
    """The engine does not reproduce the outputs stored with it."""


class StoreError(EngineError):
    """The store cannot do what was asked."""


class UnknownBundle(StoreError):
    """The named bundle, or any bundle, is not in the store."""
