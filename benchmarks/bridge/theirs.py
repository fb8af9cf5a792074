# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202
"""Asks by `tritonclient`; runs in its environment, and knows nothing of this program.

    python theirs.py URL IMAGE CLIENT

A line `COUNT AT_A_TIME` on standard input is answered by a line of JSON: CPU and wall seconds of so many requests.
"""

import asyncio
import base64
import json
import sys
import time
from pathlib import Path

import numpy as np

# What MLServer has to be told, and `tritonclient.http.aio` does not say by itself.
JSON = {"content-type": "application/json", "accept-encoding": "identity"}


def sent(module, content, binary):
    one = content if binary else base64.b64encode(content)
    image = module.InferInput("image", [1, 1] if binary else [1], "BYTES")
    image.set_data_from_numpy(np.array([[one]] if binary else [one], dtype=object), binary_data=binary)
    return [image], [module.InferRequestedOutput("probability", binary_data=binary)]


def blocking(url, content, binary):
    import tritonclient.http as module

    client = module.InferenceServerClient(url)

    def ask():
        inputs, outputs = sent(module, content, binary)
        return float(client.infer("brightness", inputs, outputs=outputs).as_numpy("probability").ravel()[0])

    def work(count, _):
        return [ask() for _ in range(count)]

    return work


def asynchronous(url, content, binary):
    import tritonclient.http.aio as module

    loop = asyncio.new_event_loop()
    client = None

    async def ask():
        inputs, outputs = sent(module, content, binary)
        found = await client.infer("brightness", inputs, outputs=outputs, headers={} if binary else JSON)
        return float(found.as_numpy("probability").ravel()[0])

    async def run(count, at_a_time):
        nonlocal client
        client = client or module.InferenceServerClient(url)
        left, found = iter(range(count)), []

        async def one():
            found.extend([await ask() for _ in left])

        await asyncio.gather(*(one() for _ in range(at_a_time)))
        return found

    return lambda count, at_a_time: loop.run_until_complete(run(count, at_a_time))


def main():
    url, path, name, binary = sys.argv[1:]
    content = Path(path).read_bytes()
    work = {"http": blocking, "http.aio": asynchronous}[name](url.removeprefix("http://"), content, binary == "binary")
    for line in sys.stdin:
        count, at_a_time = map(int, line.split())
        began, cpu = time.perf_counter(), time.process_time()
        found = work(count, at_a_time)
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - began, len(found), found[0]]), flush=True)


if __name__ == "__main__":
    main()
