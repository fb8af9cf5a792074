"""Bundles as versions of a model in a directory that servers read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from structlog.testing import capture_logs

from engines.backends.onnxruntime import OnnxEngine
from engines.errors import BundleRefused, StoreError
from engines.remote.bundle_version import version_of
from engines.remote.repository.model_repository import CONFIG, SETTINGS, ModelRepository, export_model
from engines.remote.repository.stage1_session import Stage1Session
from engines.remote.repository.triton_config import Interface, config_text
from engines.store.file_names import ENGINE, GOLDEN, MANIFEST, PARAMS
from engines.store.golden import read_golden
from engines.store.store import Store
from stage1.preprocess import PreprocessSettings

Publish = Callable[..., str]


@pytest.fixture
def bundle(store: Store, publish: Publish) -> Path:
    return store.path(publish("a"))


class TestVersion:
    def test_is_positive_and_fits_into_64_bits_with_a_sign(self) -> None:
        assert [version_of("0" * 16), version_of("f" * 16)] == ["1", str(2**60)]

    def test_is_another_one_for_another_bundle(self) -> None:
        assert version_of("0123456789abcdef") != version_of("0123456789abcdff")


class TestAdd:
    def test_writes_what_triton_reads_and_the_certificate_beside(self, bundle: Path, tmp_path: Path) -> None:
        version = ModelRepository(tmp_path / "models").add(bundle)
        home = tmp_path / "models" / "stage1"
        assert version == version_of(bundle.name)
        assert (home / version / ENGINE).read_bytes() == (bundle / ENGINE).read_bytes()
        for name in (PARAMS, MANIFEST):
            assert (home / version / name).read_bytes() == (bundle / name).read_bytes()
        images, _ = read_golden(bundle / GOLDEN)
        assert (home / "warmup" / "golden").read_bytes() == images[:1].tobytes()
        text = (home / CONFIG).read_text()
        for line in (
            'name: "stage1"',
            'backend: "onnxruntime"',
            "max_batch_size: 32",
            'input [ { name: "image" data_type: TYPE_UINT8 dims: [ 3, 32, 32 ] } ]',
            'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 2 ] } ]',
            'output [ { name: "select_score" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } } ]',
            "version_policy { all { } }",
        ):
            assert line in text.splitlines()
        assert "dynamic_batching" in text
        assert text.count("model_warmup") == 2

    def test_of_one_that_is_there_changes_nothing(self, bundle: Path, tmp_path: Path) -> None:
        repository = ModelRepository(tmp_path / "models")
        repository.add(bundle)
        home = tmp_path / "models" / "stage1"
        before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
        repository.add(bundle)
        assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before

    def test_keeps_the_backend_of_those_that_are_there(
        self, bundle: Path, store: Store, publish: Publish, tmp_path: Path
    ) -> None:
        repository = ModelRepository(tmp_path / "models")
        repository.add(bundle, backend="python", max_batch=4)
        version = repository.add(store.path(publish("b")))
        assert (tmp_path / "models" / "stage1" / version / "model.py").exists()

    def test_of_another_backend_or_another_size_of_images_is_refused(
        self,
        bundle: Path,
        store: Store,
        tmp_path: Path,
        write_onnx: Callable[..., Path],
        write_bundle_files: Callable[..., Path],
        provenance: Any,
    ) -> None:
        repository = ModelRepository(tmp_path / "models")
        repository.add(bundle)
        engine = write_onnx(tmp_path / "large.onnx", size_px=64)
        files = write_bundle_files(tmp_path / "large", engine=engine, preprocess=PreprocessSettings(size_px=64))
        large = store.path(store.publish(files, provenance))
        with pytest.raises(BundleRefused, match="put it under another model name"):
            repository.add(large)
        with pytest.raises(BundleRefused, match=r"has no engine\.plan: choose another backend"):
            ModelRepository(tmp_path / "others").add(bundle, backend="tensorrt")
        assert not list((tmp_path / "others" / "stage1").glob("*"))

    def test_into_a_model_of_somebody_else_is_refused(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "stage1").mkdir()
        (tmp_path / "stage1" / CONFIG).write_text('name: "stage1"\n')
        with pytest.raises(StoreError, match="is not from `cascade engines export`"):
            ModelRepository(tmp_path).add(bundle)

    def test_of_a_damaged_bundle_is_refused_before_it_is_written(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / ENGINE).write_bytes(b"")
        with pytest.raises(BundleRefused, match=r"model\.onnx is changed"):
            export_model(bundle, tmp_path / "models", model="stage1", backend=None, max_batch=8)
        assert not (tmp_path / "models").exists()

    def test_of_several_miners_at_once_gives_one_whole_version(
        self, bundle: Path, tmp_path: Path, at_once: Callable[..., None]
    ) -> None:
        at_once(lambda _: ModelRepository(tmp_path / "models").add(bundle))
        assert [path.name for path in (tmp_path / "models" / "stage1").glob("[!.]*[0-9]")] == [version_of(bundle.name)]
        assert not list((tmp_path / "models" / "stage1").glob(".*"))


class TestPrune:
    def test_keeps_what_is_needed_and_what_was_wanted_last(
        self, store: Store, publish: Publish, tmp_path: Path
    ) -> None:
        repository = ModelRepository(tmp_path / "models")
        bundles = [store.path(publish(note)) for note in "abcd"]
        made = [repository.add(one) for one in bundles]
        repository.add(bundles[1])
        assert list(repository.versions) == [made[1], made[3], made[2], made[0]]
        left = tmp_path / "models" / "stage1" / f".{made[2]}.gone"
        (left / "of a process that was killed").mkdir(parents=True)
        assert repository.prune({made[0]}, 2) == [made[2]]
        assert not left.exists()
        assert list(repository.versions) == [made[1], made[3], made[0]]


class TestAnotherMiner:
    """One that hangs while it has the repository."""

    def test_keeps_nobody_from_having_servers_load(self, tmp_path: Path) -> None:
        repository = ModelRepository(tmp_path)
        with FileLock(tmp_path / ".stage1.loading.lock"), capture_logs() as logs, repository.loading(0.01):
            pass
        assert [entry["event"] for entry in logs] == ["stage1_servers_loaded_by_two"]
        with capture_logs() as logs, repository.loading(0.01):
            assert not logs

    def test_is_told_where_it_keeps_a_bundle_out(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engines.remote.repository.model_repository.WRITING_S", 0.01)
        with (
            FileLock(tmp_path / ".stage1.lock"),
            pytest.raises(StoreError, match="another process has held stage1 for 0 s"),
        ):
            ModelRepository(tmp_path).add(bundle)


class TestConfig:
    def test_says_what_it_was_made_of(self) -> None:
        interface = Interface(backend="python", image=(3, 224, 448), outputs={"logits": 2}, max_batch=8)
        text = config_text("stage1", interface)
        assert Interface.of(text) == interface
        assert Interface.of(text.replace('"python"', '"fortran"', 1)) is None
        assert "preferred_batch_size: [ 1, 2, 4, 8 ]" in text

    def test_has_as_many_opening_as_closing_brackets(self) -> None:
        interface = Interface(backend="onnxruntime", image=(3, 8, 8), outputs={"logits": 2}, max_batch=1)
        text = config_text("m", interface)
        assert text.count("{") == text.count("}")
        assert text.count("[") == text.count("]")


class TestOfOtherServers:
    def test_mlserver_is_told_the_version_and_what_it_takes(self, bundle: Path, tmp_path: Path) -> None:
        version = ModelRepository(tmp_path / "models").add(bundle)
        told = json.loads((tmp_path / "models" / "stage1" / version / SETTINGS).read_text())
        assert (told["name"], told["parameters"]["version"]) == ("stage1", version)
        assert told["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert [(one["name"], one["shape"]) for one in told["outputs"]] == [("logits", [-1, 2]), ("select_score", [-1])]

    def test_the_session_computes_as_the_engine_does(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STAGE1_THREADS", "1")
        images, _ = read_golden(bundle / GOLDEN)
        found, expected = Stage1Session(bundle).infer(images), OnnxEngine(bundle / ENGINE, threads=1).infer(images)
        np.testing.assert_array_equal(found["logits"], expected.logits)
        np.testing.assert_array_equal(found["select_score"], expected.select_score)

    def test_in_int8_it_computes_images_one_by_one(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "model.int8.onnx").write_bytes((bundle / ENGINE).read_bytes())
        (tmp_path / "spec.json").write_text(json.dumps({"precision": "int8"}))
        session, sizes = Stage1Session(tmp_path), list[int]()
        runs = session._session.run

        def run(names: list[str], given: dict[str, Any]) -> Any:
            sizes.append(len(given["image"]))
            return runs(names, given)

        session._session = SimpleNamespace(run=run)
        assert len(session.infer(np.zeros((3, 3, 32, 32), np.uint8))["logits"]) == 3
        assert sizes == [1, 1, 1]

    def test_triton_python_backend_answers_each_request_of_a_batch(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = ModelRepository(tmp_path / "models").add(bundle, backend="python")
        home = tmp_path / "models" / "stage1"
        images, expected = read_golden(bundle / GOLDEN)
        double = SimpleNamespace(
            Tensor=lambda name, values: (name, values),
            InferenceResponse=lambda tensors=None, error=None: error or dict(tensors),
            TritonError=RuntimeError,
            get_input_tensor_by_name=lambda request, name: SimpleNamespace(as_numpy=lambda: request[name]),
        )
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", double)
        monkeypatch.syspath_prepend(str(home / version))
        from engines.remote.repository.triton_model import TritonPythonModel  # noqa: PLC0415

        model = TritonPythonModel()
        kind = {"model_instance_kind": "CPU", "model_instance_device_id": "0"}
        model.initialize({"model_repository": str(home), "model_version": version, **kind})
        first, second = model.execute([{"image": images[:2]}, {"image": images[2:3]}])
        np.testing.assert_allclose(first["logits"], expected.logits[:2], atol=1e-4)
        np.testing.assert_allclose(second["select_score"], expected.select_score[2:3], atol=1e-4)
        [failed] = model.execute([{"image": images[:1, :, :16]}])
        assert isinstance(failed, RuntimeError)
        monkeypatch.delitem(sys.modules, "stage1_session")


def test_files_for_servers_need_nothing_of_this_project() -> None:
    here = Path(__file__).parents[4] / "engines" / "remote" / "repository"
    for name in ("stage1_session.py", "triton_model.py", "mlserver_model.py"):
        assert not re.search(r"^\s*(from|import) (engines|stage1|miner)\b[^_]", (here / name).read_text(), re.MULTILINE)
    found = subprocess.run(
        [sys.executable, "-c", "import stage1_session, sys; print('engines' in sys.modules)"],
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"
