"""Which engine `auto` stands for: measured once, and kept for the machine as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engines.live.load.engine_choice import RECORD, EngineChoice, Tried, chosen, machine_key, recorded, serving_engine
from engines.machine.gpu import Gpu, NoGpu
from engines.spec import REFERENCE, EngineSpec
from tests.support.tensorrt import GPU

OPENVINO, BF16 = EngineSpec(backend="openvino"), EngineSpec(backend="openvino", precision="bf16")
CUDA = EngineSpec(backend="onnxruntime-cuda", device="cuda")
NONE = NoGpu(reason="none is plugged in")


def tried(reference: float | None = 0.1, **seconds: float) -> list[Tried]:
    specs = {"openvino": OPENVINO, "bf16": BF16, "cuda": CUDA}
    measured = [Tried(engine=specs[name], seconds=taken) for name, taken in seconds.items()]
    return [Tried(engine=REFERENCE, seconds=reference), *measured]


def record(root: Path, machine: str, engine: EngineSpec = OPENVINO) -> None:
    choice = EngineChoice(
        machine=machine, bundle="b", measured_at="2026-01-01T00:00:00+00:00", chosen=engine, tried=tuple(tried())
    )
    choice.write(root / RECORD)


def test_the_fastest_that_says_the_same_is_chosen() -> None:
    assert chosen(tried(openvino=0.05, cuda=0.01)) == CUDA
    assert chosen(tried(openvino=0.05)) == OPENVINO
    assert chosen(tried()) == REFERENCE


def test_one_that_golden_images_refuse_is_not() -> None:
    refused = Tried(engine=BF16, seconds=0.001, reason="outputs differ")
    absent = Tried(engine=CUDA, reason="there is no GPU")
    assert chosen([*tried(openvino=0.05), refused, absent]) == OPENVINO


def test_less_than_a_tenth_faster_is_noise() -> None:
    assert chosen(tried(openvino=0.095)) == REFERENCE
    assert chosen(tried(openvino=0.09)) == OPENVINO


def test_where_nothing_may_be_chosen_it_is_the_reference() -> None:
    assert chosen([Tried(engine=REFERENCE, seconds=0.1, reason="outputs differ")]) == REFERENCE
    assert chosen([]) == REFERENCE


def test_what_was_measured_here_is_found_again(tmp_path: Path) -> None:
    record(tmp_path, machine_key(NONE))
    assert recorded(tmp_path, lambda: NONE) == OPENVINO


@pytest.mark.parametrize("gpu", [GPU, GPU.model_copy(update={"driver": "13.1"})], ids=str)
def test_on_a_machine_that_has_changed_it_is_not(tmp_path: Path, gpu: Gpu) -> None:
    record(tmp_path, machine_key(NONE))
    with capture_logs() as logged:
        assert recorded(tmp_path, lambda: gpu) is None
    assert [entry["event"] for entry in logged] == ["engine_measured_elsewhere"]


def test_memory_that_is_free_at_the_moment_makes_no_other_machine() -> None:
    assert machine_key(GPU) == machine_key(GPU.model_copy(update={"free_bytes": 1}))
    assert machine_key(GPU) != machine_key(NONE)


@pytest.mark.parametrize(("content", "event"), [(None, "engine_not_measured"), ("{}", "engine_choice_unreadable")])
def test_without_a_measurement_nothing_is_chosen_and_that_is_told(
    tmp_path: Path, content: str | None, event: str
) -> None:
    if content is not None:
        (tmp_path / RECORD).write_text(content)
    with capture_logs() as logged:
        assert recorded(tmp_path, lambda: NONE) is None
    assert [entry["event"] for entry in logged] == [event]


def test_what_a_miner_was_told_is_not_looked_up(tmp_path: Path) -> None:
    assert serving_engine(None, tmp_path) is None
    assert serving_engine(CUDA, tmp_path) == CUDA
    assert serving_engine("auto", tmp_path) is None
