"""A model repository: one model, a directory for each bundle, named by the version that the bundle is.

What a server needs of a bundle lies in it, and its certificate beside. A version appears complete, and nobody changes
it.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from engines.engine import HEAD_PREFIX, INPUT, OUTPUTS
from engines.errors import BundleRefused, StoreError
from engines.remote.bundle_version import MODEL, version_of
from engines.remote.repository.triton_config import (
    MODEL_FILES,
    WARM_UP,
    WARM_UP_IMAGE,
    Interface,
    TritonBackend,
    config_text,
)
from engines.spec import EngineSpec
from engines.store.bundle import Manifest, certified_spec, verify_bundle
from engines.store.file_names import ENGINE_PREFIXES, GOLDEN, MANIFEST, PARAMS, PREPROCESS, SPEC
from engines.store.golden import read_golden
from engines.store.shared_file import share
from stage1.artifacts import Artifact, fsync_directory, fsync_tree, write_atomic
from stage1.outputs import Stage1Outputs

CONFIG = "config.pbtxt"
SETTINGS = "model-settings.json"
PLAN = "engine.plan"
MAX_BATCH = 32
# What says of a bundle what it is; no server reads it.
BESIDE = (MANIFEST, PARAMS, PREPROCESS, SPEC)
HERE = Path(__file__).parent
# For whoever copies a bundle in.
WRITING_S = 300.0

log = structlog.get_logger(__name__)


class _Wanted(Artifact):
    """Versions in the order in which they were wanted, the last one first."""

    versions: tuple[str, ...]


class ModelRepository:
    """A directory that servers read; several miners may write into it.

    Args:
        root: created with the first bundle.
        model: name of the model.
    """

    def __init__(self, root: Path, model: str = MODEL) -> None:
        self._root, self._home = root, root / model
        self._wanted = root / f".{model}.json"
        self._model = model

    @property
    def versions(self) -> tuple[str, ...]:
        """That are there, the one that was wanted last first."""
        found = {path.name for path in self._home.glob("[0-9]*") if path.is_dir()} if self._home.is_dir() else set()
        order = _Wanted.read(self._wanted).versions if self._wanted.exists() else ()
        return (*(one for one in order if one in found), *sorted(found - set(order)))

    def add(self, bundle: Path, *, backend: TritonBackend | None = None, max_batch: int = MAX_BATCH) -> str:
        """Put a bundle in as a version, unless it is there.

        Args:
            bundle: its directory, of which every hash was checked.
            backend: of Triton; None for that of the versions which are there, or else for what the bundle holds.
            max_batch: images of the largest batch, where no version is there yet.

        Returns:
            The version.

        Raises:
            BundleRefused: it lacks what the backend reads, or takes or gives something else than the versions that are
                there.
            StoreError: the directory of the model was made by somebody else, or another process has held it too long.
            OSError: it cannot be written; nothing is left behind.
        """
        manifest = Manifest.read(bundle / MANIFEST)
        version = version_of(manifest.bundle_id)
        self._home.mkdir(parents=True, exist_ok=True)
        with self._writing():
            place, before = self._home / version, self._interface()
            if backend is not None and before is not None and backend != before.backend:
                raise BundleRefused(
                    f"the versions of {self._home} are for Triton's backend {before.backend}, and not {backend}: "
                    "choose another model name"
                )
            # Not by the time of the directory, which a server may take for a change of what is in it.
            _Wanted(versions=(version, *(one for one in self.versions if one != version))).write(self._wanted)
            if place.is_dir():
                return version
            images, expected = read_golden(bundle / GOLDEN)
            spec = certified_spec(bundle)
            chosen = backend or (before.backend if before is not None else _backend_of(spec))
            interface = Interface(
                backend=chosen,
                image=images.shape[1:],
                outputs=_numbers(expected),
                max_batch=max_batch if before is None else before.max_batch,
            )
            if before is not None and interface != before:
                raise BundleRefused(
                    f"{manifest.bundle_id} is {interface.model_dump()}, and the versions of {self._home} are "
                    f"{before.model_dump()}: put it under another model name"
                )
            self._write(bundle, place, interface)
            if before is None:
                warm_up = self._home / WARM_UP
                warm_up.mkdir(exist_ok=True)
                write_atomic(warm_up / WARM_UP_IMAGE, images[:1].tobytes())
                # Last, for without it a server sees no model.
                write_atomic(self._home / CONFIG, config_text(self._model, interface).encode())
        return version

    @contextmanager
    def loading(self, wait_s: float) -> Iterator[None]:
        """Keep other miners from having servers load at the same time, within a `with` block.

        Args:
            wait_s: for another one; after so long nobody is kept from it, for that one may hang.
        """
        lock = FileLock(self._root / f".{self._model}.loading.lock", timeout=wait_s)
        try:
            lock.acquire()
        except Timeout:
            log.warning("stage1_servers_loaded_by_two", model=self._model, waited_s=wait_s)
        try:
            yield
        finally:
            lock.release()

    def prune(self, needed: Collection[str], keep: int) -> list[str]:
        """Remove versions that nobody needs; a server unloads them when it is told to load the model.

        Args:
            needed: that stay.
            keep: so many of those that were wanted last stay, too.

        Returns:
            Those that were removed.

        Raises:
            StoreError: another process has held the repository for too long.
            OSError: one cannot be removed.
        """
        with self._writing():
            # A process that was killed has left them.
            for leftover in self._home.glob(".*.gone"):
                shutil.rmtree(leftover, ignore_errors=True)
            gone = [version for version in self.versions[keep:] if version not in needed]
            for version in gone:
                out = self._home / f".{version}.gone"
                (self._home / version).rename(out)
                shutil.rmtree(out, ignore_errors=True)
        return gone

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with FileLock(self._root / f".{self._model}.lock", timeout=WRITING_S):
                yield
        except Timeout as error:
            raise StoreError(f"{self._root}: another process has held {self._model} for {WRITING_S:.0f} s") from error

    def _interface(self) -> Interface | None:
        path = self._home / CONFIG
        if not path.exists():
            return None
        found = Interface.of(path.read_text(encoding="utf-8"))
        if found is None:
            raise StoreError(f"{path} is not from `cascade engines export`: move it away, or use another model name")
        return found

    def _write(self, bundle: Path, place: Path, interface: Interface) -> None:
        for leftover in self._home.glob(".*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = self._home / f".{place.name}.{secrets.token_hex(4)}.partial"
        fresh.mkdir()
        try:
            for name in BESIDE:
                if (bundle / name).exists():
                    share(bundle / name, fresh / name)
            self._write_model(bundle, fresh, interface)
            write_atomic(fresh / SETTINGS, _mlserver_settings(self._model, place, interface).encode())
            shutil.copyfile(HERE / "mlserver_model.py", fresh / "mlserver_stage1.py")
            shutil.copyfile(HERE / "stage1_session.py", fresh / "stage1_session.py")
            fsync_tree(fresh)
            fresh.rename(place)
            fsync_directory(self._home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _write_model(self, bundle: Path, fresh: Path, interface: Interface) -> None:
        if interface.backend == "tensorrt":
            if not (bundle / PLAN).exists():
                raise BundleRefused(f"{bundle.name} has no {PLAN}: choose another backend than tensorrt")
            share(bundle / PLAN, fresh / MODEL_FILES["tensorrt"])
            return
        for path in bundle.iterdir():
            if path.name.startswith(ENGINE_PREFIXES) and path.name != PLAN:
                share(path, fresh / path.name)
        if interface.backend == "python":
            shutil.copyfile(HERE / "triton_model.py", fresh / MODEL_FILES["python"])


def export_model(bundle: Path, root: Path, *, model: str, backend: TritonBackend | None, max_batch: int) -> str:
    """Check a bundle and put it into a repository; see `ModelRepository.add`.

    Raises:
        BundleRefused: it is damaged; see `ModelRepository.add`.
    """
    verify_bundle(bundle)
    return ModelRepository(root, model).add(bundle, backend=backend, max_batch=max_batch)


def _backend_of(spec: EngineSpec) -> TritonBackend:
    if spec.backend == "tensorrt":
        return "tensorrt"
    # Triton's own backend computes int8 in batches, whose images change each other's answers.
    return "python" if spec.precision == "int8" else "onnxruntime"


def _numbers(outputs: Stage1Outputs) -> dict[str, int]:
    heads = {HEAD_PREFIX + name: values.shape[1] for name, values in outputs.heads.items()}
    return dict(zip(OUTPUTS, (outputs.logits.shape[1], 1), strict=True)) | heads


def _mlserver_settings(model: str, place: Path, interface: Interface) -> str:
    """`model-settings.json` of MLServer, which loads each directory that has one."""
    outputs = [
        {"name": name, "datatype": "FP32", "shape": [-1] if name == OUTPUTS[1] else [-1, numbers]}
        for name, numbers in interface.outputs.items()
    ]
    settings = {
        "name": model,
        "implementation": "mlserver_stage1.Stage1",
        "parameters": {"version": place.name, "uri": str(place.resolve())},
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": outputs,
    }
    return json.dumps(settings, indent=2) + "\n"
