"""`cascade doctor`: what a miner needs, checked one by one, and whether validators are asking."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from engines.errors import EngineError
from engines.live.load.load_bundle import load_bundle
from engines.machine.clock import utc_now
from engines.store.bundle import Manifest
from engines.store.file_names import MANIFEST
from engines.store.model_card import DAY_S, FULL_REWARD_DAYS, age_days
from engines.store.store import Store
from miner.answering.journal import latest_record
from miner.axon.server import bind
from miner.axon.wires.open_wire import open_wire
from miner.chain.adapter import open_chain
from miner.chain.conditions import incentive_of
from miner.chain.port import ChainSnapshot
from miner.chain.settings import AUTO, ChainSettings, endpoint_name
from miner.errors import MinerError, NotRegistered, ServerError, StartError, StateInUse
from miner.identities import wallets
from miner.live_risk.live_risk import DIRECTORY
from miner.live_risk.summary import SUMMARY, Summary
from miner.nights.job import NightlyJob
from miner.nights.record import OUTPUT, Nights
from miner.settings import MinerSettings
from miner.start_checks import held_state, out_of_reach, published_ip
from offline.config import load_config
from offline.data.inventory import inventory_of
from offline.data.sources.source import read_dataset
from offline.settings_and_data import check_settings_on_data
from stage1.errors import CascadeError, SettingsError, Stage1Error
from stage1.settings import dotted
from stage2_bridge.calibration.live import Calibrations, CalibrationStatus
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.inspection import inspected

SILENT_AFTER_H = 6.0
NIGHTS_TOLD = 3
ASK_S, MOST_BYTES = 10.0, 2**20
RENEWED_BEFORE_DAYS = 10.0

Health = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: what was looked at.
        verdict: how it is.
        detail: what was found, and what to do.
    """

    check: str
    verdict: Health
    detail: str

    @property
    def failed(self) -> bool:
        """The miner cannot work like this."""
        return self.verdict == "failed"


async def examine(settings: MinerSettings) -> list[Finding]:
    """All checks; each stands alone."""
    chain = await _chain(settings)
    now = utc_now()
    return [
        _bundle(settings),
        *model_age(settings, now),
        *await stage2(settings),
        *_wallet(settings),
        *await asyncio.to_thread(where, settings),
        endpoint(settings),
        wire(settings),
        *chain,
        traffic(settings, now),
        *live_risk(settings, now),
        *await night(settings),
        *nights(settings),
        *data(settings, now),
    ]


def rendered(findings: list[Finding]) -> str:
    """A line for each finding."""
    width = max(len(finding.check) for finding in findings)
    return "\n".join(f"{f.verdict:<8} {f.check:<{width}}  {f.detail}" for f in findings)


def _bundle(settings: MinerSettings) -> Finding:
    store = Store(settings.store)
    try:
        pointer = store.current()
        if pointer is None:
            return Finding("bundle", "failed", f"{settings.store}: none is current; run `cascade retrain`")
        bundle = load_bundle(store.path(pointer.bundle), most=settings.engine.batch.max_batch)
    except (EngineError, Stage1Error) as error:
        return Finding("bundle", "failed", str(error))
    params = bundle.params
    bundle.close()
    if params.status == "INFEASIBLE":
        return Finding("bundle", "warning", f"{pointer.bundle}: nothing certified, everything goes to Stage-2")
    told = f"{params.status} for stream {params.stream}, loads and reproduces its golden outputs"
    return Finding("bundle", "ok", f"{pointer.bundle}: {told}")


def model_age(settings: MinerSettings, now: datetime) -> list[Finding]:
    """How old the live model is, which decides what NATIX pays for it; nothing where none is live."""
    store = Store(settings.store)
    try:
        pointer = store.current()
        manifest = None if pointer is None else Manifest.read(store.path(pointer.bundle) / MANIFEST)
    except (EngineError, Stage1Error):
        return []
    if manifest is None:
        return []
    days = age_days(store.root, manifest, now)
    if days is None:
        told = f"{manifest.bundle_id}: not known; `cascade engines card` makes a new model card"
        return [Finding("model age", "warning", told)]
    left = FULL_REWARD_DAYS - days
    told = f"{manifest.bundle_id}: {days:.1f} days; a model is paid in full for {FULL_REWARD_DAYS:.0f}"
    if left >= RENEWED_BEFORE_DAYS:
        return [Finding("model age", "ok", told)]
    todo = "publish a new one, submit it and register it with `cascade register-natix`"
    return [Finding("model age", "warning", f"{told}, which {'are over' if left < 0 else 'end soon'}: {todo}")]


def data(settings: MinerSettings, now: datetime) -> list[Finding]:
    """What the nightly job would read, and whether its settings fit; nothing where no data are named."""
    retrain = settings.retrain
    if retrain.data is None:
        return []
    try:
        config = load_config(retrain.preset, retrain.config, dotted(settings.night))
        rows = read_dataset(retrain.data)
        check_settings_on_data(config, rows, now)
    except CascadeError as error:
        return [Finding("data", "failed", str(error))]
    places = config.splits.gps_cell_m is not None
    return [Finding("data", "ok", str(inventory_of(rows, config.splits.sequence_columns, places=places)))]


def _wallet(settings: MinerSettings) -> list[Finding]:
    try:
        return [Finding("hotkey", "ok", address) for address in wallets(settings)]
    except MinerError as error:
        return [Finding("hotkey", "failed", str(error))]


async def night(settings: MinerSettings) -> list[Finding]:
    """Whether the settings of the nightly job fit, as a start asks; nothing where there are none."""
    retrain = settings.retrain
    if retrain.data is None and not settings.night:
        return []
    job = NightlyJob(retrain, night=settings.night, store=settings.store, state=settings.state, now=utc_now)
    try:
        await job.check()
    except CascadeError as error:
        return [Finding("night", "failed", str(error))]
    return [Finding("night", "ok", "its settings fit")]


def nights(settings: MinerSettings) -> list[Finding]:
    """What came of the last nights, each with its verdict or its reason; nothing where there were none."""
    kept = Nights(settings.state)
    last = kept.latest(NIGHTS_TOLD)[::-1]
    if not last:
        return []
    failures = kept.failures_in_a_row()
    told = "; ".join(f"{night.record.started_at:%Y-%m-%d %H:%M} {night.in_words}" for night in last)
    if failures:
        lines = f"see {last[0].home / OUTPUT}"
        counted = "the last one failed" if failures == 1 else f"{failures} in a row have failed"
        return [Finding("nights", "warning", f"{counted}: {told}; {lines}")]
    return [Finding("nights", "ok", told)]


def where(settings: MinerSettings) -> list[Finding]:
    """The state directory and the ports: free for a miner, or taken by one, which says whether it is ready."""
    try:
        with held_state(settings.state, wait_s=0):
            return [Finding("state", "ok", f"{settings.state}: can be written; no miner uses it"), *_free(settings)]
    except StateInUse:
        return [Finding("state", "ok", f"{settings.state}: a miner uses it"), *_running(settings)]
    except StartError as error:
        return [Finding("state", "failed", str(error)), *_free(settings)]


def _free(settings: MinerSettings) -> list[Finding]:
    """Whether a miner could listen: all ports are taken at once, as it would."""
    wanted = [("port", served.axon.host, served.axon.port, "axon") for served in settings.served]
    if settings.admin.port is not None:
        wanted.append(("admin", "127.0.0.1", settings.admin.port, "admin"))
    found = []
    with ExitStack() as stack:
        for check, host, port, name in wanted:
            try:
                stack.enter_context(bind(host, port, name))
                found.append(Finding(check, "ok", f"{port}: free"))
            except ServerError as error:
                found.append(Finding(check, "failed", str(error)))
    return found


def _running(settings: MinerSettings) -> list[Finding]:
    """What the miner that has the state directory says of itself, or at least whether something listens."""
    wanted, admin = [served.axon.port for served in settings.served if served.axon.port], settings.admin.port
    told = readiness(admin) if admin else None
    if told is None:
        found = []
        for port in wanted:
            listens = _listens(port)
            says = "and something listens on the port" if listens else "but nothing listens on the port yet"
            found.append(Finding("port", "ok" if listens else "warning", f"{port}: a miner runs, {says}"))
        if admin:
            says = "that is no miner listens there" if _listens(admin) else "nothing listens there"
            detail = f"{admin}: {says}; the miner starts still, or was started with another admin.port"
            found.append(Finding("ready", "warning", detail))
        return found
    if told["state"] != str(settings.state.resolve()):
        return [Finding("admin", "failed", f"{admin}: taken by another miner, that of {told['state']}")]
    ports = sorted(told["ports"].values())
    if missing := sorted(set(wanted) - set(ports)):
        listens_on = f"the miner listens on {', '.join(map(str, ports))}"
        detail = f"{', '.join(map(str, missing))}: {listens_on}; restart it to use these settings"
        listening = Finding("port", "warning", detail)
    else:
        listening = Finding("port", "ok", f"{', '.join(map(str, ports))}: the miner's")
    lacks = [f"{each['name']}: {each['detail']}" for each in told["conditions"] if not each["holds"]]
    ready = Finding("ready", "failed", "; ".join(lacks)) if lacks else Finding("ready", "ok", "it says so itself")
    return [listening, ready]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def readiness(port: int) -> dict[str, Any] | None:
    """What a miner with an administrator's endpoint on a port says of itself; None where no miner answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_S)
    try:
        connection.request("GET", "/readyz")
        told: Any = json.loads(connection.getresponse().read(MOST_BYTES))
        return told if {"ready", "conditions", "state", "ports"} <= told.keys() else None
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return None
    finally:
        connection.close()


def endpoint(settings: MinerSettings) -> Finding:
    """Whether validators can learn where the axon is."""
    try:
        address = published_ip(settings.chain)
    except StartError as error:
        return Finding("endpoint", "failed", str(error))
    if address is None:
        return Finding("endpoint", "ok", "not published by this miner; it must be on the chain already")
    if (why := out_of_reach(address)) is not None:
        return Finding("endpoint", "warning", why)
    if address == AUTO:
        address = "the address that services on the internet see"
    ports = (str(served.external_port or served.axon.port) for served in settings.served)
    return Finding("endpoint", "ok", f"{address}:{', '.join(ports)} is published")


def wire(settings: MinerSettings) -> Finding:
    """Where validators may ask."""
    try:
        routes = open_wire("", settings.wire, age_s=lambda: 0.0)
    except SettingsError as error:
        return Finding("wire", "failed", str(error))
    return Finding("wire", "ok", f"{settings.wire.module}: POST {', '.join(routes.paths)}")


async def stage2(settings: MinerSettings) -> list[Finding]:
    """Whether each Stage-2 server answers, and whether its scores are calibrated; nothing where none is named."""
    found = await inspected(settings.stage2, black_image(), ASK_S)
    told = [Finding("stage2", "failed" if one.failed else "ok", f"{one.name}: {one.in_words}") for one in found]
    # An engine has a calibrator of its own.
    scored = [one.name for one in found if one.kind != "engine"]
    return [*told, *map(_calibration, Calibrations(settings.store).status(scored))]


def _calibration(status: CalibrationStatus) -> Finding:
    if status.state == "none":
        remedy = "`cascade stage2 evaluate` calibrates them and says what the server is worth"
        return Finding("stage2", "warning", f"{status.server}: its scores are taken as they are; {remedy}")
    told = (
        f"{status.server}: calibrated on {status.calibrated_on} at {status.evaluated_at}, with bundle {status.bundle}"
    )
    return Finding("stage2", "ok", told)


async def _chain(settings: MinerSettings) -> list[Finding]:
    try:
        chain = open_chain(settings.chain, logs=settings.log)
    except MinerError as error:
        return [Finding("chain", "failed", str(error))]
    try:
        snapshot = await chain.snapshot()
    except MinerError as error:
        return [Finding("chain", "failed", str(error))]
    finally:
        await chain.close()
    findings = [reading(settings.chain, snapshot)]
    return [*findings, *registrations(settings, snapshot), emission(snapshot)]


def registrations(settings: MinerSettings, snapshot: ChainSnapshot) -> list[Finding]:
    """Whether our hotkeys are registered; a miner starts if one of several is."""
    try:
        ours = list(wallets(settings))
    except MinerError as error:
        return [Finding("registered", "failed", str(error))]
    here = [address for address in ours if address in snapshot.neurons]
    found = []
    for address in ours:
        try:
            found.append(Finding("registered", "ok", f"uid {snapshot.neuron(address).uid}"))
        except NotRegistered as error:
            found.append(Finding("registered", "warning" if here else "failed", str(error)))
    return found


def reading(settings: ChainSettings, snapshot: ChainSnapshot) -> Finding:
    """What was read of the chain, and whether it came from the endpoint that is preferred."""
    found = f"block {snapshot.block}, {len(snapshot.neurons)} neurons, from {snapshot.endpoint}"
    preferred = endpoint_name(settings.asked[0])
    if settings.kind == "bittensor" and snapshot.endpoint != preferred:
        return Finding("chain", "warning", f"{found}; {preferred}, which comes first, cannot be used: see the log")
    return Finding("chain", "ok", found)


def emission(snapshot: ChainSnapshot) -> Finding:
    """Whether the subnet pays miners, or one uid (an owner who burns it) takes everything."""
    incentive = incentive_of(snapshot.neurons)
    if incentive is None:
        return Finding("emission", "warning", "no incentive is known for any neuron")
    if incentive.burned:
        taken = f"uid {incentive.uid} takes {incentive.share:.0%} of it"
        return Finding("emission", "warning", f"{taken}: emission is burned, mining earns nothing at present")
    return Finding("emission", "ok", f"spread over {incentive.paid} neurons")


def traffic(settings: MinerSettings, now: datetime) -> Finding:
    """When a validator last asked."""
    last = latest_record(settings.state)
    if last is None:
        return Finding(
            "traffic", "warning", "no validator has asked this miner yet; see the README on the subnet's halt"
        )
    hours = (now - last.at).total_seconds() / 3600
    verdict: Health = "ok" if hours <= SILENT_AFTER_H else "warning"
    return Finding("traffic", verdict, f"last request {hours:.1f} h ago, from {last.hotkey[:8]}")


def live_risk(settings: MinerSettings, now: datetime) -> list[Finding]:
    """How the live certificate stood when the watch on it last looked."""
    if not settings.live_risk.enabled:
        return []
    summary = Summary.of(settings.state / DIRECTORY / SUMMARY)
    told = summary.certificates.get(summary.live)
    if told is None or summary.written_at is None:
        return []
    verdict: Health = "ok" if told["level"] == "ok" else "warning"
    days = (now - summary.written_at).total_seconds() / DAY_S
    return [Finding("live risk", verdict, f"{told['level']}, {days:.1f} days ago: {told['sentence']}")]
