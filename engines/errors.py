"""Errors of engines, bundles and the store.

EngineError
├── InferenceError         the runtime failed on a batch
├── BuildFailed            a runtime could not compile a graph
├── QueueFull              as many images wait for the engine as may
├── RemoteError            another machine did not answer, or not as its protocol says
├── DeadlineExceeded       the engine had no time for an image before it was due
├── Interrupted            loading was given up because something else is wanted; nothing is wrong with the bundle
├── BundleRefused          a bundle failed a check; whatever was live stays live
│   ├── Unavailable        nothing is wrong with it, and this machine cannot run it as it is
│   │   ├── Postponed      and another bundle is being made of it, for this machine
│   │   └── NotThereYet    and the servers that are to compute it have not got it yet
│   └── ParityError        the engine's numbers are not the ones that were stored with it
└── StoreError             the store cannot do what was asked
    ├── UnknownBundle      no such bundle, or no bundle at all
    ├── PointerMoved       another bundle is current than the one that was to be replaced
    └── PointerNotMoved    a rollback in this process that the store could not follow
"""

from __future__ import annotations

from stage1.errors import CascadeError, Stage1Error


class EngineError(CascadeError):
    """Root of the errors of `engines`."""


class InferenceError(EngineError):
    """The runtime failed on a batch."""


class BuildFailed(EngineError):
    """A runtime could not compile a graph."""


class QueueFull(EngineError):
    """As many images wait for the engine as may."""


class RemoteError(EngineError):
    """Another machine did not answer, or not as its protocol says.

    Args:
        told: what happened.
        status: of the HTTP reply; None if there was none.
        passing: whether nothing was computed, and the same request may be answered a moment later.
        retry_after_s: how long the server wants to be left alone; None if it does not say.
        timed_out: whether the time was over.
        stale: whether a connection was used that the server had done with, which says nothing of the server.
        lasting: whether nothing was sent, for a reason that a person must mend, such as a certificate.
    """

    def __init__(
        self,
        told: str,
        *,
        status: int | None = None,
        passing: bool = False,
        retry_after_s: float | None = None,
        timed_out: bool = False,
        stale: bool = False,
        lasting: bool = False,
    ) -> None:
        super().__init__(told)
        self.status, self.passing, self.retry_after_s, self.timed_out = status, passing, retry_after_s, timed_out
        self.stale, self.lasting = stale, lasting


class DeadlineExceeded(EngineError):
    """The engine had no time for an image before it was due."""


class Interrupted(EngineError):
    """Loading was given up because something else is wanted."""


class BundleRefused(EngineError):
    """A bundle failed a check and must not serve."""


class Unavailable(BundleRefused):
    """Nothing is wrong with a bundle, and this machine cannot run it: memory, a runtime or a GPU is missing."""


class Postponed(Unavailable):
    """A bundle of the same model is being compiled and calibrated for this machine."""


class NotThereYet(Unavailable):
    """The servers that are to compute a bundle have not got it yet, and another one serves meanwhile."""


class ParityError(BundleRefused):
    """The engine does not reproduce the outputs stored with it."""


class StoreError(EngineError):
    """The store cannot do what was asked."""


class UnknownBundle(StoreError):
    """The named bundle, or any bundle, is not in the store."""


class PointerMoved(StoreError):
    """Another bundle is current than the one that was to be replaced."""


class PointerNotMoved(StoreError):
    """A bundle was rolled back in this process, and the store's pointer could not follow."""


# What a bundle, a store or a disk may lead to; everything else is a fault of this program or of native code, and its
# traceback belongs into the log.
EXPECTED = (EngineError, Stage1Error, OSError)
