"""Anybody with the rows computes a certificate again, and nothing that was changed about it goes unnoticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engines.backends.onnxruntime import OnnxEngine
from engines.errors import BundleRefused
from engines.store.bundle import Provenance
from engines.store.file_names import CALIBRATION
from engines.store.store import Store
from miner.cli.engines.audit import audited
from offline.certify.audit import Audit, audit
from offline.certify.calibration_record import write_record
from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.data.sources.source import read_dataset
from offline.pipeline.progress import Silence
from offline.pipeline.run_files import FOLD_OUTPUTS
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from stage1.artifacts import sha256_file
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.settings import CalibrationSettings
from stage1.preprocess import PreprocessSettings

SELECT, CALIB = 240, 300
SETTINGS = CalibrationSettings(alpha=0.05, spending="single_use", grid_size=60, gate_size=4)
PREPROCESS = PreprocessSettings(size_px=32)
Files = Callable[..., Path]
Sets = dict[str, LabelledOutputs]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pictures, red ones with roadwork, with as much of the other colour that the engine misses a few."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    lines = ["image,label,group"]
    for number in range(SELECT + CALIB):
        label = number % 2
        ahead = int(np.clip(rng.normal(70, 40), -60, 180)) * (1 if label else -1)
        red = 110 + ahead // 2
        picture = Image.new("RGB", (32, 32), (red, int(rng.integers(100, 256)), red - ahead))
        # So that no file is a copy of another.
        told = PngInfo()
        told.add_text("Comment", str(number))
        picture.save(root / f"{number}.png", pnginfo=told)
        lines.append(f"{number}.png,{label},place {number // 2}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def sets(data: Path, tiny_engine: Path) -> Sets:
    rows, engine = read_dataset(data), OnnxEngine(tiny_engine, threads=1)
    parts = {"val_select": rows.ids[:SELECT], "val_calib": rows.ids[SELECT:]}
    found = {name: run_engine(engine, rows.pick(ids), PREPROCESS, lambda *_: None, name) for name, ids in parts.items()}
    engine.close()
    return found


@pytest.fixture
def files(tmp_path: Path, tiny_engine: Path, write_bundle_files: Files, sets: Sets, data: Path) -> Files:
    """The files of a bundle that was certified on some rows, and says that it was on others if it lies."""

    def write(*, used: Sets = sets, said: Sets | None = None, by_content: bool = True, **params: Any) -> Path:
        context = CalibrationContext(sha256_file(tiny_engine), PREPROCESS.sha256)
        certified = calibrate(used["val_select"], used["val_calib"], SETTINGS, context)
        assert certified.status == "CERTIFIED"
        if params:
            certified = ScrcParams.model_validate(certified.model_dump() | params | {"seal": ""})
        home = tmp_path / "files"
        shutil.rmtree(home, ignore_errors=True)
        write_bundle_files(home, engine=tiny_engine, params=certified)
        RunConfig(calibrate_scrc=SETTINGS).write(home / "config.json")
        named: Any = {
            name: SplitSet(
                rows=tuple(
                    SplitRow(row=r, group=g, sha256=sha256_file(data / r) if by_content else None)
                    for r, g in zip(part.row_ids, part.groups, strict=True)
                ),
                groups=len(set(part.groups)),
                positives=int(part.labels.sum()),
            )
            for name, part in sets.items()
        }
        named |= {name: SplitSet(rows=(), groups=0, positives=0) for name in ("train", "test")}
        folds = (tuple(sets["val_calib"].row_ids),)
        Splits(seed=0, data_sha256="d", sets=named, folds=folds).write(home / "splits.json")
        write_record(home, said or used, key="night", about=(), calib_share=1.0)
        return home

    return write


@pytest.fixture
def published(store: Store, provenance: Provenance) -> Callable[[Path], Path]:
    return lambda files: store.path(store.publish(files, provenance))


def audited_here(bundle: Path, data: Path | Dataset) -> Audit:
    settings = RunConfig.read(bundle / "config.json").calibrate_scrc
    return audit(bundle, read_dataset(data) if isinstance(data, Path) else data, settings, Silence())


def changed(part: LabelledOutputs, keep: np.ndarray | None = None, **columns: Any) -> LabelledOutputs:
    part = part if keep is None else part.pick(np.flatnonzero(keep))
    return replace(part, **columns)


def missed(sets: Sets, params: ScrcParams) -> np.ndarray:
    """Roadwork of val_calib that exits as 0."""
    assert params.rule is not None
    calib = sets["val_calib"]
    found: np.ndarray = calib.positive & (params.rule.exit_labels(calib.outputs) == 0)
    assert found.any()
    return found


@pytest.fixture
def params(files: Files) -> ScrcParams:
    return ScrcParams.read(files() / "scrc_params.json")


def test_an_honest_certificate_is_equal(files: Files, published: Callable[[Path], Path], data: Path) -> None:
    found = audited_here(published(files()), data)
    assert found.equal, found.differences
    assert found.rows == SELECT + CALIB
    assert "it follows from the recorded outputs" in found.checks


def test_the_command_says_so_with_the_counts(
    files: Files, published: Callable[[Path], Path], data: Path, store: Store
) -> None:
    bundle = published(files())
    equal, text = audited(store.root, bundle.name[:6], data, Silence())
    assert equal
    assert "counted  " in text
    assert text.endswith(f"{bundle.name}: equal, {SELECT + CALIB} rows computed again")


def test_a_bundle_of_a_program_that_knew_one_gate_is_audited_by_that_gate(
    files: Files, published: Callable[[Path], Path], data: Path, sets: Sets, tiny_engine: Path
) -> None:
    asked = SETTINGS.model_copy(update={"gate": "select_score"})
    certified = calibrate(
        sets["val_select"], sets["val_calib"], asked, CalibrationContext(sha256_file(tiny_engine), PREPROCESS.sha256)
    )
    home = files()
    certified.write(home / "scrc_params.json")
    assert "gate_score" not in (home / "scrc_params.json").read_text()
    old = RunConfig(calibrate_scrc=asked).model_dump(mode="json")
    del old["calibrate_scrc"]["gate"], old["model"]["pooling"]
    old["model"]["views"] = "whole"
    (home / "config.json").write_text(json.dumps(old))
    found = audited_here(published(home), data)
    assert found.equal, found.differences


class TestRenamed:
    """A row is known by what is in its file."""

    @pytest.fixture
    def elsewhere(self, data: Path, tmp_path: Path) -> Path:
        """The same pictures, each in another directory and with its number turned round."""
        home = tmp_path / "elsewhere"
        (home / "pictures").mkdir(parents=True)
        header, *lines = (data / "labels.csv").read_text().splitlines()
        rows = [line.split(",") for line in lines]
        for (name, *_), (other, *_) in zip(rows, reversed(rows), strict=True):
            shutil.copyfile(data / name, home / "pictures" / other)
        moved = [
            f"pictures/{other},{label},{group}"
            for (_, label, group), (other, *_) in zip(rows, reversed(rows), strict=True)
        ]
        (home / "labels.csv").write_text("\n".join([header, *moved]) + "\n")
        return home

    def test_a_directory_that_was_renamed_is_audited(
        self, files: Files, published: Callable[[Path], Path], elsewhere: Path
    ) -> None:
        found = audited_here(published(files()), elsewhere)
        assert found.equal, found.differences
        assert found.rows == SELECT + CALIB
        assert found.renamed["0.png"] == f"pictures/{SELECT + CALIB - 1}.png"
        assert len(found.renamed) == SELECT + CALIB

    def test_files_that_changed_their_names_with_each_other_are_told_apart(
        self, files: Files, published: Callable[[Path], Path], data: Path, tmp_path: Path
    ) -> None:
        copy = shutil.copytree(data, tmp_path / "copy")
        shutil.copyfile(data / "0.png", copy / "2.png")
        shutil.copyfile(data / "2.png", copy / "0.png")
        labels = (copy / "labels.csv").read_text()
        swapped = labels.replace("0.png,0,place 0\n", "0.png,0,place 1\n", 1).replace(
            "2.png,0,place 1", "2.png,0,place 0"
        )
        (copy / "labels.csv").write_text(swapped)
        found = audited_here(published(files()), copy)
        assert found.equal, found.differences
        assert found.renamed == {"0.png": "2.png", "2.png": "0.png"}

    def test_what_is_sent_is_drawn_from_the_name_that_a_row_had(
        self, files: Files, published: Callable[[Path], Path], elsewhere: Path
    ) -> None:
        asked: set[str] = set()

        def sender(name: str, content: bytes, settings: PreprocessSettings) -> bytes:
            assert settings == PREPROCESS
            asked.add(name)
            return content

        audited_here(published(files()), read_dataset(elsewhere).sent_by(sender))
        assert asked == {f"{number}.png" for number in range(SELECT + CALIB)}

    def test_the_command_says_which(
        self, files: Files, published: Callable[[Path], Path], data: Path, tmp_path: Path, store: Store
    ) -> None:
        copy = shutil.copytree(data, tmp_path / "copy")
        (copy / "0.png").rename(copy / "first.png")
        labels = (copy / "labels.csv").read_text()
        (copy / "labels.csv").write_text(labels.replace("\n0.png", "\nfirst.png"))
        bundle = published(files())
        equal, text = audited(store.root, bundle.name, copy, Silence())
        assert equal
        assert "note     1 rows were found by what is in their files, under other names:" in text
        assert "note     0.png is first.png here" in text

    def test_a_bundle_that_noted_no_content_finds_rows_by_their_paths(
        self, files: Files, published: Callable[[Path], Path], data: Path, elsewhere: Path
    ) -> None:
        bundle = published(files(by_content=False))
        assert audited_here(bundle, data).equal
        found = audited_here(bundle, elsewhere)
        assert "every row is here, with its label: '0.png' is not here" in found.differences


class TestTampered:
    def test_a_label_that_was_another_one(
        self, files: Files, published: Callable[[Path], Path], data: Path, sets: Sets, params: ScrcParams
    ) -> None:
        """A miss was labelled 0 before calibration: everything fits together, but not with the labels at hand."""
        hidden = np.where(missed(sets, params), 0, sets["val_calib"].labels).astype(np.int8)
        lie = sets | {"val_calib": changed(sets["val_calib"], labels=hidden)}
        found = audited_here(published(files(used=lie)), data)
        assert any("is labelled 1 here, and was 0" in line for line in found.differences)

    def test_rows_that_were_left_out(
        self, files: Files, published: Callable[[Path], Path], data: Path, sets: Sets, params: ScrcParams
    ) -> None:
        lie = sets | {"val_calib": changed(sets["val_calib"], ~missed(sets, params))}
        found = audited_here(published(files(used=lie)), data)
        assert any("of val_calib is left out" in line for line in found.differences)

    def test_groups_that_were_torn_apart(
        self, files: Files, published: Callable[[Path], Path], data: Path, sets: Sets
    ) -> None:
        """Every picture a group of its own: twice as much evidence."""
        lie = sets | {"val_calib": changed(sets["val_calib"], groups=sets["val_calib"].row_ids)}
        found = audited_here(published(files(used=lie)), data)
        assert any("are one group here ('place" in line for line in found.differences)

    def test_outputs_that_the_engine_does_not_give(
        self, files: Files, published: Callable[[Path], Path], data: Path, sets: Sets, params: ScrcParams
    ) -> None:
        logits = sets["val_calib"].outputs.logits.copy()
        logits[missed(sets, params), 1] += 20
        outputs = type(sets["val_calib"].outputs)(logits, sets["val_calib"].outputs.select_score)
        lie = sets | {"val_calib": changed(sets["val_calib"], outputs=outputs)}
        found = audited_here(published(files(used=lie)), data)
        assert any("the engine says of val_calib what was recorded: " in line for line in found.differences)

    def test_a_record_of_other_rows_than_were_used(
        self, files: Files, published: Callable[[Path], Path], data: Path, sets: Sets, params: ScrcParams
    ) -> None:
        lie = sets | {"val_calib": changed(sets["val_calib"], ~missed(sets, params))}
        found = audited_here(published(files(used=lie, said=sets)), data)
        assert "the certificate names these rows: val_calib has other rows than it is bound to" in found.differences
        assert any(line.startswith("it follows from the recorded outputs") for line in found.differences)

    def test_a_looser_threshold(
        self, files: Files, published: Callable[[Path], Path], data: Path, params: ScrcParams
    ) -> None:
        """Sealed anew, with counts that fit a walk of one step more."""
        assert params.rule is not None
        chain = params.chains[0]
        rule = params.rule.model_copy(update={"t0": chain.grid[chain.tested - 1]})
        longer = chain.model_copy(update={"tested": chain.tested + 1})
        found = audited_here(published(files(rule=rule.model_dump(), chains=(longer.model_dump(),))), data)
        assert any("rule is " in line for line in found.differences)

    def test_a_statement_that_says_more(self, files: Files, published: Callable[[Path], Path], data: Path) -> None:
        bold = "With 99.99% confidence no roadwork is ever missed, anywhere, under any drift."
        found = audited_here(published(files(statement=bold)), data)
        assert any("the statement is 'With 99.99% confidence no roadwork" in line for line in found.differences)

    def test_groups_that_are_said_to_be_of_an_earlier_look_are_counted(
        self, files: Files, published: Callable[[Path], Path], data: Path, sets: Sets, params: ScrcParams
    ) -> None:
        """Whoever claims an earlier look may leave groups out: the audit says how many, and with how much roadwork."""
        calib = sets["val_calib"]
        lost = {calib.groups[place] for place in np.flatnonzero(missed(sets, params)).tolist()}
        keep = np.array([group not in lost for group in calib.groups])
        lie = sets | {"val_calib": changed(calib, keep)}
        bundle = published(files(used=lie, prior_uses=1))
        found = audited_here(bundle, data)
        assert (found.left_out, found.left_out_roadwork) == (int((~keep).sum()), int((~keep & calib.positive).sum()))
        _, text = audited(bundle.parents[1], bundle.name, data, Silence())
        assert "on the rows that it names" in text
        assert f"note     {found.left_out} rows of val_calib, {found.left_out_roadwork} with roadwork" in text

    def test_another_level(self, files: Files, published: Callable[[Path], Path], data: Path) -> None:
        home = files()
        config = RunConfig(calibrate_scrc=SETTINGS.model_copy(update={"alpha": 0.04}))
        config.write(home / "config.json")
        found = audited_here(published(home), data)
        assert any("alpha is 0.05, and 0.04 when it is computed again" in line for line in found.differences)

    def test_another_gate(self, files: Files, published: Callable[[Path], Path], data: Path, sets: Sets) -> None:
        home = files()
        binding = ScrcParams.read(home / "scrc_params.json").binding
        context = CalibrationContext(binding.engine_sha256, binding.preprocess_sha256)
        asked = SETTINGS.model_copy(update={"gate": "select_score"})
        calibrate(sets["val_select"], sets["val_calib"], asked, context).write(home / "scrc_params.json")
        found = audited_here(published(home), data)
        assert any("gate_score is select_score, and margin when" in line for line in found.differences)

    def test_counts_that_were_not_counted(
        self, files: Files, published: Callable[[Path], Path], data: Path, params: ScrcParams
    ) -> None:
        rates = {str(risk): rate.model_dump() for risk, rate in params.risks.items()}
        other = type(params.risks[Risk.MISS_ALL]).count(0, 150, params.bound_delta)
        found = audited_here(published(files(risks=rates | {"D1": other.model_dump()})), data)
        assert any("risks is " in line for line in found.differences)

    def test_the_last_bits_of_another_scipy_are_no_difference(
        self, files: Files, published: Callable[[Path], Path], data: Path, params: ScrcParams
    ) -> None:
        rates = {str(risk): rate.model_dump() for risk, rate in params.risks.items()}
        rates["D1"]["upper"] *= 1 - 4e-15
        assert audited_here(published(files(risks=rates)), data).equal

    def test_another_picture_under_the_same_name(
        self, files: Files, published: Callable[[Path], Path], data: Path, tmp_path: Path
    ) -> None:
        copy = shutil.copytree(data, tmp_path / "copy")
        Image.new("RGB", (32, 32), (250, 200, 10)).save(copy / f"{SELECT}.png")
        found = audited_here(published(files()), copy)
        (line,) = found.differences
        assert line.startswith(f"the engine says of val_calib what was recorded: '{SELECT}.png' differs by ")

    def test_a_row_that_is_gone(
        self, files: Files, published: Callable[[Path], Path], data: Path, tmp_path: Path
    ) -> None:
        copy = shutil.copytree(data, tmp_path / "copy")
        lines = (copy / "labels.csv").read_text().splitlines()
        (copy / "labels.csv").write_text("\n".join(lines[:-1]) + "\n")
        found = audited_here(published(files()), copy)
        assert found.differences == [f"every row is here, with its label: '{SELECT + CALIB - 1}.png' is not here"]

    def test_an_engine_that_was_not_calibrated_is_not_even_loaded(
        self, files: Files, published: Callable[[Path], Path], data: Path, write_onnx: Files, tmp_path: Path
    ) -> None:
        home = files()
        shutil.copyfile(write_onnx(tmp_path / "other.onnx", shift=1.0), home / "model.onnx")
        with pytest.raises(BundleRefused, match="the certificate is for engine"):
            audited_here(published(home), data)

    @pytest.mark.parametrize("name", [CALIBRATION, FOLD_OUTPUTS, "scrc_params.json"])
    def test_a_file_that_was_changed_in_the_store(
        self, files: Files, published: Callable[[Path], Path], data: Path, name: str
    ) -> None:
        bundle = published(files())
        (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")
        with pytest.raises(BundleRefused, match=f"{name} is changed"):
            audited_here(bundle, data)

    def test_a_bundle_that_does_not_say_what_it_was_computed_from(
        self, files: Files, published: Callable[[Path], Path], data: Path
    ) -> None:
        home = files()
        (home / CALIBRATION).unlink()
        with pytest.raises(BundleRefused, match="does not say what its certificate was computed from"):
            audited_here(published(home), data)

    def test_the_record_is_readable_by_anybody(self, files: Files) -> None:
        record = json.loads((files() / CALIBRATION).read_text())
        assert record["val_calib"][0] == {
            "row": f"{SELECT}.png",
            "label": 0,
            "group": f"place {SELECT // 2}",
            "about": {},
        }
