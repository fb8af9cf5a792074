"""The axons that `benchmarks.axon` compares: ours and the SDK's, with a handler that does nothing."""

# No postponed annotations here: the SDK's `attach` compares them as objects.
import asyncio
import sys
import time
from typing import Tuple  # noqa: UP035  see `serve_sdk`


def serve_ours(port: int, hotkey: str, validator: str) -> None:
    from miner.answering.request import Prediction, Request
    from miner.axon.access import AccessPolicy
    from miner.axon.app import AxonApp
    from miner.axon.routes import RouteTable
    from miner.axon.server import AxonServer
    from miner.axon.settings import AccessSettings, AxonSettings
    from miner.axon.wires import subnet72
    from miner.chain.port import Neuron
    from miner.logs import configure_logging

    async def answer(request: Request) -> Prediction:
        return Prediction(0.9)

    async def run() -> None:
        configure_logging(json=True)
        rules = AccessSettings(requests_per_s=1e6, burst=10**6)
        access = AccessPolicy(rules, {validator: Neuron(uid=1, validator_permit=True)})
        app = AxonApp(answer, routes=RouteTable(subnet72.routes(hotkey)), access=access)
        server = AxonServer(app, AxonSettings(host="127.0.0.1", port=port))
        await server.start()
        await server.wait()

    asyncio.run(run())


def serve_sdk(port: int, home: str, validator: str) -> None:
    import bittensor as bt

    class ImageSynapse(bt.Synapse):
        testnet_label: int = -1
        image: str = ""
        prediction: float = -1.0

    async def forward(synapse: ImageSynapse) -> ImageSynapse:
        synapse.prediction = 0.9
        return synapse

    # The SDK compares this annotation with its own, and `tuple` is another one.
    async def blacklist(synapse: ImageSynapse) -> Tuple[bool, str]:  # noqa: UP006
        sender = synapse.dendrite
        return sender is None or sender.hotkey != validator, "Forbidden"

    wallet = bt.Wallet(name="miner", hotkey="default", path=home)
    axon = bt.Axon(wallet=wallet, port=port, ip="127.0.0.1", external_ip="127.0.0.1")
    axon.attach(forward_fn=forward, blacklist_fn=blacklist)
    axon.start()
    while True:
        time.sleep(1)


def main() -> None:
    which, port, *rest = sys.argv[1:]
    (serve_ours if which == "ours" else serve_sdk)(int(port), *rest)


if __name__ == "__main__":
    main()
