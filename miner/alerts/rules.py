"""What holds in a miner that a person should know of: rules over one reading of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from engines.machine.nvml.health import Fault
from miner.alerts.settings import AlertSettings
from miner.events.event import Level

# So many answers before a share or a quantile of them is told.
FEWEST = 50
# So many refusals without one answer before everybody counts as refused.
REFUSED = 20
# A disk that is waited for so long hangs.
HANGS_S = 30.0


class Condition(NamedTuple):
    """One thing that holds.

    Attributes:
        name: a word for it that does not change.
        level: how much it matters.
        text: one sentence for a person, with what to do.
    """

    name: str
    level: Level
    text: str


@dataclass(frozen=True)
class Reading:
    """A miner at one moment.

    Attributes:
        since_answer_s: since the last answer, or since the start if there is none.
        heard: there was an answer since the start.
        answered: answers in the time that is looked at.
        refused: refusals in that time.
        p99_s: of those answers, None if there are too few.
        degraded: share of them that was given without Stage-1 or Stage-2, None if there are too few.
        deferred: share of the images that Stage-1 saw which it handed on, None if there are too few.
        chain_age_s: age of what is known of the subnet.
        chain_fresh: it is no older than it should be.
        registered: whether each of our hotkeys is on the subnet.
        subnet: names of conditions of the subnet, as `emission_burned`.
        night_due: nights are on.
        since_night_s: since the last night that succeeded; if there was none, since the first that began, or since the
            start.
        nights_known: what came of the nights was read.
        free_bytes: free space by the directories of each disk, None where it cannot be told.
        hangs_s: how long each disk has been waited for, in seconds, by what it is the disk of.
        servers: state of each Stage-2 server.
        handed_on: a Stage-2 server has answered since the start.
        gpus_known: the GPUs were read.
        gpu_faults: what is wrong with the GPUs.
        affordable: share of the hand-offs that Stage-2's budget can pay for; None without one.
    """

    since_answer_s: float
    heard: bool = True
    answered: int = 0
    refused: int = 0
    p99_s: float | None = None
    degraded: float | None = None
    deferred: float | None = None
    chain_age_s: float = 0.0
    chain_fresh: bool = True
    registered: Mapping[str, bool] = field(default_factory=dict)
    subnet: tuple[str, ...] = ()
    night_due: bool = False
    since_night_s: float = 0.0
    nights_known: bool = True
    free_bytes: Mapping[str, int | None] = field(default_factory=dict)
    hangs_s: Mapping[str, float] = field(default_factory=dict)
    servers: Mapping[str, str] = field(default_factory=dict)
    handed_on: bool = True
    gpus_known: bool = True
    gpu_faults: tuple[Fault, ...] = ()
    affordable: float | None = None


def conditions(reading: Reading, settings: AlertSettings) -> list[Condition]:
    """Everything that holds."""
    return [*_traffic(reading, settings), *_chain(reading), *_house(reading, settings)]


def undecided(name: str, reading: Reading, settings: AlertSettings) -> bool:
    """Whether a reading says nothing of a condition that held before: it is neither gone nor there.

    After a start, and while nobody asks, nothing is known of the answers; and of a disk that hangs, nothing at all.

    Args:
        name: of the condition, which is not among those that hold.
        reading: of the miner.
        settings: of the rules.
    """
    kind, few = name.partition(" ")[0], reading.answered < FEWEST
    return {
        "silent": not reading.heard,
        "all_refused": not reading.answered,
        "slow": few,
        "degraded": few,
        "deferral_rate": settings.deferral_band is not None and reading.deferred is None,
        "night_overdue": reading.night_due and not reading.nights_known,
        "disk": name not in reading.free_bytes and None in reading.free_bytes.values(),
        "stage2_away": bool(reading.servers) and not reading.handed_on,
        "gpu_fault": not reading.gpus_known,
    }.get(kind, False)


def _traffic(reading: Reading, settings: AlertSettings) -> Iterator[Condition]:
    if reading.since_answer_s >= settings.silent_h * 3600:
        yield Condition(
            "silent",
            "warning",
            f"Nobody has got an answer for {_time(reading.since_answer_s)}. Run cascade doctor, which says whether "
            "validators ask.",
        )
    if not reading.answered and reading.refused >= REFUSED:
        yield Condition(
            "all_refused",
            "alarm",
            f"All {reading.refused} requests of the last minutes were refused. /status counts them by reason; a clock "
            "that is wrong is the usual one.",
        )
    if reading.p99_s is not None and reading.p99_s > settings.slow_s:
        yield Condition(
            "slow",
            "alarm",
            f"One answer in a hundred takes longer than {reading.p99_s:.1f} s, and validators leave after 9. Look at "
            "what else uses the machine.",
        )
    if reading.degraded is not None and reading.degraded > settings.degraded_share:
        yield Condition(
            "degraded",
            "warning",
            f"{reading.degraded:.0%} of the answers are given without Stage-1 or Stage-2. The log says why.",
        )
    band, share = settings.deferral_band, reading.deferred
    if band is not None and share is not None and not band[0] <= share <= band[1]:
        yield Condition(
            "deferral_rate",
            "warning",
            f"{share:.0%} of the images are handed on to Stage-2; {band[0]:.0%} to {band[1]:.0%} are usual. The "
            "traffic or the model has changed.",
        )


def _time(seconds: float) -> str:
    minutes = seconds / 60
    if minutes >= 120:
        return f"{minutes / 60:.1f} hours"
    return "a minute" if round(minutes) == 1 else f"{minutes:.0f} minutes"


def _chain(reading: Reading) -> Iterator[Condition]:
    if not reading.chain_fresh:
        yield Condition(
            "chain_stale",
            "warning",
            f"The chain was last read {_time(reading.chain_age_s)} ago. Validators that are new are refused "
            "until it can be read again.",
        )
    for hotkey, here in reading.registered.items():
        if not here:
            yield Condition(
                f"deregistered {hotkey}",
                "alarm",
                f"The hotkey {hotkey} is not on the subnet. Register it again, or take it out of the settings.",
            )
    told = {
        "emission_burned": "Emission is burned: mining earns nothing at present. Ask the owner of the subnet.",
        "no_incentive": "No miner has any incentive: mining earns nothing at present.",
        "no_validator_admitted": "No validator may ask: lower access.min_stake, or check chain.netuid.",
    }
    for name in reading.subnet:
        yield Condition(name, "warning", told.get(name, f"The subnet is in the state {name}."))


def _house(reading: Reading, settings: AlertSettings) -> Iterator[Condition]:
    since = reading.since_night_s
    if reading.night_due and since >= settings.night_h * 3600:
        yield Condition(
            "night_overdue",
            "warning",
            f"No night has succeeded for {since / 3600:.0f} hours. /status says what came of the last ones.",
        )
    for directory, free in reading.free_bytes.items():
        if free is None:
            yield Condition(
                f"disk {directory}",
                "alarm",
                f"{directory} cannot be read. Nights and swaps need it: see whether the disk is there.",
            )
        elif free < settings.free_gib * 2**30:
            yield Condition(
                f"disk {directory}",
                "alarm",
                f"{free / 2**30:.1f} GiB are free on the disk of {directory}. Nights and swaps need more.",
            )
    for name, seconds in reading.hangs_s.items():
        if seconds >= HANGS_S:
            yield Condition(
                f"disk_hangs {name}",
                "alarm",
                f"The disk of the {name} has not answered for {_time(seconds)}. Requests are answered meanwhile, but "
                "what belongs there is not read or written: see whether the disk is there, or full.",
            )
    if reading.servers and not any(state != "open" for state in reading.servers.values()):
        yield Condition(
            "stage2_away",
            "warning",
            f"No Stage-2 server answers ({', '.join(reading.servers)}), so Stage-1 is alone. See cascade stage2 check.",
        )
    if reading.affordable is not None and reading.affordable < settings.budget_share:
        yield Condition(
            "budget_low",
            "warning",
            f"The budget of Stage-2 pays for {reading.affordable:.0%} of the images that would be handed on; Stage-1 "
            "answers the others. Raise stage2.budget, or see in /status what asks so much.",
        )
    for fault in reading.gpu_faults:
        which = "" if fault.gpu is None else f" {fault.gpu}"
        yield Condition(
            f"gpu_fault{which} {fault.kind}",
            fault.level,
            f"{_sentence(fault.text)} {_sentence(fault.todo)}",
        )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
