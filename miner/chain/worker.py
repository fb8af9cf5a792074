"""The process that talks to the chain: `python -m miner.chain.worker`.

It alone imports bittensor, so that the import, its grip on logging, the decoding of the metagraph (a second of CPU with
the interpreter locked) and a call that hangs for minutes happen outside the process that answers requests. It reads one
`Call` a line from standard input, writes one `Reply` a line to standard output, and ends when its input is closed.
"""

from __future__ import annotations

import argparse
import importlib
import io
import ipaddress
import os
import queue
import re
import threading
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, get_args

import structlog
from pydantic import BaseModel, ConfigDict

from miner.chain.port import AxonAddress, Neuron
from miner.chain.settings import AUTO
from miner.logs import configure_logging, repair_loggers_after_bittensor

log = structlog.get_logger(__name__)

PROTOCOL_VERSION = 4  # what an axon publishes as its protocol; the SDK's own constant is not importable
NICENESS = 10

# `CustomTransactionError` of the chain's runtime.
REFUSALS = {
    10: "the hotkey is not registered",
    11: "the chain takes no such address: set chain.external_ip to one that can be reached from anywhere",
    12: "the chain takes one address of a hotkey in about ten minutes",
    13: "the chain takes no such port: set chain.external_port",
}

Failure = Literal["unavailable", "not_registered", "serve_refused", "no_address"]
LogFormat = Literal["auto", "json", "text"]


class Publication(BaseModel):
    """What is to be published for one hotkey.

    Attributes:
        hotkey: its ss58 address.
        wallet: name, hotkey and path of the wallet that has its key.
        ip: the public address.
        port: the public port.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hotkey: str
    wallet: tuple[str, str, str]
    ip: str
    port: int


class Call(BaseModel):
    """One question to the worker.

    Attributes:
        publication: what to publish; None asks for something else.
        clock: the time of the newest block is asked for, and no snapshot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    publication: Publication | None = None
    clock: bool = False

    @property
    def op(self) -> str:
        """What is asked."""
        return "block time" if self.clock else "snapshot" if self.publication is None else "serve"


class Reply(BaseModel):
    """The answer to one call.

    Attributes:
        failure: what went wrong, None if nothing did.
        message: about the failure.
        block: of a snapshot, the block it was taken at.
        neurons: of a snapshot, hotkeys and what is known of them.
        block_time: of the newest block, seconds since 1970; None where nobody asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    failure: Failure | None = None
    message: str = ""
    block: int = 0
    neurons: dict[str, Neuron] = {}
    block_time: float | None = None


class ServeResult(NamedTuple):
    """What the SDK said about a published address.

    Attributes:
        success: whether the chain accepted it.
        message: the SDK's explanation.
        unreachable: whether it failed because the connection did.
    """

    success: bool
    message: str
    unreachable: bool


class Sdk(Protocol):
    """The few things the worker needs from the SDK; every method may raise anything and block for minutes."""

    def metagraph(self) -> Any:  # noqa: ANN401  the SDK's own class, made at run time
        """The subnet's metagraph."""

    def uid(self, hotkey: str) -> int | None:
        """The UID of a hotkey (ss58 address), None if it has none."""

    def block_time(self) -> float:
        """When the newest block was made, seconds since 1970."""

    def publish(self, publication: Publication) -> ServeResult:
        """Publish an axon's address."""

    def external_ip(self) -> str:
        """The address from which the internet sees this machine."""

    def reset(self) -> None:
        """Drop the connection; the next call makes a new one."""


class BittensorSdk:
    """The subset of bittensor 10.5 that the worker uses; importing it happens in the first instance.

    Args:
        network: a network name, or the URL of an endpoint.
        netuid: the subnet.
    """

    def __init__(self, network: str, netuid: int) -> None:
        # By name, because the type checker would otherwise follow the import through the whole SDK.
        self._bittensor: Any = importlib.import_module("bittensor")
        self._serving: Any = importlib.import_module("bittensor.core.extrinsics.serving")
        self._connection_errors = (
            OSError,
            importlib.import_module("websockets.exceptions").WebSocketException,
            importlib.import_module("async_substrate_interface.errors").MaxRetriesExceeded,
        )
        self._network = network
        self._netuid = netuid
        self._subtensor: Any = None

    def metagraph(self) -> Any:  # noqa: ANN401
        """See `Sdk`."""
        return self._connected().metagraph(self._netuid, lite=True)

    def uid(self, hotkey: str) -> int | None:
        """See `Sdk`."""
        uid = self._connected().get_uid_for_hotkey_on_subnet(hotkey, self._netuid)
        return None if uid is None else int(uid)

    def block_time(self) -> float:
        """See `Sdk`."""
        made = float(self._connected().get_timestamp().timestamp())
        if not made:
            # What a node does not tell is the beginning of 1970 to the SDK.
            raise ConnectionError("the node does not tell the time of its blocks")
        return made

    def publish(self, publication: Publication) -> ServeResult:
        """See `Sdk`."""
        response = self._serving.serve_extrinsic(
            subtensor=self._connected(),
            wallet=self._opened(publication.wallet),
            ip=publication.ip,
            port=publication.port,
            protocol=PROTOCOL_VERSION,
            netuid=self._netuid,
            wait_for_finalization=False,
        )
        # The response is a sequence of two, and therefore true even when it failed.
        unreachable = isinstance(response.error, self._connection_errors)
        return ServeResult(response.success is True, str(response.message or "no reason given"), unreachable)

    def external_ip(self) -> str:
        """See `Sdk`."""
        networking: Any = importlib.import_module("bittensor.utils.networking")
        try:
            found = str(ipaddress.ip_address(networking.get_external_ip()))
        except networking.ExternalIPNotFound as error:
            raise ConnectionError("no service on the internet says which address this machine has: set it") from error
        log.info("external_ip_found", address=found)
        return found

    def reset(self) -> None:
        """See `Sdk`."""
        subtensor, self._subtensor = self._subtensor, None
        if subtensor is not None:
            subtensor.close()

    def _connected(self) -> Any:  # noqa: ANN401
        if self._subtensor is None:
            self._subtensor = self._bittensor.Subtensor(network=self._network)
        return self._subtensor

    def _opened(self, wallet: tuple[str, str, str]) -> Any:  # noqa: ANN401
        name, hotkey, path = wallet
        return self._bittensor.Wallet(name=name, hotkey=hotkey, path=path)


class Worker:
    """Turns calls into replies; whatever the SDK raises becomes a failure with a name.

    Args:
        sdk: the SDK.
    """

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk

    def answer(self, call: Call) -> Reply:
        """Do what one call asks; never raises for anything the SDK does."""
        try:
            if call.clock:
                return Reply(block_time=self._sdk.block_time())
            return self._snapshot() if call.publication is None else self._serve(call.publication)
        except OSError as error:
            # Of a network that fails the parent's one line is enough.
            log.debug("chain_call_failed", op=call.op, exc_info=True)
            return self._failed(error)
        except Exception as error:
            # The edge of the process: the SDK and its dependencies raise unrelated types, and the parent needs a reply.
            log.warning("chain_call_failed", op=call.op, exc_info=True)
            return self._failed(error)

    def _failed(self, error: Exception) -> Reply:
        self._reset()
        return Reply(failure="unavailable", message=f"{type(error).__name__}: {error}")

    def _snapshot(self) -> Reply:
        metagraph = self._sdk.metagraph()
        return Reply(block=int(metagraph.block.item()), neurons=neurons_of(metagraph))

    def _serve(self, publication: Publication) -> Reply:
        if self._sdk.uid(publication.hotkey) is None:
            message = f"hotkey {publication.hotkey} has no UID on this subnet; register it"
            return Reply(failure="not_registered", message=message)
        if publication.ip == AUTO:
            try:
                publication = publication.model_copy(update={"ip": self._sdk.external_ip()})
            except OSError as error:
                # The chain has no part in it: its connection is kept, and no other endpoint is asked instead.
                return Reply(failure="no_address", message=f"external_ip is {AUTO}: {error}")
        result = self._sdk.publish(publication)
        if result.success:
            return Reply()
        if result.unreachable:
            self._reset()
            return Reply(failure="unavailable", message=result.message)
        return Reply(failure="serve_refused", message=explained(result.message))

    def _reset(self) -> None:
        try:
            self._sdk.reset()
        except Exception:
            # Closing what is already broken may fail in as many ways as using it; a new connection is made anyway.
            log.debug("chain_close_failed", exc_info=True)


def explained(refusal: str) -> str:
    """What the SDK says of a refused transaction, with the meaning of a number that the chain gave."""
    number = re.search(r"Custom error: (\d+)", refusal)
    meaning = None if number is None else REFUSALS.get(int(number[1]))
    return refusal if meaning is None else f"{meaning} ({refusal})"


def neurons_of(metagraph: Any) -> dict[str, Neuron]:  # noqa: ANN401
    """The neurons of an SDK metagraph, by hotkey."""
    columns = zip(
        metagraph.hotkeys,
        metagraph.uids.tolist(),
        metagraph.validator_permit.tolist(),
        metagraph.S.tolist(),
        metagraph.I.tolist(),
        metagraph.last_update.tolist(),
        metagraph.axons,
        strict=True,
    )
    return {
        hotkey: Neuron(
            uid=uid,
            validator_permit=permit,
            stake=stake,
            incentive=incentive,
            last_update=updated,
            axon=_published(axon.ip, axon.port),
        )
        for hotkey, uid, permit, stake, incentive, updated, axon in columns
    }


def _published(ip: str, port: int) -> AxonAddress | None:
    # What strangers publish may be no address at all.
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    return None if address.is_unspecified else AxonAddress(str(address), port)


def serve_calls(calls: Iterable[bytes], replies: BinaryIO, worker: Worker) -> None:
    """Answer lines until there are no more.

    Raises:
        pydantic.ValidationError: a line is not a `Call`; the two sides do not belong together.
    """
    for line in calls:
        reply = worker.answer(Call.model_validate_json(line))
        replies.write(reply.model_dump_json().encode() + b"\n")
        replies.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the worker until its standard input is closed."""
    options = _parser().parse_args(arguments)
    replies = _claim_stdout()
    calls = _lines_until_closed(0)
    os.nice(NICENESS)
    os.environ["BT_NO_PARSE_CLI_ARGS"] = "true"
    sdk = BittensorSdk(options.network, options.netuid)
    configure_logging(options.log_level, json={"json": True, "text": False}.get(options.log_format))
    repair_loggers_after_bittensor()
    serve_calls(calls, replies, Worker(sdk))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miner.chain.worker")
    parser.add_argument("--network", required=True)
    parser.add_argument("--netuid", type=int, required=True)
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-format", choices=get_args(LogFormat), default="auto")
    return parser


def _claim_stdout() -> BinaryIO:
    # The SDK prints to standard output; from here on that is standard error, and only replies go up the pipe.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def _lines_until_closed(descriptor: int) -> Iterable[bytes]:
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Unbuffered: the interpreter aborts if it ends while a thread holds the lock of a buffer.
    source = io.FileIO(descriptor, closefd=False)

    def read() -> None:
        for line in source:
            lines.put(line)
        # The parent is gone. The main thread may be inside a call that hangs for minutes, and nobody waits for it.
        os._exit(0)

    threading.Thread(target=read, name="calls", daemon=True).start()
    return iter(lines.get, None)


if __name__ == "__main__":
    main()
