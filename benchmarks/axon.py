"""CPU time a request costs the axon: ours against the SDK's `bt.Axon`, with the same handler and the same requests.

    python -m benchmarks.axon --rounds 5 --requests 200

Each server runs in a process of its own; rounds alternate between them; the figure is the server's CPU time (user and
system) for each request, so a busy machine disturbs it little.
"""

# No postponed annotations here: the SDK's `attach` compares them as objects.
import argparse
import asyncio
import base64
import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bittensor_wallet import Wallet

IMAGE_BYTES = 13_500
EMPTY_HASH = hashlib.sha3_256(b"").hexdigest()
TICKS = os.sysconf("SC_CLK_TCK")
START_S = 30.0


def make_wallet(home: Path, name: str) -> Any:
    wallet = Wallet(name=name, hotkey="default", path=str(home))
    wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return wallet


def serve_ours(port: int, hotkey: str, validator: str) -> None:
    from miner.answering.request import Prediction, Request
    from miner.axon.access import AccessPolicy
    from miner.axon.app import AxonApp
    from miner.axon.legacy_protocol import LegacyProtocol
    from miner.axon.server import AxonServer
    from miner.axon.settings import AccessSettings, AxonSettings
    from miner.chain.port import Neuron

    async def answer(request: Request) -> Prediction:
        return Prediction(0.9)

    async def run() -> None:
        rules = AccessSettings(requests_per_s=1e6, burst=10**6)
        access = AccessPolicy(rules, {validator: Neuron(uid=1, validator_permit=True)})
        app = AxonApp(answer, authenticator=LegacyProtocol(hotkey), access=access)
        server = AxonServer(app, AxonSettings(host="127.0.0.1", port=port))
        await server.start()
        await server.wait()

    asyncio.run(run())


def serve_sdk(port: int, home: str) -> None:
    import bittensor as bt

    class ImageSynapse(bt.Synapse):
        testnet_label: int = -1
        image: str = ""
        prediction: float = -1.0

    async def forward(synapse: ImageSynapse) -> ImageSynapse:
        synapse.prediction = 0.9
        return synapse

    wallet = bt.Wallet(name="miner", hotkey="default", path=home)
    axon = bt.Axon(wallet=wallet, port=port, ip="127.0.0.1", external_ip="127.0.0.1")
    axon.attach(forward_fn=forward)
    axon.start()
    while True:
        time.sleep(1)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def headers(miner: Any, validator: Any, uuid: str) -> dict[str, str]:
    nonce = time.time_ns()
    key = validator.hotkey
    message = f"{nonce}.{key.ss58_address}.{miner.hotkey.ss58_address}.{uuid}.{EMPTY_HASH}"
    return {
        "Content-Type": "application/json",
        "name": "ImageSynapse",
        "timeout": "9.0",
        "computed_body_hash": EMPTY_HASH,
        "bt_header_axon_ip": "127.0.0.1",
        "bt_header_axon_port": "1",
        "bt_header_axon_hotkey": miner.hotkey.ss58_address,
        "bt_header_dendrite_ip": "127.0.0.1",
        "bt_header_dendrite_version": "10005000",
        "bt_header_dendrite_nonce": str(nonce),
        "bt_header_dendrite_uuid": uuid,
        "bt_header_dendrite_hotkey": key.ss58_address,
        "bt_header_dendrite_signature": "0x" + key.sign(message).hex(),
    }


def ask(port: int, count: int, miner: Any, validator: Any, uuid: str, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(count):
        connection.request("POST", "/ImageSynapse", body, headers(miner, validator, uuid))
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200 or answer["prediction"] != 0.9:
            raise SystemExit(f"port {port}: {reply.status} {answer}")
    connection.close()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nothing listens on port {port} after {START_S:.0f} s")


def compare(rounds: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        miner, validator = make_wallet(home, "miner"), make_wallet(home, "validator")
        body = json.dumps({"image": base64.b64encode(os.urandom(IMAGE_BYTES)).decode(), "prediction": -1.0}).encode()
        base = [sys.executable, "-m", "benchmarks.axon"]
        keys = [miner.hotkey.ss58_address, validator.hotkey.ss58_address]
        commands = {"ours": [*base, "--ours", "18431", *keys], "sdk": [*base, "--sdk", "18432", str(home)]}
        ports = {"ours": 18431, "sdk": 18432}
        servers = {name: subprocess.Popen(c, stdout=subprocess.DEVNULL) for name, c in commands.items()}
        try:
            costs: dict[str, list[float]] = {name: [] for name in servers}
            for name in servers:
                wait_for(ports[name])
                ask(ports[name], 20, miner, validator, f"warm-{name}", body)
            for index in range(rounds):
                for name, server in servers.items():
                    before = cpu_s(server.pid)
                    ask(ports[name], requests, miner, validator, f"{name}-{index}", body)
                    costs[name].append((cpu_s(server.pid) - before) / requests * 1e3)
        finally:
            for server in servers.values():
                server.kill()
                server.wait()
    for name, values in costs.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:>5}  CPU ms a request: min {low:.2f}  median {middle:.2f}  max {high:.2f}")
    ratios = [sdk / ours for sdk, ours in zip(costs["sdk"], costs["ours"], strict=True) if ours]
    print(f"sdk / ours, round by round: median {statistics.median(ratios):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="a round and server")
    parser.add_argument("--ours", nargs=3, metavar=("PORT", "MINER", "VALIDATOR"), help=argparse.SUPPRESS)
    parser.add_argument("--sdk", nargs=2, metavar=("PORT", "WALLETS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        serve_ours(int(options.ours[0]), *options.ours[1:])
    elif options.sdk:
        serve_sdk(int(options.sdk[0]), options.sdk[1])
    else:
        compare(options.rounds, options.requests)


if __name__ == "__main__":
    main()
