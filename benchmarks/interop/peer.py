"""A validator's side of the wire, run with the Python of whatever bittensor it is to speak for.

Reads a JSON object from standard input, {address, hotkey, wallets, cases}, plays every case, and prints one JSON line
for each: {case, got}. Everything is signed by the SDK itself; what a case wants to be wrong is changed after that.
Needs nothing but the SDK: with a dendrite (bittensor 9 and 10) or with `http_auth` (bittensor 11).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

PATIENCE_S = 400.0
GARBAGE = {"garbage": "garbage", "zeros": "0x" + "00" * 64, "none": None}


class Sent:
    """A signed request, ready to be sent."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body

    def change(self, step: dict[str, Any], names: dict[str, str]) -> None:
        """What is done to it on the way."""
        if "signature" in step:
            self._set(names["signature"], GARBAGE[step["signature"]])
        for what in ("nonce", "hotkey", "timeout"):
            if what in step.get("headers", {}) and what in names:
                self._set(names[what], step["headers"][what])
        self.method, self.path = step.get("method", self.method), step.get("path", self.path)
        if "swapped" in step:
            self.body = step["swapped"].encode()

    def _set(self, name: str, value: str | None) -> None:
        self.headers.pop(name, None)
        if value is not None:
            self.headers[name] = value


def post(connection: http.client.HTTPConnection, sent: Sent) -> str:
    # One that is refused before all of it was sent has its reply all the same.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(sent.method, sent.path, sent.body, sent.headers)
    reply = connection.getresponse()
    found = json.loads(reply.read())
    return told(reply.status, found.get("prediction"))


def told(status: int, prediction: object) -> str:
    return f"{status} / {prediction}" if status == 200 else str(status)


class Peer:
    """Plays cases with one SDK."""

    names: ClassVar[dict[str, str]]

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.kept: Sent | None = None

    def signed(self, step: dict[str, Any]) -> Sent:
        raise NotImplementedError

    def play(self, step: dict[str, Any]) -> list[str]:
        """The outcomes of one step."""
        host, port = "127.0.0.1", self.asked["ports"][step.get("axon", "axon")]
        if "gap_s" in step:
            return self._over_one_connection(http.client.HTTPConnection(host, port, timeout=PATIENCE_S), step)

        def one(_number: int) -> str:
            sent = self.kept if step.get("again") else None
            if sent is None:
                sent = self.kept = self.signed(step)
                sent.change(step, self.names)
            return post(http.client.HTTPConnection(host, port, timeout=PATIENCE_S), sent)

        times = step.get("times", 1)
        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(one, range(times)))

    def _over_one_connection(self, connection: http.client.HTTPConnection, step: dict[str, Any]) -> list[str]:
        found = []
        for number in range(step["times"]):
            if number:
                time.sleep(step["gap_s"])
            found.append(post(connection, self.signed(step)))
        return found


class Signing(Peer):
    """bittensor 11: `http_auth`."""

    names: ClassVar = {
        "signature": "X-Bittensor-Signature",
        "nonce": "X-Bittensor-Nonce",
        "hotkey": "X-Bittensor-Hotkey",
    }

    def __init__(self, sdk: Any, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        self.sdk = sdk
        self.keys = {
            name: sdk.Wallet(name=name, hotkey="default", path=asked["wallets"]) for name in ("validator", "stranger")
        }
        self.keys["ed25519"] = sdk.sp_core.Keypair.create_from_mnemonic(asked["ed25519"], 0)

    def signed(self, step: dict[str, Any]) -> Sent:
        method, path = step.get("sign_method", "POST"), step.get("sign_path", "/ImageSynapse")
        body = step["raw"].encode() if "raw" in step else json.dumps({"image": step.get("image", "")}).encode()
        if "extra" in step:
            body = json.dumps({"image": step["image"], **step["extra"]}).encode()
        if step.get("file"):
            body = bytes.fromhex(step["file"])
        receiver = {"axon": self.asked["hotkey"], "other": self.asked["other"], "nobody": None}
        headers = self.sdk.http_auth.sign(
            self.keys[step.get("wallet", "validator")],
            method=method,
            path=path,
            body=body,
            receiver_ss58=receiver[step.get("receiver", "axon")],
            nonce_ns=time.time_ns() - int(step.get("age_s", 0) * 1e9),
        )
        return Sent(method, path, headers, body)


class Asking(Peer):
    """bittensor 9 and 10: a dendrite. It sends by itself where a case changes nothing of what it sends."""

    names: ClassVar = {
        "signature": "bt_header_dendrite_signature",
        "nonce": "bt_header_dendrite_nonce",
        "hotkey": "bt_header_dendrite_hotkey",
        "timeout": "timeout",
    }
    changes = ("signature", "headers", "method", "path", "swapped", "raw", "extra", "again", "keep")

    def __init__(self, sdk: Any, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        import bittensor.core.dendrite  # noqa: F401
        from bittensor.core.chain_data import AxonInfo
        from bittensor.utils import networking

        networking.get_external_ip = lambda: "127.0.0.1"  # it asks the internet otherwise

        class ImageSynapse(sdk.Synapse):  # type: ignore[misc]
            testnet_label: int = -1
            image: str = ""
            prediction: float = -1.0

        self.synapse, self.info = ImageSynapse, AxonInfo
        self.dendrites = {
            name: sdk.Dendrite(wallet=sdk.Wallet(name=name, hotkey="default", path=asked["wallets"]))
            for name in ("validator", "stranger")
        }
        self.loop = asyncio.new_event_loop()

    def axon(self, step: dict[str, Any]) -> Any:
        hotkey = self.asked["other" if step.get("receiver") == "other" else "hotkey"]
        port = self.asked["ports"][step.get("axon", "axon")]
        return self.info(version=0, ip="127.0.0.1", port=port, ip_type=4, hotkey=hotkey, coldkey=hotkey)

    def signed(self, step: dict[str, Any]) -> Sent:
        dendrite = self.dendrites[step.get("wallet", "validator")]
        synapse = self.synapse(image=step.get("image", ""))
        nonce = time.time_ns() - int(step.get("age_s", 0) * 1e9)
        with mock.patch("time.time_ns", return_value=nonce):
            synapse = dendrite.preprocess_synapse_for_request(self.axon(step), synapse, step.get("timeout", 9.0))
        headers = {**synapse.to_headers(), "Content-Type": "application/json"}
        found = synapse.model_dump()
        body = step["raw"] if "raw" in step else json.dumps({**found, **step.get("extra", {})}, default=str)
        return Sent("POST", "/ImageSynapse", headers, body.encode())

    def play(self, step: dict[str, Any]) -> list[str]:
        if any(name in step for name in self.changes) or step.get("age_s"):
            return super().play(step)
        return self.loop.run_until_complete(self._forward(step))

    async def _forward(self, step: dict[str, Any]) -> list[str]:
        dendrite = self.dendrites[step.get("wallet", "validator")]

        async def one() -> str:
            synapse = self.synapse(image=step.get("image", ""))
            timeout = step.get("timeout", 9.0)
            answers = await dendrite.forward([self.axon(step)], synapse, timeout=timeout, deserialize=False)
            return told(int(answers[0].dendrite.status_code), answers[0].prediction)

        if "gap_s" not in step:
            return list(await asyncio.gather(*(one() for _ in range(step.get("times", 1)))))
        found = []
        for number in range(step["times"]):
            if number:
                await asyncio.sleep(step["gap_s"])
            found.append(await one())
        return found


def main() -> None:
    asked = json.loads(sys.stdin.read())
    # The SDK logs to standard output, and reads the command line of whoever imports it.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.argv = sys.argv[:1]
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    import bittensor

    peer = Asking(bittensor, asked) if hasattr(bittensor, "Dendrite") else Signing(bittensor, asked)
    output.write(json.dumps({"version": bittensor.__version__}) + "\n")
    for case in asked["cases"]:
        try:
            got = [outcome for step in case["steps"] for outcome in peer.play(step)]
        except Exception as error:  # noqa: BLE001  the edge of a process: the case is told as failed
            got = [f"{type(error).__name__}: {error}"[:200]]
        output.write(json.dumps({"case": case["name"], "got": got}) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
