"""The chain: what it says of this miner, and how its time and this machine's agree."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from miner.axon.settings import WireSettings
from miner.axon.wires.open_wire import open_wire
from miner.chain.adapter import open_chain
from miner.chain.conditions import incentive_of
from miner.chain.port import AxonAddress, ChainSnapshot
from miner.chain.settings import AUTO, ChainSettings, endpoint_name
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.errors import MinerError, NotRegistered, StartError
from miner.identities import wallets
from miner.settings import MinerSettings
from miner.start_checks import out_of_reach, published_ip
from stage1.errors import SettingsError

# A block has the time of its slot, is made within a few seconds of it, and the next one comes 12 s later.
BLOCK_S, LATE_S = 12.0, 6.0
CONNECT_S = 3.0


@dataclass(frozen=True)
class Read:
    """What was read of the chain.

    Attributes:
        snapshot: the subnet.
        block_age_s: how old the newest block is by the clock of this machine; None where nobody knows.
        why: why nobody does.
    """

    snapshot: ChainSnapshot
    block_age_s: float | None
    why: str = ""


async def read_chain(settings: MinerSettings) -> Read | Finding:
    """Read the chain once, as a start does, and its time; or what is wrong with it."""
    try:
        chain = open_chain(settings.chain, logs=settings.log)
    except MinerError as failed:
        return error("chain", str(failed))
    try:
        snapshot = await chain.snapshot()
        try:
            made = await chain.block_time()
        except MinerError as failed:
            return Read(snapshot, None, str(failed))
        return Read(snapshot, None if made is None else time.time() - made, "a chain in a file has no clock")
    except MinerError as failed:
        return error("chain", str(failed))
    finally:
        await chain.close()


async def chain_findings(settings: MinerSettings, read: Read) -> list[Finding]:
    """Everything that the chain says of this miner."""
    snapshot = read.snapshot
    return [
        reading(settings.chain, snapshot),
        clock(read, settings.wire),
        *registrations(settings, snapshot),
        *await addresses(settings, snapshot),
        emission(snapshot),
    ]


def reading(settings: ChainSettings, snapshot: ChainSnapshot) -> Finding:
    """What was read of the chain, and whether it came from the endpoint that is preferred."""
    found = f"block {snapshot.block}, {len(snapshot.neurons)} neurons, from {snapshot.endpoint}"
    preferred = endpoint_name(settings.asked[0])
    if settings.kind == "bittensor" and snapshot.endpoint != preferred:
        return warning("chain", f"{found}; {preferred}, which comes first, cannot be used", "see the log above")
    return ok("chain", found)


def clock(read: Read, wire: WireSettings) -> Finding:
    """Whether the clock of this machine is right, by the time of the newest block.

    Args:
        read: the chain.
        wire: how far the clock of a caller may be from ours.
    """
    age_s = read.block_age_s
    if age_s is None:
        return Finding(
            check="clock",
            verdict="ok" if read.why.startswith("a chain in a file") else "warning",
            detail=f"cannot be compared with the chain's: {read.why}",
        )
    told = f"the newest block is {age_s:.1f} s old by the clock of this machine"
    todo = "switch on the time service: timedatectl set-ntp true, and see `timedatectl`"
    if age_s < 0:
        behind = f"{told}, so the clock is slow by {-age_s:.1f} s at least"
        refused = min(wire.max_skew_s, wire.future_s)
        return error("clock", behind, todo) if -age_s > refused else warning("clock", behind, todo)
    late = age_s - BLOCK_S - LATE_S
    if late <= 0:
        return ok("clock", f"{told}, as it should be")
    ahead = f"{told}: the clock is fast by {late:.1f} s or more, or the node is behind"
    return error("clock", ahead, todo) if late > wire.past_grace_s else warning("clock", ahead, todo)


def registrations(settings: MinerSettings, snapshot: ChainSnapshot) -> list[Finding]:
    """Whether our hotkeys are registered; a miner starts if one of several is."""
    try:
        ours = list(wallets(settings))
    except MinerError as failed:
        return [error("registered", str(failed))]
    here = [address for address in ours if address in snapshot.neurons]
    found = []
    for address in ours:
        try:
            neuron = snapshot.neuron(address)
        except NotRegistered as failed:
            found.append(warning("registered", str(failed)) if here else error("registered", str(failed)))
        else:
            earns = "" if neuron.incentive is None else f", incentive {neuron.incentive:.4f}"
            found.append(ok("registered", f"uid {neuron.uid}{earns}"))
    return found


async def addresses(settings: MinerSettings, snapshot: ChainSnapshot) -> list[Finding]:
    """Whether the chain says of each of our hotkeys where it is, and whether that is where the axon will be."""
    try:
        ours = list(wallets(settings))
        ip = published_ip(settings.chain)
    except MinerError:
        # Told by the checks of the wallet and of the endpoint.
        return []
    found = []
    for served, hotkey in zip(settings.served, ours, strict=True):
        neuron = snapshot.neurons.get(hotkey)
        # A file stands in for a chain where nobody is to be found.
        if neuron is not None and (neuron.axon is not None or settings.chain.kind != "offline"):
            wanted = served.external_port or served.axon.port
            found.append(await _address(neuron.axon, None if ip == AUTO else ip, wanted, publishes=ip is not None))
    return found


async def _address(known: AxonAddress | None, ip: str | None, port: int, *, publishes: bool) -> Finding:
    if known is None:
        if publishes:
            return ok("address", "the chain has none yet; the miner publishes it when it starts")
        todo = "set chain.publish_endpoint = true, or publish it otherwise"
        return error("address", "the chain has none, and this miner does not publish it: nobody finds it", todo)
    # Port 0 takes a free one each time.
    if (ip is not None and known.ip != ip) or (port and known.port != port):
        ours = f"{ip or known.ip}:{port}"
        if publishes:
            return ok("address", f"the chain says {known}; the miner publishes {ours} when it starts")
        todo = "set chain.publish_endpoint = true, or set axon.port or chain.external_port to what the chain says"
        return error("address", f"the chain says {known}, and the axon is at port {port}", todo)
    peer = f"cascade doctor --peer http://{known}"
    if await connects(known):
        return ok("address", f"the chain says {known}, which answers from here; `{peer}` on another machine says more")
    detail = f"the chain says {known}, which does not answer from here; without a running miner it cannot"
    return warning("address", detail, f"with one, and behind a router, ask from another machine: `{peer}`")


async def connects(address: AxonAddress) -> bool:
    """Whether something accepts connections at an address."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(address.ip, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def emission(snapshot: ChainSnapshot) -> Finding:
    """Whether the subnet pays miners, or one uid (an owner who burns it) takes everything."""
    incentive = incentive_of(snapshot.neurons)
    if incentive is None:
        return warning("emission", "no incentive is known for any neuron", "ask the owner of the subnet")
    if incentive.burned:
        taken = f"uid {incentive.uid} takes {incentive.share:.0%} of it"
        detail = f"{taken}: emission is burned, mining earns nothing at present"
        return warning("emission", detail, "weigh whether the miner should run")
    return ok("emission", f"spread over {incentive.paid} neurons")


def endpoint(settings: MinerSettings) -> Finding:
    """Whether validators can learn where the axon is."""
    try:
        address = published_ip(settings.chain)
    except StartError as failed:
        return error("endpoint", str(failed))
    if address is None:
        return ok("endpoint", "not published by this miner; it must be on the chain already")
    if (why := out_of_reach(address)) is not None:
        return warning("endpoint", why, "set chain.external_ip to the address that the internet sees, or to auto")
    if address == AUTO:
        address = "the address that services on the internet see"
    ports = (str(served.external_port or served.axon.port) for served in settings.served)
    return ok("endpoint", f"{address}:{', '.join(ports)} is published")


def wire(settings: MinerSettings) -> Finding:
    """Where validators may ask."""
    try:
        routes = open_wire("", settings.wire, age_s=lambda: 0.0)
    except SettingsError as failed:
        return error("wire", str(failed))
    return ok("wire", f"{settings.wire.module}: POST {', '.join(routes.paths)}")
