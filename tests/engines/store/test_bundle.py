from __future__ import annotations

import gc
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from engines.backends.registry import open_engine
from engines.engine import Engine
from engines.errors import BundleRefused, InferenceError, ParityError
from engines.live.load.load_bundle import LiveBundle, check_bundle, load_bundle, load_checked
from engines.live.states import State
from engines.spec import EngineSpec
from engines.store.bundle import Provenance, verify_bundle
from engines.store.file_names import ENGINE, GOLDEN, MANIFEST, PARAMS, REQUIRED
from engines.store.golden import write_golden
from engines.store.store import Store
from stage1.artifacts import sha256_file
from stage1.certificate.params import ScrcParams
from stage1.outputs import Stage1Outputs
from stage1.preprocess import PreprocessSettings
from tests.support.engines import Watched

Publish = Callable[[Path], Path]
Maker = Callable[..., Any]
Refused = Callable[..., None]


@pytest.fixture(autouse=True)
def sessions(monkeypatch: pytest.MonkeyPatch) -> WeakSet[ort.InferenceSession]:
    """ONNX Runtime sessions that are alive."""
    alive: WeakSet[ort.InferenceSession] = WeakSet()

    class Counted(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            alive.add(self)

    monkeypatch.setattr(ort, "InferenceSession", Counted)
    return alive


@pytest.fixture
def refused(sessions: WeakSet[ort.InferenceSession]) -> Refused:
    """Checks that loading is refused for this reason, and that nothing stays loaded."""

    def check(directory: Path, problem: str, kind: type[BundleRefused] = BundleRefused) -> None:
        with pytest.raises(kind, match=problem):
            load_bundle(directory, threads=1)
        gc.collect()
        assert len(sessions) == 0

    return check


@pytest.fixture
def publish(tmp_path: Path, provenance: Provenance) -> Publish:
    """Makes a bundle of the files of a directory."""
    store = Store(tmp_path / "store")
    return lambda files: store.path(store.publish(files, provenance))


@pytest.fixture
def bundle(publish: Publish, bundle_files: Path) -> Path:
    """A complete bundle that may be damaged."""
    return publish(bundle_files)


@pytest.fixture
def files(tmp_path: Path, bundle_files: Path) -> Path:
    """Files of a bundle that may be changed before they are published."""
    return Path(shutil.copytree(bundle_files, tmp_path / "changed"))


class TestLoad:
    def test_a_complete_bundle_is_everything_a_request_needs(self, bundle: Path, plain_images: Maker) -> None:
        live = load_bundle(bundle, threads=1)
        assert live.bundle_id == bundle.name == live.manifest.bundle_id
        outputs = live.engine.infer(plain_images([[200, 200, 10], [10, 200, 200]]))
        assert live.policy.decide(outputs).exit_label.tolist() == [1, 0]
        assert live.policy.params == live.params
        assert live.calibrator.heads["class"].answering.rows == 10
        assert live.preprocess.shape == live.engine.describe().shape
        live.close()

    def test_closing_frees_the_engine(
        self, bundle: Path, plain_images: Maker, sessions: WeakSet[ort.InferenceSession]
    ) -> None:
        live = load_bundle(bundle, threads=1)
        assert len(sessions) == 1
        live.close()
        assert len(sessions) == 0
        with pytest.raises(InferenceError, match="closed"):
            live.engine.infer(plain_images([[0, 0, 0]]))

    def test_an_infeasible_bundle_is_a_bundle(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, tiny_engine: Path, certificate: Maker
    ) -> None:
        preprocess = PreprocessSettings(size_px=32)
        params = certificate(
            engine_sha256=sha256_file(tiny_engine), preprocess_sha256=preprocess.sha256, feasible=False
        )
        live = load_bundle(publish(write_bundle_files(tmp_path / "f", engine=tiny_engine, params=params)), threads=1)
        assert live.params.status == "INFEASIBLE"
        live.close()


class TestDamage:
    @pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
    def test_a_missing_file(self, bundle: Path, name: str, refused: Refused) -> None:
        (bundle / name).unlink()
        refused(bundle, name if name != MANIFEST else "cannot be read")

    @pytest.mark.parametrize("name", REQUIRED)
    @pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
    def test_a_flipped_bit(self, bundle: Path, name: str, place: float, refused: Refused) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        (bundle / name).write_bytes(content)
        refused(bundle, f"{name} is changed")

    @pytest.mark.parametrize("name", REQUIRED)
    def test_a_truncated_file(self, bundle: Path, name: str, refused: Refused) -> None:
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(content[:-1])
        refused(bundle, f"{name} is changed")

    def test_an_extra_file(self, bundle: Path, refused: Refused) -> None:
        (bundle / "weights.bin").write_bytes(b"")
        refused(bundle, "weights.bin is not in the manifest")

    def test_an_extra_directory_whose_files_nobody_hashed(self, bundle: Path, refused: Refused) -> None:
        (bundle / "external").mkdir()
        (bundle / "external" / "weights.bin").write_bytes(b"")
        refused(bundle, "external is not a file")

    def test_a_link_to_a_file_elsewhere(self, bundle: Path, tmp_path: Path, refused: Refused) -> None:
        """Its content can change after the check, and it is not the bundle's."""
        (bundle / ENGINE).rename(tmp_path / "elsewhere.onnx")
        (bundle / ENGINE).symlink_to(tmp_path / "elsewhere.onnx")
        refused(bundle, f"{ENGINE} is not a file")

    def test_no_directory(self, tmp_path: Path, refused: Refused) -> None:
        refused(tmp_path / "nothing", "cannot be read")

    @pytest.mark.parametrize(
        ("field", "value", "problem"),
        [
            ("bundle_id", "0" * 16, "the manifest says 0000000000000000, the files are"),
            ("bundle_id", "../../../../etc/", "bundle_id"),
            ("schema_version", 2, "schema_version is 2, this program reads 1"),
            ("files", {}, "is not in the manifest"),
            ("parity_tolerance", 0.0, "parity_tolerance"),
            ("parity_tolerance", -1.0, "parity_tolerance"),
            ("note", "hello", "Extra inputs"),
        ],
    )
    def test_a_changed_manifest(self, bundle: Path, field: str, value: object, problem: str, refused: Refused) -> None:
        tree = json.loads((bundle / MANIFEST).read_text())
        tree[field] = value
        (bundle / MANIFEST).write_text(json.dumps(tree))
        refused(bundle, problem)

    def test_half_a_manifest(self, bundle: Path, refused: Refused) -> None:
        content = (bundle / MANIFEST).read_bytes()
        (bundle / MANIFEST).write_bytes(content[: len(content) // 2])
        refused(bundle, "Invalid JSON")


class TestWrongTogether:
    """The files are those that were published, and do not belong together."""

    def test_a_certificate_of_another_engine(
        self, files: Path, publish: Publish, certificate: Maker, refused: Refused
    ) -> None:
        certificate(preprocess_sha256=PreprocessSettings(size_px=32).sha256).write(files / PARAMS)
        refused(publish(files), "the certificate is for engine eeeeeeeeeeee, this is")

    def test_a_certificate_of_another_preprocess(
        self, files: Path, publish: Publish, certificate: Maker, refused: Refused
    ) -> None:
        certificate(engine_sha256=sha256_file(files / ENGINE)).write(files / PARAMS)
        refused(publish(files), "the certificate is for preprocess pppppppppppp, this is")

    def test_a_certificate_that_was_loosened(self, files: Path, publish: Publish, refused: Refused) -> None:
        tree = json.loads((files / PARAMS).read_text())
        tree["rule"]["t0"] = tree["chains"][0]["grid"][tree["chains"][0]["tested"] - 1]
        (files / PARAMS).write_text(json.dumps(tree))
        refused(publish(files), "is not where a walk of")

    @pytest.mark.parametrize("name", ["preprocess.json", "calibrator.json", PARAMS])
    def test_settings_that_are_none(self, files: Path, publish: Publish, name: str, refused: Refused) -> None:
        (files / name).write_text("{}}")
        refused(publish(files), name)

    def test_an_engine_of_another_size(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, write_onnx: Maker, refused: Refused
    ) -> None:
        engine = write_onnx(tmp_path / "large.onnx", size_px=48)
        refused(publish(write_bundle_files(tmp_path / "f", engine=engine)), "differ in image size")

    @pytest.mark.parametrize(
        ("graph", "made", "told"),
        [
            ({"size_px": 48, "width_px": 80}, {"size_px": 48}, r"takes 48 x 80 px .* makes 48 x 48 px \(squash\)"),
            ({"size_px": 80, "width_px": 48}, {"size_px": 48, "geometry": "wide"}, r"takes 80 x 48 px .* 48 x 80 px"),
            ({"size_px": 96}, {"size_px": 32, "geometry": "tiles"}, r"takes 96 x 96 px .* 64 x 96 px \(tiles\)"),
        ],
    )
    def test_an_engine_of_another_shape(
        self,
        tmp_path: Path,
        publish: Publish,
        write_bundle_files: Maker,
        write_onnx: Maker,
        graph: dict[str, Any],
        made: dict[str, Any],
        told: str,
        refused: Refused,
    ) -> None:
        engine = write_onnx(tmp_path / "other.onnx", **graph)
        preprocess = PreprocessSettings(**made)
        refused(publish(write_bundle_files(tmp_path / "f", engine=engine, preprocess=preprocess)), told)

    def test_tiles_that_the_settings_cannot_have(self, files: Path, publish: Publish, refused: Refused) -> None:
        tree = json.loads((files / "preprocess.json").read_text()) | {"geometry": "tiles", "rows": 9, "columns": 9}
        (files / "preprocess.json").write_text(json.dumps(tree))
        refused(publish(files), "preprocess.json: not a valid PreprocessSettings: rows")

    @pytest.mark.parametrize("graph", [{"only_batch": 1}, {"only_batch": 2}, {"batch": 1}])
    def test_an_engine_that_cannot_be_batched(
        self,
        tmp_path: Path,
        publish: Publish,
        write_bundle_files: Maker,
        write_onnx: Maker,
        graph: dict[str, Any],
        refused: Refused,
    ) -> None:
        engine = write_onnx(tmp_path / "single.onnx", **graph)
        refused(publish(write_bundle_files(tmp_path / "f", engine=engine)), "failed on a batch")

    def test_an_engine_of_other_outputs(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, write_onnx: Maker, refused: Refused
    ) -> None:
        engine = write_onnx(tmp_path / "other.onnx", outputs=("logits", "score"))
        refused(publish(write_bundle_files(tmp_path / "f", engine=engine)), "expected")

    def test_an_engine_that_is_none(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, refused: Refused
    ) -> None:
        (tmp_path / "junk.onnx").write_bytes(b"junk")
        refused(publish(write_bundle_files(tmp_path / "f", engine=tmp_path / "junk.onnx")), "cannot load it")

    def test_an_engine_that_answers_nan(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, write_onnx: Maker, refused: Refused
    ) -> None:
        engine = write_onnx(tmp_path / "nan.onnx", shift=float("nan"))
        refused(publish(write_bundle_files(tmp_path / "f", engine=engine)), "logits contain NaN")


class TestParity:
    @pytest.mark.parametrize("shift", [2e-3, -0.5, 30.0])
    def test_other_numbers_are_refused(
        self,
        tmp_path: Path,
        publish: Publish,
        write_bundle_files: Maker,
        tiny_engine: Path,
        shift: float,
        refused: Refused,
    ) -> None:
        directory = publish(write_bundle_files(tmp_path / "f", engine=tiny_engine, golden_shift=shift))
        refused(directory, "outputs differ from the golden ones", ParityError)

    def test_rounding_is_not(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, tiny_engine: Path
    ) -> None:
        directory = publish(write_bundle_files(tmp_path / "f", engine=tiny_engine, golden_shift=5e-4))
        load_bundle(directory, threads=1).close()

    def test_an_image_nearer_to_a_threshold_than_the_tolerance_says_nothing_against_an_engine(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, write_onnx: Maker, certificate: Maker
    ) -> None:
        """The first golden image lies just above t1, its stored score just below: so near no two machines agree."""
        rule = certificate().rule
        red, _, blue = np.random.default_rng(3).integers(0, 256, (6, 3))[0]
        shift = rule.t1 + 2e-4 - 0.04 * float(red - blue)
        engine = write_onnx(tmp_path / "close.onnx", shift=shift)
        directory = publish(write_bundle_files(tmp_path / "f", engine=engine, golden_shift=shift - 4e-4))
        load_bundle(directory, threads=1).close()

    def test_heads_are_compared_too(
        self, tmp_path: Path, publish: Publish, write_bundle_files: Maker, write_onnx: Maker, refused: Refused
    ) -> None:
        engine = write_onnx(tmp_path / "heads.onnx", heads=("head.works",))
        files = write_bundle_files(tmp_path / "f", engine=engine)
        shutil.copytree(files, tmp_path / "good")
        shutil.copytree(files, tmp_path / "bad")
        refused(publish(files), r"the engine has heads \['works'\], the golden outputs have \[\]")
        with np.load(files / GOLDEN) as golden:
            images, logits, score = golden["images"], golden["logits"], golden["select_score"]
        write_golden(tmp_path / "good" / GOLDEN, images, Stage1Outputs(logits, score, {"works": logits}))
        load_bundle(publish(tmp_path / "good"), threads=1).close()
        write_golden(tmp_path / "bad" / GOLDEN, images, Stage1Outputs(logits, score, {"works": logits + 1}))
        refused(publish(tmp_path / "bad"), "outputs differ from the golden ones by 1", ParityError)

    @pytest.mark.parametrize("kept", [0, 1, 5])
    def test_golden_outputs_of_another_number_of_images_are_refused(
        self, files: Path, publish: Publish, kept: int, refused: Refused
    ) -> None:
        with np.load(files / GOLDEN) as golden:
            images, logits, score = golden["images"], golden["logits"], golden["select_score"]
        write_golden(files / GOLDEN, images, Stage1Outputs(logits[:kept], score[:kept]))
        refused(publish(files), "golden")

    def test_a_golden_set_of_nothing_is_refused(self, files: Path, publish: Publish, refused: Refused) -> None:
        nothing = Stage1Outputs(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
        write_golden(files / GOLDEN, np.zeros((0, 3, 32, 32), np.uint8), nothing)
        refused(publish(files), "no outputs|golden")

    @pytest.mark.parametrize("damage", ["nothing", "junk", "half", "pickle", "missing array", "nan", "wrong size"])
    def test_what_is_no_golden_set_is_refused(
        self, files: Path, publish: Publish, damage: str, refused: Refused
    ) -> None:
        path = files / GOLDEN
        content = path.read_bytes()
        with np.load(path) as golden:
            arrays: dict[str, NDArray[Any]] = dict(golden)
        match damage:
            case "nothing":
                path.write_bytes(b"")
            case "junk":
                path.write_bytes(b"PK\x03\x04 junk")
            case "half":
                path.write_bytes(content[: len(content) // 2])
            case "pickle":
                buffer = io.BytesIO()
                np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
                path.write_bytes(buffer.getvalue())
            case "missing array":
                np.savez(path, images=arrays["images"], logits=arrays["logits"])
            case "nan":
                nan = np.full(6, np.nan, np.float32)
                np.savez(path, images=arrays["images"], logits=arrays["logits"], select_score=nan)
            case "wrong size":
                arrays["images"] = arrays["images"][:, :, :16]
                np.savez(path, allow_pickle=False, **arrays)
        refused(publish(files), "golden|NaN|failed on a batch")


def test_verification_alone_loads_no_engine(bundle: Path, sessions: WeakSet[ort.InferenceSession]) -> None:
    assert verify_bundle(bundle).bundle_id == bundle.name
    assert len(sessions) == 0


def test_a_live_bundle_cannot_be_changed(bundle: Path, certificate: Callable[..., ScrcParams]) -> None:
    live = load_bundle(bundle, threads=1)
    with pytest.raises(AttributeError):
        live.params = certificate()  # type: ignore[misc]
    assert isinstance(live, LiveBundle)
    live.close()


@dataclass
class Miscompiled(Watched):
    """An engine whose kernel for one batch size is wrong."""

    at: int
    asked: list[int] = field(default_factory=list)

    def infer(self, batch: NDArray[np.uint8]) -> Stage1Outputs:
        self.asked.append(len(batch))
        outputs = super().infer(batch)
        return Stage1Outputs(outputs.logits + (len(batch) == self.at), outputs.select_score)


def opened(bundle: Path) -> Engine:
    return open_engine(EngineSpec(), bundle / ENGINE, threads=1)


class TestParityAtEveryBatchSize:
    @pytest.mark.parametrize("spot", [False, True])
    @pytest.mark.parametrize("at", [1, 2, 4, 5])
    def test_a_kernel_that_is_wrong_at_one_size_is_found(self, bundle: Path, at: int, *, spot: bool) -> None:
        wrong = Miscompiled(opened(bundle), at)
        with pytest.raises(BundleRefused, match=f"at batch size {at}, outputs differ from the golden ones by 1"):
            load_checked(check_bundle(bundle), lambda: wrong, as_certified=True, most=5, spot=spot)

    def test_all_images_at_the_ends_and_a_batch_of_them_between(self, bundle: Path) -> None:
        first, second = (Miscompiled(opened(bundle), 0) for _ in range(2))
        load_checked(check_bundle(bundle), lambda: first, as_certified=True, most=4).close()
        # The golden set has six images.
        assert first.asked == [1] * 6 + [2] + [4, 2]
        load_checked(check_bundle(bundle), lambda: second, as_certified=True, most=4, spot=True).close()
        assert second.asked == [1, 2, 4]


def test_the_states_are_told_in_their_order(bundle: Path) -> None:
    told: list[State] = []
    checked = check_bundle(bundle, told.append)
    load_checked(checked, lambda: opened(bundle), as_certified=True, most=1, report=told.append).close()
    assert told == [State.VERIFYING, State.LOADING, State.WARMING, State.GATING, State.READY]


def test_a_golden_set_that_unpacks_to_gigabytes_is_not_unpacked(
    files: Path, publish: Publish, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.store.golden.MOST_OF_A_GOLDEN_SET", 1 << 20)
    with np.load(files / GOLDEN) as stored:
        arrays = dict(stored)
    arrays["images"] = np.zeros((2000, 3, 32, 32), np.uint8)
    np.savez_compressed(files / GOLDEN, **arrays)
    assert (files / GOLDEN).stat().st_size < 1 << 20
    refused(publish(files), "larger than a golden set may be")


@pytest.mark.parametrize("images", [np.zeros(6, np.uint8), np.zeros((6, 3, 32, 32), np.float32), np.uint8(1)])
def test_a_golden_set_without_images_is_none(files: Path, publish: Publish, refused: Refused, images: Any) -> None:
    with np.load(files / GOLDEN) as stored:
        arrays = dict(stored)
    np.savez_compressed(files / GOLDEN, **(arrays | {"images": images}))
    refused(publish(files), "are no images")


def test_numbers_that_no_arithmetic_bears_are_a_refusal(files: Path, publish: Publish, refused: Refused) -> None:
    content = json.loads((files / PARAMS).read_text())
    (files / PARAMS).write_text(json.dumps(content | {"prior_uses": 10**400}))
    refused(publish(files), "prior_uses")
