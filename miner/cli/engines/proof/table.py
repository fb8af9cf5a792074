"""A proof as text, and two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence

from miner.cli.engines.proof.record import Agreement, Proof, Speed

MIB = 2**20


def shown(proof: Proof) -> str:
    """All of it, for a person."""
    lines = [f"{name:<11} {value}" for name, value in _about(proof)]
    lines += [
        "",
        f"{'batch':>5} {'largest difference':>19} {'flips':>6} {'p50 ms':>10} {'p99 ms':>10} {'images/s':>10}",
    ]
    for agreement, speed in zip(proof.agreement, proof.speed, strict=True):
        lines.append(
            f"{speed.batch:>5} {_difference(agreement):>19} {_flips(agreement):>6} {_number(speed.p50_ms)} "
            f"{_number(speed.p99_ms)} {_number(speed.images_per_s)}"
        )
    lines += [f"batch {one.batch}: {one.error}" for one in proof.agreement if one.error]
    verdict = "agrees with" if proof.agrees else "DIFFERS from"
    limits = ", ".join(f"{one:.2g}" for one in proof.limits or (proof.tolerance,))
    return "\n".join([*lines, f"the engine {verdict} the golden images, within {limits}"])


def compared(first: Proof, second: Proof) -> str:
    """Two of them: what differs of the machines, and the ratios of their times."""
    lines = [f"{'':<11} {'first':<40} second"]
    for (name, one), (_, other) in zip(_about(first), _about(second), strict=True):
        mark = " " if one == other else "*"
        lines.append(f"{name:<10}{mark} {one:<40} {other}")
    both, others = dict(first.machine.versions), second.machine.versions
    lines += [
        f"{name:<10}* {both.get(name, 'none'):<40} {others.get(name, 'none')}"
        for name in sorted(both.keys() | others.keys())
        if both.get(name) != others.get(name)
    ]
    lines += [
        "",
        f"{'batch':>5} {'difference':>22} {'flips':>9} {'p50 ms':>21} {'ratio':>6} {'p99 ms':>21} {'ratio':>6}",
    ]
    pairs = [(one, other) for one in _rows(first) for other in _rows(second) if one[1].batch == other[1].batch]
    for (agreement, speed), (their_agreement, their_speed) in pairs:
        differences = f"{_difference(agreement)} {_difference(their_agreement)}"
        flips = f"{_flips(agreement)} {_flips(their_agreement)}"
        lines.append(
            f"{speed.batch:>5} {differences:>22} {flips:>9} {_ratio(speed.p50_ms, their_speed.p50_ms)} "
            f"{_ratio(speed.p99_ms, their_speed.p99_ms)}"
        )
    if not pairs:
        lines.append("no size of batch is in both")
    verdicts = ["agrees" if one.agrees else "DIFFERS" for one in (first, second)]
    lines.append(f"the first {verdicts[0]} and the second {verdicts[1]}, each with the golden images of its bundle")
    if first.bundle != second.bundle:
        lines.append("they are proofs of different bundles")
    return "\n".join(lines)


def _about(proof: Proof) -> list[tuple[str, str]]:
    machine, memory = proof.machine, proof.memory
    card = "none"
    if machine.gpu is not None:
        gpu = machine.gpu
        card = f"{gpu.name}, {gpu.compute_capability}, CUDA {gpu.driver}, driver {machine.driver or 'unknown'}"
    held = f"{memory.before_bytes // MIB} -> {memory.loaded_bytes // MIB}, peak {memory.peak_bytes // MIB} MiB"
    on_card = "" if memory.gpu_bytes is None else f", {memory.gpu_bytes // MIB} MiB on the GPU"
    return [
        ("bundle", proof.bundle),
        ("engine", f"{proof.spec} by {proof.runtime}"),
        ("rung", proof.rung or "as asked"),
        ("image", " x ".join(map(str, proof.image))),
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("with", " ".join(machine.instructions) or "-"),
        ("GPU", card),
        ("system", f"{machine.system}, Python {machine.versions.get('python', '?')}"),
        ("loaded in", f"{proof.load_s:.2f} s"),
        ("memory", f"{held}{on_card}"),
        ("at", f"{proof.at}, program {proof.program}"),
    ]


def _rows(proof: Proof) -> Sequence[tuple[Agreement, Speed]]:
    return list(zip(proof.agreement, proof.speed, strict=True))


def _difference(agreement: Agreement) -> str:
    return "no numbers" if agreement.worst is None else f"{agreement.worst:.1e}"


def _flips(agreement: Agreement) -> str:
    return "-" if agreement.flips is None else f"{agreement.flips}/{agreement.images}"


def _number(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:>10.2f}"


def _ratio(one: float | None, other: float | None) -> str:
    ratio = f"{'-':>6}" if one is None or other is None else f"{other / one:>6.2f}"
    return f"{_number(one)} {_number(other)} {ratio}"
