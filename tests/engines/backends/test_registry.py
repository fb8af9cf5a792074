"""A backend is one file and one line: a toy that is neither of the three is compiled, certified, stored and served."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from engines.backends import registry
from engines.backends.backend import CompileOptions
from engines.backends.registry import BACKENDS, backend, check_available, compile_engine, known, open_engine
from engines.errors import BundleRefused
from engines.live.load.load_bundle import load_bundle
from engines.spec import REFERENCE, EngineSpec
from engines.store.bundle import Provenance, certified_sha256_of
from engines.store.file_names import ENGINE, PREPROCESS, SPEC
from engines.store.store import Store
from miner.answering.settings import EngineSettings
from miner.cli.main import app
from offline.certify.engine_agreement import machine_of
from offline.config import load_config
from offline.pipeline.content_key import own_modules
from stage1.certificate.params import ScrcParams
from stage1.errors import SettingsError
from stage1.preprocess import PreprocessSettings

TOY = '''
    """A backend whose engine is the reference, with a number added that was compiled."""
    from engines.backends.backend import Backend
    from engines.backends.onnxruntime import OnnxEngine
    from engines.engine import EngineDescription
    from engines.errors import BundleRefused
    from engines.spec import EngineSpec
    from stage1.outputs import Stage1Outputs

    SPEC = EngineSpec(backend="toy", precision="bf16")


    class ToyEngine(OnnxEngine):
        def __init__(self, model, number):
            super().__init__(model, threads=1)
            self.number = number

        def infer(self, batch):
            plain = super().infer(batch)
            return Stage1Outputs(plain.logits + self.number, plain.select_score, plain.heads)

        def describe(self):
            return EngineDescription(SPEC, "toy 1.0", super().describe().shape, 1)


    class Toy(Backend):
        specs = (SPEC,)
        distributions = ("pytest",)
        file_prefixes = ("engine.toy",)

        def check(self, spec):
            return "toy 1.0"

        def compile(self, spec, model, into, options):
            (into / "engine.toy").write_text("0.25" if options.library is None else options.library)

        def open(self, spec, model, *, compiled, threads):
            path = (compiled or model.parent) / "engine.toy"
            if not path.is_file():
                raise BundleRefused("engine.toy is not there")
            return ToyEngine(model, float(path.read_text()))

        def tolerance(self, spec):
            return 1e-2


    BACKEND = Toy()
'''
SPEC_OF_TOY = EngineSpec(backend="toy", precision="bf16")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    """The one file, and the one line."""
    (tmp_path / "toy_backend.py").write_text(textwrap.dedent(TOY))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_backend", raising=False)
    registry._imported.cache_clear()
    monkeypatch.setitem(BACKENDS, "toy", "toy_backend")
    return SPEC_OF_TOY


def test_it_is_known_and_described(toy: EngineSpec) -> None:
    assert toy in known()
    assert check_available(toy) == "toy 1.0"
    described = CliRunner().invoke(app, ["engines", "describe"]).output
    assert [line for line in described.splitlines() if line.startswith("toy cpu bf16")]


def test_settings_take_it_by_its_name(toy: EngineSpec) -> None:
    config = load_config("tiny", None, {"engine.backend": "toy", "engine.precision": "bf16"})
    assert config.engine == toy
    assert EngineSettings.model_validate({"serve_with": {"backend": "toy", "precision": "bf16"}}).serve_with == toy
    assert "pytest" in machine_of(toy)


def test_what_it_compiles_is_bound_certified_stored_and_served(
    toy: EngineSpec,
    tmp_path: Path,
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    provenance: Provenance,
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / ENGINE).write_bytes(tiny_engine.read_bytes())
    compile_engine(toy, work / ENGINE)
    digest = certified_sha256_of(work, toy)
    compile_engine(toy, work / ENGINE, options=CompileOptions(library="0.5"))
    assert certified_sha256_of(work, toy) != digest
    compile_engine(toy, work / ENGINE)
    preprocess = PreprocessSettings(size_px=32)
    params = certificate(engine_sha256=digest, preprocess_sha256=preprocess.sha256)
    files = write_bundle_files(tmp_path / "files", engine=tiny_engine, params=params, golden_shift=0.0)
    preprocess.write(files / PREPROCESS)
    toy.write(files / SPEC)
    (files / "engine.toy").write_bytes((work / "engine.toy").read_bytes())
    store = Store(tmp_path / "store")
    # Golden outputs are those of the plain graph: this engine adds a quarter, and is refused for it.
    off = store.publish(files, provenance, parity_tolerance=backend("toy").tolerance(toy))
    with pytest.raises(BundleRefused, match=r"differ from the golden ones by 0\.25"):
        load_bundle(store.path(off))
    (files / "engine.toy").write_text("0.001")
    params = certificate(engine_sha256=certified_sha256_of(files, toy), preprocess_sha256=preprocess.sha256)
    params.write(files / "scrc_params.json")
    bundle = load_bundle(store.path(store.publish(files, provenance, parity_tolerance=backend("toy").tolerance(toy))))
    assert str(bundle.engine.describe()) == "toy 1.0 cpu bf16"
    images = np.zeros((2, 3, 32, 32), np.uint8)
    plain = open_engine(REFERENCE, work / ENGINE, threads=1)
    assert bundle.engine.infer(images).logits == pytest.approx(plain.infer(images).logits + 0.001, abs=1e-6)
    assert bundle.vouched_by == "certificate"
    bundle.close()


def test_a_bundle_of_a_backend_that_is_gone_is_refused(toy: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BACKENDS, "toy")
    with pytest.raises(BundleRefused, match="no backend is called 'toy'; there are onnxruntime, openvino, "):
        open_engine(toy, Path(ENGINE))


@pytest.mark.usefixtures("toy")
def test_files_that_no_certificate_would_be_bound_to_are_a_mistake_of_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(backend("toy")), "file_prefixes", ("weights.",))
    registry._imported.cache_clear()
    with pytest.raises(AssertionError, match="no certificate would be bound to"):
        backend("toy")
    registry._imported.cache_clear()


@pytest.mark.parametrize("name", ["tensort", "TensorRT", ""])
def test_settings_with_a_backend_that_there_is_not_say_so_at_once(name: str) -> None:
    with pytest.raises(SettingsError, match=r"engine"):
        load_config("tiny", None, {"engine.backend": name})
    with pytest.raises(ValidationError):
        EngineSettings.model_validate({"serve_with": {"backend": name}})


def test_the_command_line_names_the_backends_that_there_are() -> None:
    result = CliRunner().invoke(app, ["engines", "compile", "3f2a", "--data", "roads", "--backend", "tensort"])
    assert result.exit_code == 2
    assert "is not one of onnxruntime, openvino, onnxruntime-cuda" in " ".join(result.output.replace("│", " ").split())


def test_a_stages_key_follows_every_backend() -> None:
    modules = own_modules(["engines.backends.registry"])
    assert set(BACKENDS.values()) <= set(modules)


def test_the_names_of_backends_cost_the_command_line_nothing() -> None:
    script = "import sys, engines.backends.registry; print({'numpy', 'onnxruntime', 'openvino'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
