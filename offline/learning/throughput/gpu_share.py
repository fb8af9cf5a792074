"""A share of the GPU that a live miner uses too: asked for before training, and not exceeded by it."""

from __future__ import annotations

from pathlib import Path

from offline.errors import GpuBusy

DRIVER = Path("/dev/nvidiactl")


def take_gpu_share(share: float) -> str | None:
    """Bound the GPU memory of this process to a share, and make sure that so much is free.

    Args:
        share: of the memory of the GPU, in (0, 1].

    Returns:
        What there is, in words; None where there is no GPU, or torch uses none.

    Raises:
        GpuBusy: less is free at this moment.
    """
    if not DRIVER.exists():
        return None
    try:
        import torch  # noqa: PLC0415  a night on the CPU waits for no driver
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    wanted = round(share * total)
    numbers = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB of the GPU are free"
    if free < wanted:
        raise GpuBusy(
            f"{numbers}, and the night may take {wanted / 2**30:.1f}: wait, end what else uses it, or lower "
            "retrain.gpu_share (--gpu-share)"
        )
    torch.cuda.set_per_process_memory_fraction(share)
    return f"{numbers}, and the night takes {wanted / 2**30:.1f} at most"
