"""A graph reads its weights from itself or from the one file that the certificate covers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from engines.errors import BundleRefused
from engines.live.load.load_bundle import load_bundle
from engines.store.bundle import Provenance
from engines.store.external_data import check_external_data
from engines.store.store import Store


def with_weights_in(graph: Path, target: Path, location: str) -> Path:
    onnx.save_model(
        onnx.load(graph),
        target,
        save_as_external_data=True,
        location=location,
        size_threshold=0,
        all_tensors_to_one_file=True,
    )
    return target


def test_weights_in_the_graph_or_beside_it_are_covered(tiny_engine: Path, tmp_path: Path) -> None:
    check_external_data(tiny_engine)
    check_external_data(with_weights_in(tiny_engine, tmp_path / "model.onnx", "model.onnx.data"))


@pytest.mark.parametrize("location", ["weights.bin", "model.onnx.data2", "report.html", "a" * 200])
def test_any_other_file_is_refused(tiny_engine: Path, tmp_path: Path, location: str) -> None:
    graph = with_weights_in(tiny_engine, tmp_path / "model.onnx", location)
    with pytest.raises(BundleRefused, match=f"model.onnx reads weights from '{location}'"):
        check_external_data(graph)


@pytest.mark.parametrize(
    "entry",
    [
        b"\n\x08location\n..",
        b"\n\x08location\x12\x0fmodel.onnx.data\x12\x0fmodel.evil.data",
        b"\n\x88\x00location\x12\x0fmodel.evil.data",
        b"\x8a\x00\x08location\x12\x0fmodel.evil.data",
        b"\x8a\x80\x00\x88\x80\x00location\x12\x0fmodel.evil.data",
    ],
)
def test_a_name_that_is_spelled_otherwise_is_refused(tmp_path: Path, entry: bytes) -> None:
    """Protobuf reads it, and of two values it takes the last."""
    (tmp_path / "model.onnx").write_bytes(b".." + entry + b"..")
    with pytest.raises(BundleRefused, match="reads weights from '\\?'"):
        check_external_data(tmp_path / "model.onnx")


def test_an_empty_file_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    check_external_data(tmp_path / "model.onnx")


def test_a_bundle_whose_graph_reads_another_file_is_not_served(
    tmp_path: Path,
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    store: Store,
    provenance: Provenance,
) -> None:
    graph = with_weights_in(tiny_engine, tmp_path / "other.onnx", "weights.bin")
    files = write_bundle_files(tmp_path / "files", engine=graph)
    (tmp_path / "weights.bin").rename(files / "weights.bin")
    bundle = store.path(store.publish(files, provenance))
    with pytest.raises(BundleRefused, match="which its certificate does not cover"):
        load_bundle(bundle, threads=1)
