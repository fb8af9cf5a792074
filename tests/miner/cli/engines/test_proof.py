"""`cascade engines prove`."""

from __future__ import annotations

import errno
import getpass
import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engines.errors import BundleRefused
from engines.machine.gpu import Gpu, NoGpu
from engines.spec import EngineSpec
from engines.store.file_names import ENGINE
from engines.store.store import Store
from miner.cli.engines.proof import measure
from miner.cli.engines.proof.machine import CPUINFO, DRIVER, this_machine
from miner.cli.engines.proof.measure import prove
from miner.cli.engines.proof.record import Proof
from miner.cli.engines.proof.table import compared, shown
from miner.cli.main import app
from stage1.artifacts import sha256_json
from stage1.errors import ArtifactError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NONE = NoGpu(reason="none is plugged in")
CARD = Gpu(name="NVIDIA L4", compute_capability="8.9", driver="13.0", total_bytes=2**34, free_bytes=2**33)
Publish = Callable[..., str]


def proof_of(store: Store, bundle: str = "", **changes: Any) -> Proof:
    pointer = store.current()
    assert pointer is not None
    settings: dict[str, Any] = {"batches": (1, 2), "seconds": 0.0, "now": NOW, "threads": 1, "find": lambda: NONE}
    return prove(store.root, bundle or pointer.bundle, **(settings | changes))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["engines", "prove", *arguments])
    return result.exit_code, result.output


class TestProof:
    def test_has_the_golden_images_and_times_of_every_size_of_batch(self, store: Store, publish: Publish) -> None:
        bundle = publish("a")
        found = proof_of(store)
        assert found.agrees
        assert (found.bundle, found.image, found.rung) == (bundle, (3, 32, 32), "")
        assert [(one.batch, one.images, one.flips) for one in found.agreement] == [(1, 6, 0), (2, 6, 0)]
        assert all(one.calls >= 5 and 0 < (one.p50_ms or 0) <= (one.p99_ms or 0) for one in found.speed)
        assert found.memory.peak_bytes >= found.memory.loaded_bytes > 0
        assert found.memory.gpu_bytes is None
        assert {"python", "numpy", "onnxruntime"} <= found.machine.versions.keys()
        assert not list(store.root.glob(".prove-*"))

    def test_took_no_less_at_its_most_than_at_any_time(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel's own high-water mark lags behind what it says of the moment."""
        resident = iter([300, 500, 400])
        monkeypatch.setattr(measure, "_status", lambda field: 450 if field == "VmHWM" else next(resident))
        publish("a")
        memory = proof_of(store).memory
        assert (memory.before_bytes, memory.loaded_bytes, memory.peak_bytes, memory.after_bytes) == (300, 500, 500, 400)

    def test_says_so_where_they_differ(self, store: Store, publish: Publish) -> None:
        publish("a", golden_shift=0.25)
        found = proof_of(store)
        assert not found.agrees
        assert found.agreement[0].logits == pytest.approx(0.25, abs=1e-3)
        assert found.agreement[0].select_score == pytest.approx(0.0, abs=1e-3)
        assert "DIFFERS from the golden images" in shown(found)

    def test_is_held_to_the_limit_that_a_miner_holds_an_engine_to(self, store: Store, publish: Publish) -> None:
        """A share of the range, where that is less than what the bundle tolerates; an older file has the tolerance."""
        publish("a")
        found = proof_of(store)
        assert found.limits == pytest.approx((found.tolerance,) * 2)
        far = found.model_copy(update={"limits": (1e-12, found.tolerance)})
        assert not far.agrees
        assert "DIFFERS from the golden images, within 1e-12, 0.001" in shown(far)

    def test_of_an_older_program_is_read_and_held_to_the_tolerance(
        self, store: Store, publish: Publish, tmp_path: Path
    ) -> None:
        publish("a")
        older = proof_of(store).model_copy(update={"limits": ()})
        content = json.loads(older.to_json())
        del content["limits"], content["seal"]
        content["seal"] = sha256_json(content)
        (tmp_path / "older.json").write_text(json.dumps(content))
        assert Proof.read_sealed(tmp_path / "older.json").agrees

    def test_goes_on_where_an_engine_fails_at_one_size(self, store: Store, publish: Publish) -> None:
        publish("a", only_batch=1)
        found = proof_of(store)
        assert not found.agrees
        assert [bool(one.error) for one in found.agreement] == [False, True]
        assert [one.calls > 0 for one in found.speed] == [True, False]
        assert "batch 2: ONNX Runtime failed on a batch" in shown(found)
        assert "no numbers" in compared(found, found)

    def test_of_another_engine_compiles_it_beside_the_bundle(self, store: Store, publish: Publish) -> None:
        bundle = publish("a")
        before = sorted(store.path(bundle).iterdir())
        found = proof_of(store, spec=EngineSpec(backend="openvino"))
        assert found.runtime.startswith("openvino")
        assert sorted(store.path(bundle).iterdir()) == before

    def test_names_no_host_and_no_directory(self, store: Store, publish: Publish) -> None:
        publish("a")
        text = proof_of(store).to_json().decode()
        assert not [part for part in (str(store.root), socket.gethostname(), getpass.getuser()) if part in text]


class TestSeal:
    def test_shows_that_nobody_changed_it(self, store: Store, publish: Publish, tmp_path: Path) -> None:
        publish("a")
        found = proof_of(store)
        path = tmp_path / "proof.json"
        found.write(path)
        assert Proof.read_sealed(path) == found
        content = json.loads(path.read_text())
        content["speed"][0]["p50_ms"] /= 2
        path.write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match="was changed after it was written"):
            Proof.read_sealed(path)


class TestMachine:
    def test_is_read_from_the_kernel(self) -> None:
        files = {
            CPUINFO: "model name\t: AMD EPYC 9654\nflags\t\t: fpu avx2 avx512f amx_bf16\n",
            DRIVER: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\n",
        }
        found = this_machine(CARD, lambda path: files[path])
        assert (found.processor, found.instructions) == ("AMD EPYC 9654", ("avx2", "avx512f", "amx_bf16"))
        assert (found.gpu, found.driver) == (CARD, "580.95.05")

    def test_without_its_files_it_is_told_all_the_same(self) -> None:
        def missing(path: Path) -> str:
            raise FileNotFoundError(path)

        found = this_machine(NONE, missing)
        assert (found.gpu, found.driver, found.instructions) == (None, "", ())
        assert found.processor


class TestCommand:
    def test_writes_a_file_and_prints_a_table(self, store: Store, publish: Publish, tmp_path: Path) -> None:
        publish("a")
        out = tmp_path / "proof.json"
        asked = ("--store", str(store.root), "--batch", "2", "--batch", "1", "--seconds", "0", "--out", str(out))
        status, output = run(*asked)
        assert status == 0, output
        assert "agrees with the golden images" in output
        assert [one.batch for one in Proof.read_sealed(out).speed] == [1, 2]

    def test_ends_with_status_1_where_the_images_differ(self, store: Store, publish: Publish, tmp_path: Path) -> None:
        publish("a", golden_shift=0.25)
        out = tmp_path / "proof.json"
        assert run("--store", str(store.root), "--batch", "1", "--seconds", "0", "--out", str(out))[0] == 1
        assert not Proof.read_sealed(out).agrees

    @pytest.mark.parametrize("spec", ["openvino", "fortran cpu fp32", "onnxruntime cpu bf16"])
    def test_an_engine_that_there_is_not_is_told(self, store: Store, publish: Publish, spec: str) -> None:
        publish("a")
        status, output = run("--store", str(store.root), "--spec", spec)
        assert status == 1
        assert "engine" in output

    def test_compares_two(self, store: Store, publish: Publish, tmp_path: Path) -> None:
        publish("a")
        paths = [tmp_path / name for name in ("a.json", "b.json")]
        for path in paths:
            proof_of(store).write(path)
        status, output = run("--compare", *map(str, paths))
        assert status == 0
        assert "the first agrees and the second agrees" in output


def test_a_comparison_marks_what_differs(store: Store, publish: Publish) -> None:
    publish("a")
    first = proof_of(store)
    machine = first.machine.model_copy(update={"gpu": CARD, "versions": {"python": "2.7.18"}})
    second = first.model_copy(
        update={
            "machine": machine,
            "rung": "fp32",
            "speed": tuple(one.model_copy(update={"p50_ms": (one.p50_ms or 0) * 2}) for one in first.speed),
        }
    )
    lines = compared(first, second).splitlines()
    marked = {line.split()[0].removesuffix("*") for line in lines if "*" in line[:12]}
    assert {"rung", "GPU", "numpy", "python"} <= marked
    assert not {"bundle", "image"} & marked
    ratios = [line.split()[-4] for line in lines if line.strip()[:1] in {"1", "2"}]
    assert ratios == ["2.00", "2.00"]


def test_a_bundle_that_is_damaged_is_refused(store: Store, publish: Publish) -> None:
    bundle = publish("a")
    (store.path(bundle) / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleRefused, match="changed"):
        proof_of(store)


def test_another_engine_is_proved_on_a_file_system_without_hard_links(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    home = store.path(publish("a"))
    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(measure, "compile_engine", lambda *_: None)
    assert measure._compiled(EngineSpec(), home, tmp_path).read_bytes() == (home / ENGINE).read_bytes()
