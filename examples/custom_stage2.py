"""A Stage-2 of one's own, asked through the bridge, which always comes back before the deadline.

    python examples/custom_stage2.py

Shows an answer, a deadline that passes and an error. Why a server failed is in the log, not in the verdict.
"""

import asyncio
import io
import time

import numpy as np
from PIL import Image

from stage2_bridge import Bridge, Stage2Error

GREY, ORANGE = (110, 112, 118), (240, 106, 20)


class OrangeServer:
    """A `Stage2Client`: roadwork is as probable as the share of the picture that is orange.

    Args:
        takes_s: how long it takes, as a large model behind a network would.
    """

    name = "orange"

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002  the bridge ends the wait
        """Probability of roadwork in an encoded image."""
        await asyncio.sleep(self._takes_s)
        try:
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        except OSError as error:
            raise Stage2Error("not a picture") from error
        return float(np.mean((pixels == ORANGE).all(axis=2)))

    async def close(self) -> None:
        """Nothing is held."""


async def main() -> None:
    """Ask three times."""
    image, file = Image.new("RGB", (64, 64), GREY), io.BytesIO()
    image.paste(ORANGE, (0, 0, 32, 32))
    image.save(file, "PNG")
    picture = file.getvalue()
    bridge = Bridge(OrangeServer(takes_s=0.1), max_in_flight=4, clock=time.monotonic)
    for content, seconds in ((picture, 5.0), (picture, 0.02), (b"no picture", 5.0)):
        verdict = await bridge.ask(content, deadline=time.monotonic() + seconds)
        print(f"{len(content)} bytes, {seconds} s: {verdict}")
    await bridge.close()


if __name__ == "__main__":
    asyncio.run(main())
