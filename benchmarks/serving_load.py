"""Open-loop load on an inference server: requests are sent at random times, regardless of earlier answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np
import numpy.typing as npt

__all__ = ["Reply", "Work", "capacity", "offer"]

HEAD = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Work:
    """One request to send, and the labels of its images."""

    content: bytes
    headers: dict[str, str]
    labels: npt.NDArray[np.int64]

    @staticmethod
    def of(images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], name: str) -> Work:
        """A request with binary tensors in both directions."""
        tail = np.ascontiguousarray(images, "<f4").tobytes()
        tensor = {
            "name": name, "datatype": "FP32", "shape": list(images.shape),
            "parameters": {"binary_data_size": len(tail)},
        }  # fmt: skip
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        return Work(head + tail, {HEAD: str(len(head))}, labels)


@dataclass(frozen=True)
class Reply:
    """The result of a request: seconds since it should have been sent and, if answered, its width and hits."""

    kind: str
    seconds: float
    width: float = 0.0
    right: int = 0
    images: int = 0


async def _send(client: aiohttp.ClientSession, work: Work, due: float) -> Reply:
    try:
        async with client.post("/v2/models/digits/infer", data=work.content, headers=work.headers) as response:
            content = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Reply(type(error).__name__, time.perf_counter() - due)
    seconds = time.perf_counter() - due
    if response.status != 200:
        return Reply("refused" if response.status == 503 else str(response.status), seconds)
    length = int(response.headers[HEAD])
    head = json.loads(content[:length])
    scores = np.frombuffer(content[length:], "<f4").reshape(head["outputs"][0]["shape"])
    right = int((scores.argmax(1) == work.labels).sum())
    return Reply("answered", seconds, head["parameters"]["width"], right, len(work.labels))


def _client(address: str) -> aiohttp.ClientSession:
    connector, timeout = aiohttp.TCPConnector(limit=400), aiohttp.ClientTimeout(20)
    return aiohttp.ClientSession(address, connector=connector, timeout=timeout)


def offer(address: str, works: Sequence[Work], rate: float, seconds: float, seed: int) -> list[Reply]:
    """Send requests in a Poisson process of `rate` per second for some seconds, and wait for all replies."""
    due_times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds)))

    async def run() -> list[Reply]:
        async with _client(address) as client:
            await asyncio.gather(*(client.get("/v2/health/live") for _ in range(8)))  # connections are there
            start, tasks = time.perf_counter() + 0.05, []
            for number, after in enumerate(due_times):
                await asyncio.sleep(max(0.0, start + after - time.perf_counter()))
                tasks.append(asyncio.create_task(_send(client, works[number % len(works)], start + float(after))))
            return list(await asyncio.gather(*tasks))

    return asyncio.run(run())


def capacity(address: str, works: Sequence[Work], seconds: float, clients: int = 3) -> float:
    """Answers per second to a few clients that send a new request after each answer."""

    async def run() -> float:
        async with _client(address) as client:
            begin, answered = time.perf_counter(), 0

            async def one(place: int) -> None:
                nonlocal answered
                while time.perf_counter() - begin < seconds:
                    reply = await _send(client, works[place % len(works)], time.perf_counter())
                    answered += reply.kind == "answered"
                    place += clients

            await asyncio.gather(*(one(place) for place in range(clients)))
            return answered / (time.perf_counter() - begin)

    return asyncio.run(run())
