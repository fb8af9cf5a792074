"""Metrics of the GPUs; nothing where none is watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from engines.machine.nvml.health import GpuHealth, GpuState, faults

GAUGES: dict[str, tuple[Callable[[GpuState], float | None], str]] = {
    "cascade_gpu_temperature_celsius": (lambda gpu: gpu.temperature_c, "Temperature of the GPU."),
    "cascade_gpu_memory_used_bytes": (lambda gpu: gpu.memory_used_bytes, "Memory of the GPU that is taken."),
    "cascade_gpu_memory_bytes": (lambda gpu: gpu.memory_total_bytes, "Memory that the GPU has."),
    "cascade_gpu_utilisation_ratio": (lambda gpu: gpu.utilisation, "Share of the time in which it computed."),
    "cascade_gpu_power_watts": (lambda gpu: gpu.power_w, "Power that it draws."),
    "cascade_gpu_ecc_corrected": (
        lambda gpu: gpu.ecc_corrected,
        "Corrected memory errors since the driver was loaded.",
    ),
    "cascade_gpu_ecc_uncorrected": (
        lambda gpu: gpu.ecc_uncorrected,
        "Memory errors since the driver was loaded that could not be corrected.",
    ),
}


def gpus(health: GpuHealth | None) -> Iterator[Metric]:
    """The metrics.

    Args:
        health: the latest reading; None where nothing is watched.
    """
    known = GpuHealth() if health is None else health
    info = GaugeMetricFamily("cascade_gpu_info", "A GPU of this machine.", labels=("gpu", "model", "driver"))
    for gpu in known.gpus:
        info.add_metric((str(gpu.index), gpu.name, known.driver), 1)
    yield info
    for name, (read, says) in GAUGES.items():
        gauge = GaugeMetricFamily(name, says, labels=("gpu",))
        for gpu in known.gpus:
            if (value := read(gpu)) is not None:
                gauge.add_metric((str(gpu.index),), value)
        yield gauge
    slowed = GaugeMetricFamily("cascade_gpu_slowed", "1 for a reason why its clocks are low.", labels=("gpu", "reason"))
    for gpu in known.gpus:
        for reason in gpu.slowed_by:
            slowed.add_metric((str(gpu.index), reason), 1)
    yield slowed
    fault = GaugeMetricFamily(
        "cascade_gpu_fault",
        "1 for a fault of a GPU or its driver; `gpu` is empty for the driver, `unknown` where it does not say which.",
        labels=("gpu", "fault", "level"),
    )
    for key in Counter(("" if one.gpu is None else str(one.gpu), one.kind, one.level) for one in faults(known)):
        fault.add_metric(key, 1)
    yield fault
