"""What `cascade engines prove` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.backends.registry import check_known
from engines.batches import BUCKETS
from engines.errors import BundleRefused, UnknownBundle
from engines.machine.clock import utc_now
from engines.spec import EngineSpec
from engines.store.store import Store
from miner.cli.engines.proof.measure import prove
from miner.cli.engines.proof.record import Proof
from miner.cli.engines.proof.table import compared, shown


def write_proof(
    root: Path, bundle: str, batches: Sequence[int], seconds: float, threads: int | None, spec: str, out: Path
) -> tuple[str, bool]:
    """Measure and write; what there is to say of it, and whether the engine agrees with the golden images.

    Raises:
        UnknownBundle: it is not in the store, or none is current.
        BundleRefused: it is damaged, or there is no such engine here.
    """
    pointer = Store(root).current()
    if not bundle and pointer is None:
        raise UnknownBundle(f"{root}: no bundle is current; name one")
    wanted = bundle or (pointer.bundle if pointer else "")
    proof = prove(
        root,
        wanted,
        batches=sorted(set(batches)) or BUCKETS,
        seconds=seconds,
        now=utc_now(),
        spec=_spec(spec) if spec else None,
        threads=threads,
    )
    proof.write(out)
    return f"{shown(proof)}\nwritten to {out}", proof.agrees


def compare_proofs(first: Path, second: Path) -> str:
    """Two files side by side.

    Raises:
        stage1.errors.ArtifactError: one of them cannot be read, is no proof, or was changed.
    """
    return compared(Proof.read_sealed(first), Proof.read_sealed(second))


def _spec(text: str) -> EngineSpec:
    try:
        backend, device, precision = text.split()
        found = EngineSpec.model_validate({"backend": backend, "device": device, "precision": precision})
    except ValueError as error:
        raise BundleRefused(f"{text!r} is no engine: write BACKEND DEVICE PRECISION, as `engines describe` does") from (
            error
        )
    check_known(found)
    return found
