"""The state directory and the ports: free for a miner, or taken by one, which says whether it is ready."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from miner.admin.client import readiness
from miner.axon.server import bind
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.errors import ServerError, StartError, StateInUse
from miner.settings import MinerSettings
from miner.start_checks import held_state


def where(settings: MinerSettings) -> list[Finding]:
    """The state directory and the ports."""
    try:
        with held_state(settings.state, wait_s=0):
            return [ok("state", f"{settings.state}: can be written; no miner uses it"), *_free(settings)]
    except StateInUse:
        return [ok("state", f"{settings.state}: a miner uses it"), *_running(settings)]
    except StartError as failed:
        return [error("state", str(failed), "make it writable, or set another `state`"), *_free(settings)]


def in_use(settings: MinerSettings) -> bool:
    """Whether a miner runs with this state directory."""
    try:
        with held_state(settings.state, wait_s=0):
            return False
    except StateInUse:
        return True
    except StartError:
        return False


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
                found.append(ok(check, f"{port}: free"))
            except ServerError as failed:
                found.append(error(check, str(failed)))
    return found


def _running(settings: MinerSettings) -> list[Finding]:
    """What the miner that has the state directory says of itself, or at least whether something listens."""
    wanted, admin = [served.axon.port for served in settings.served if served.axon.port], settings.admin.port
    told = readiness(admin) if admin else None
    if told is None:
        found = []
        for port in wanted:
            if _listens(port):
                found.append(ok("port", f"{port}: a miner runs, and something listens on the port"))
            else:
                todo = "wait until it has started, or restart it with these settings"
                found.append(warning("port", f"{port}: a miner runs, but nothing listens on the port yet", todo))
        if admin:
            says = "that is no miner listens there" if _listens(admin) else "nothing listens there"
            detail = f"{admin}: {says}; the miner starts still, or was started with another admin.port"
            found.append(warning("ready", detail, "wait, or restart it with these settings"))
        return found
    if told["state"] != str(settings.state.resolve()):
        detail = f"{admin}: taken by another miner, that of {told['state']}"
        return [error("admin", detail, "set another admin.port")]
    ports = sorted(told["ports"].values())
    if missing := sorted(set(wanted) - set(ports)):
        detail = f"{', '.join(map(str, missing))}: the miner listens on {', '.join(map(str, ports))}"
        listening = warning("port", detail, "restart it to use these settings")
    else:
        listening = ok("port", f"{', '.join(map(str, ports))}: the miner's")
    lacks = [f"{each['name']}: {each['detail']}" for each in told["conditions"] if not each["holds"]]
    ready = error("ready", "; ".join(lacks), "see its log") if lacks else ok("ready", "it says so itself")
    return [listening, ready]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
