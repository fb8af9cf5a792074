"""What a bundle must reach whether or not there is a champion."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from engines.live.load.load_bundle import LiveBundle
from engines.store.file_names import ENGINE_PREFIXES
from offline.publish.comparison import Judged
from offline.publish.settings import GateSettings
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import Evidence, ScrcParams
from stage1.certificate.risks import conditions
from stage1.certificate.statistics.binomial import lower_bound
from stage1.certificate.statistics.percent import at_least, at_most
from stage1.policy import ScrcPolicy
from stage1.preprocess import Pixels

# How sure it must be that a certificate is wrong before the test rows refuse it.
DISPROVED = 0.01
TIMED = 20
MIB = 2**20


def disproved(judged: Judged) -> list[str]:
    """Claims of a certificate that the test rows speak against, in the units of the certificate.

    The lower bound holds with 99 % confidence, so a certificate that is true is refused in one of a hundred nights.
    """
    found = []
    for claim, lost, trials in counted_claims(judged.params, judged.rows):
        least = lower_bound(lost, trials, DISPROVED)
        if least > claim.bound:
            found.append(
                f"{claim.risk} is certified to be at most {at_most(claim.bound)}, but on the test rows it is {lost} of "
                f"{trials}, with 99% confidence at least {at_least(least)}"
            )
    return found


def counted_claims(params: ScrcParams, rows: LabelledOutputs) -> Iterator[tuple[Evidence, int, int]]:
    """Each bound on a risk of all rows that a certificate has, with the losses and trials that some rows have.

    Args:
        params: the certificate.
        rows: what its engine says of them.
    """
    if params.rule is None:
        return
    units = rows.units(params.unit, params.seed)
    decisions = ScrcPolicy(params).decide(rows.outputs)
    for claim in params.evidence:
        if claim.risk is not None and not claim.subgroup:
            yield claim, *units.count(*conditions(claim.risk, rows.labels, decisions, params.rule.gate(rows.outputs)))


def below_the_bars(bundle: LiveBundle, judged: Judged, latency_ms: float, settings: GateSettings) -> list[str]:
    """What a bundle must reach whether or not there is a champion."""
    found = []
    if judged.mcc < settings.least_mcc:
        found.append(
            f"its Stage-1 has a Matthews correlation of {judged.mcc:.3f} on the test rows, the bar is "
            f"{settings.least_mcc:g}"
        )
    if settings.latency_ms is not None and latency_ms > settings.latency_ms:
        found.append(f"one image takes {latency_ms:.1f} ms here, the limit is {settings.latency_ms:g}")
    mib = sum(entry.size for name, entry in bundle.manifest.files.items() if name.startswith(ENGINE_PREFIXES)) / MIB
    if settings.memory_mib is not None and mib > settings.memory_mib:
        found.append(f"its engine has {mib:.0f} MiB, the limit is {settings.memory_mib:g}")
    return found


def median_latency_ms(bundle: LiveBundle, images: Pixels, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of one golden image on this machine.

    Args:
        bundle: loaded, and warmed up by that.
        images: uint8 `(N, 3, H, W)`.
        clock: seconds.
    """
    taken = []
    for number in range(TIMED):
        one = images[number % len(images) :][:1]
        begun = clock()
        bundle.engine.infer(one)
        taken.append(clock() - begun)
    return 1000 * statistics.median(taken)
