"""`cascade engines`: what a person sees of the engines of this machine and of bundles."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.backends.registry import check_available, known
from engines.errors import BundleRefused
from engines.live.load.engine_choice import RECORD, EngineChoice, recorded
from engines.machine.gpu import NoGpu
from engines.remote.bundle_version import version_of
from engines.spec import EngineSpec
from engines.store.bundle import Provenance
from engines.store.model_card import card_path
from engines.store.store import Pointer, Store
from miner.cli.engines.card import completed_card
from miner.cli.engines.text import list_bundles, show_bundle
from miner.cli.main import app
from offline.publish.gate import put_in_place
from stage1.artifacts import sha256_file
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NO_GPU = NoGpu(reason="none is plugged in")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["engines", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def bundle(store: Path, bundle_files: Path, provenance: Provenance) -> str:
    made = Store(store)
    bundle = made.publish(bundle_files, provenance)
    made.activate(bundle, now=NOW)
    return bundle


def test_describe_names_every_engine_with_its_runtime_or_what_is_missing() -> None:
    status, output = run("describe")
    assert status == 0
    lines = output.splitlines()[1 : 1 + len(known())]
    assert [line[: len(str(spec))] for line, spec in zip(lines, known(), strict=True)] == [
        str(spec) for spec in known()
    ]
    assert "onnxruntime 1." in lines[0]
    assert "driver 580 or newer" in output
    assert "pip install 'streetvision-cascade[rtx]'" in output


def test_bench_measures_what_runs_here_and_says_why_the_rest_does_not(store: Path, bundle: str) -> None:
    status, output = run("bench", bundle[:5], "--store", str(store), "--rounds", "1", "--threads", "1")
    assert status == 0
    rows = {line[:24].strip(): line for line in output.splitlines()}
    assert "0.0e+00 0/6" in rows["onnxruntime cpu fp32"]
    assert len(rows) == 2 + len(known())
    assert output.splitlines()[-1].startswith("auto: ")
    assert not (store / RECORD).exists()
    # The network of the tests is a mean and one product: too little to quantise in a way that is wrong.
    assert "im/s" in rows["onnxruntime cpu int8"]
    assert [path.name for path in store.iterdir() if path.name.startswith(".bench")] == []


def test_bench_keeps_which_engine_auto_stands_for_on_this_machine(store: Path, bundle: str) -> None:
    status, output = run("bench", bundle, "--store", str(store), "--rounds", "1", "--threads", "1", "--record")
    assert status == 0
    choice = EngineChoice.read(store / RECORD)
    assert output.splitlines()[-1] == f"auto: {choice.chosen}"
    assert choice.bundle == bundle
    assert choice.chosen in {tried.engine for tried in choice.tried if not tried.reason}
    assert recorded(store) == choice.chosen


def test_a_bundle_is_pushed_and_pulled(store: Path, bundle: str, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url, there = f"file://{tmp_path / 'remote'}", str(tmp_path / "there")
    assert run("push", url, "--store", there)[1] == f"cascade: {there}: no bundle is current; name one\n"
    assert run("push", url, "--store", str(store)) == (0, f"{bundle} is in {url}\n")
    assert run("push", url, bundle[:6], "--store", str(store)) == (0, f"{bundle} is in {url}\n")
    status, said = run("pull", url, "--store", there)
    assert (status, said.split()[0]) == (0, bundle)
    assert "makes it current" in said


def test_a_bundle_travels_as_a_file(store: Path, bundle: str, tmp_path: Path) -> None:
    target, there = tmp_path / "bundle.tar", tmp_path / "there"
    assert run("export", bundle, str(target), "--store", str(store)) == (0, f"{bundle} is in {target}\n")
    status, output = run("import", str(target), "--store", str(there))
    assert status == 0
    assert f"cascade engines activate {bundle}" in output
    assert Store(there).verify(bundle).bundle_id == bundle
    status, output = run("export", bundle, str(target), "--store", str(store))
    assert status == 1
    assert "exists already" in output


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            EngineSpec(backend="tensorrt", precision="bf16", device="cuda"),
            "needs a GPU, and there is none: none is plug",
        ),
        (EngineSpec(backend="onnxruntime-cuda", device="cuda"), "needs a GPU"),
        (EngineSpec(backend="onnxruntime-rtx", device="cuda"), "needs a GPU"),
        (EngineSpec(device="cuda"), "no engine computes so; .*; ONNX Runtime on a GPU is onnxruntime-cuda"),
        (EngineSpec(precision="bf16"), "no engine computes so; there are onnxruntime cpu fp32,"),
        (EngineSpec(backend="openvino", device="cuda"), "no engine computes so"),
    ],
)
def test_what_cannot_run_here_says_why(spec: EngineSpec, why: str) -> None:
    with pytest.raises(BundleRefused, match=why):
        check_available(spec, NO_GPU)


def test_what_is_always_there_is_available() -> None:
    assert check_available(EngineSpec()).startswith("onnxruntime ")
    assert check_available(EngineSpec(precision="int8")).startswith("onnxruntime ")


def test_retraining_for_an_engine_that_this_machine_cannot_run_stops_at_once(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["retrain", "--data", str(tmp_path), "--preset", "tiny", "--set", "engine.precision=bf16"]
    )
    assert result.exit_code == 1
    assert "no engine computes so" in result.output


def test_without_onnx_the_other_engines_are_described_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.backends.onnxruntime.find_spec", lambda _name: None)
    with pytest.raises(BundleRefused, match=r"needs the package onnx: pip install '\.\[train\]'"):
        check_available(EngineSpec(precision="int8"))


def test_describing_needs_no_training_package() -> None:
    script = "import sys, miner.cli.engines.text, miner.cli.engines.bench; print({'torch', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


Published = Callable[..., tuple[str, ScrcParams]]


@pytest.fixture
def published(
    store: Path,
    tmp_path: Path,
    tiny_engine: Path,
    certificate: Callable[..., ScrcParams],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> Published:
    """Publishes a bundle of the tiny engine with a certificate; returns its id and the certificate."""

    def one(note: str, **asked: object) -> tuple[str, ScrcParams]:
        preprocess = PreprocessSettings(size_px=32)
        hashes = {"engine_sha256": sha256_file(tiny_engine), "preprocess_sha256": preprocess.sha256}
        params = certificate(**hashes, **asked)
        files = write_bundle_files(tmp_path / note, engine=tiny_engine, params=params, note=note)
        return Store(store).publish(files, provenance), params

    return one


def pointer_of(store: Path) -> Pointer:
    pointer = Store(store).current()
    assert pointer is not None
    return pointer


def test_what_is_infeasible_does_not_take_the_place_of_what_is_certified(
    store: Path, bundle: str, published: Published
) -> None:
    infeasible, certified = published("infeasible", feasible=False), published("certified")
    with pytest.raises(BundleRefused, match=f"stays a challenger: {bundle} is certified, and it is INFEASIBLE"):
        put_in_place(Store(store), *infeasible, bundle, now=NOW)
    assert pointer_of(store).bundle == bundle
    put_in_place(Store(store), *certified, bundle, now=NOW)
    assert (pointer_of(store).bundle, pointer_of(store).previous) == (certified[0], None)


def test_what_promises_less_takes_no_place_in_silence(store: Path, bundle: str, published: Published) -> None:
    weaker = published("weaker", alpha=0.1)
    with pytest.raises(
        BundleRefused,
        match=rf"promises less than {bundle}, .*: the bound is 10\.0% instead of 5\.0%; `cascade engines ac",
    ):
        put_in_place(Store(store), *weaker, bundle, now=NOW)
    assert pointer_of(store).bundle == bundle
    put_in_place(Store(store), *weaker, bundle, now=NOW, accept_weaker_claim=True)
    assert pointer_of(store).bundle == weaker[0]


def test_compiling_a_bundle_whose_config_cannot_be_read_says_so(store: Path, bundle: str, tmp_path: Path) -> None:
    status, output = run("compile", bundle, "--data", str(tmp_path), "--precision", "int8", "--store", str(store))
    assert status == 1
    assert "config.json: not a valid RunConfig" in output


class TestModelCard:
    HOTKEY = "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX"

    def test_is_made_for_a_bundle_that_has_none(self, store: Path, bundle: str, tmp_path: Path) -> None:
        target = tmp_path / "model_card.json"
        status, output = run("card", bundle[:5], str(target), "--hotkey", self.HOTKEY, "--store", str(store))
        assert (status, output) == (0, f"the card of version 1.0.1 is in {target}\n")
        card = json.loads(target.read_text())
        assert (card["submitted_by"], card["version"]) == (self.HOTKEY, "1.0.1")
        assert card["submission_time"] == int(NOW.timestamp())
        # What was said once is kept.
        status, output = run("card", bundle, "--name", "mine", "--version", "2.0.0", "--store", str(store))
        assert (status, json.loads(output)) == (0, card | {"model_name": "mine", "version": "2.0.0"})
        Store(store).verify(bundle)

    def test_is_renewed_when_it_is_submitted_anew(self, store: Path, bundle: str) -> None:
        before = int(time.time())
        _, output = run("card", bundle, "--hotkey", self.HOTKEY, "--renew", "--store", str(store))
        assert before <= json.loads(output)["submission_time"] <= time.time()
        assert "  0 days  " in run("list", "--store", str(store))[1]

    def test_asks_for_the_hotkey(self, store: Path, bundle: str) -> None:
        status, output = run("card", bundle, "--store", str(store))
        assert (status, "give --hotkey" in output) == (2, True)
        said = {"model_name": None, "description": None, "version": None, "submitted_by": None}
        card = completed_card(store, bundle, said, now=NOW, renew=False, ask=lambda _: self.HOTKEY)
        assert card.submitted_by == self.HOTKEY

    def test_a_hotkey_that_is_none_is_refused(self, store: Path, bundle: str) -> None:
        status, output = run("card", bundle, "--hotkey", "mine", "--store", str(store))
        assert (status, "submitted_by" in output) == (2, True)
        assert not card_path(store, bundle).exists()


def test_the_age_of_a_model_is_told(store: Path, bundle: str) -> None:
    now = NOW + timedelta(days=12, hours=3)
    assert "  12 days  " in list_bundles(store, now)
    assert "model age  12 days, paid in full for 90" in show_bundle(store, bundle, now)
    assert "input      32 x 32 px (height x width), squash" in show_bundle(store, bundle, now)


def test_a_bundle_that_this_version_cannot_read_hides_no_other(store: Path, bundle: str) -> None:
    params = Store(store).path(bundle) / "scrc_params.json"
    params.write_text(json.dumps(json.loads(params.read_text()) | {"of_a_newer_version": 1}))
    told = list_bundles(store, NOW)
    assert f"* {bundle}" in told
    assert "cannot be read" in told
    assert "of_a_newer_version" in told


def test_a_bundle_of_tiles_says_what_it_takes(
    tmp_path: Path, write_bundle_files: Callable[..., Path], write_onnx: Callable[..., Path], provenance: Provenance
) -> None:
    settings = PreprocessSettings(size_px=32, geometry="tiles")
    engine = write_onnx(tmp_path / "tiles.onnx", size_px=64, width_px=96)
    files = write_bundle_files(tmp_path / "files", engine=engine, preprocess=settings)
    store = Store(tmp_path / "store")
    shown = show_bundle(store.root, store.publish(files, provenance), NOW)
    assert "input      64 x 96 px (height x width), tiles, 2 x 3 of 32 px" in shown
    status, told = run("verify", store.bundles()[0].manifest.bundle_id, "--store", str(store.root))
    assert (status, "may serve" in told) == (0, True)


def test_export_writes_the_models_of_a_server(store: Path, bundle: str, tmp_path: Path) -> None:
    target = tmp_path / "models"
    asked = ("export", bundle[:6], str(target), "--store", str(store), "--format", "triton", "--backend", "python")
    version = version_of(bundle)
    told = f"{bundle} is version {version} of the model stage1 in {target}\n"
    assert run(*asked) == (0, told)
    assert (target / "stage1" / version / "model.py").exists()
    status, output = run(*asked[:-1], "onnxruntime")
    assert status == 1
    assert "are for Triton's backend python, and not onnxruntime" in " ".join(output.split())
