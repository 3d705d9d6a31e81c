"""Load on a server: texts asked by Triton's own client, as many at once or at such a rate.

Two processes share this machine's cores: the server, and the client that this is. What the client
costs is part of what is measured, as it is where both run on one machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PROTOCOLS = ("http", "grpc")
_TEXT, _ANSWER = "text", "answer"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a run of requests gave.

    Attributes:
        protocol: Of ``PROTOCOLS``.
        concurrency: Requests at once; 0 where they came at a rate.
        rate_per_s: At which they came; 0 where each came when another was answered.
        texts_per_s: Answered.
        p50_ms: Median of the latency.
        p95_ms: Of the latency.
        p99_ms: Of the latency.
        answers: What was answered, in the order of the texts.
    """

    protocol: str
    concurrency: int
    rate_per_s: float
    texts_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    answers: Sequence[Any]


def closed_load(url: str, name: str, protocol: str, texts: Sequence[str], concurrency: int) -> Load:
    """Ask each text once, so many at once, each next one when another is answered.

    Args:
        url: ``host:port`` of the protocol.
        name: Of the model.
        protocol: Of ``PROTOCOLS``; HTTP carries binary tensors.
        texts: To ask, one in a request.
        concurrency: Requests at once.
    """
    return asyncio.run(_closed(url, name, protocol, texts, concurrency))


def open_load(url: str, name: str, protocol: str, texts: Sequence[str], rate_per_s: float) -> Load:
    """Ask each text once, at random times of such a rate, whether or not others are answered.

    Latency counts from the time that a request was due, so that a stall is seen in all requests
    that it holds up.

    Args:
        url: ``host:port`` of the protocol.
        name: Of the model.
        protocol: Of ``PROTOCOLS``.
        texts: To ask, one in a request.
        rate_per_s: Mean of a Poisson process.
    """
    return asyncio.run(_open(url, name, protocol, texts, rate_per_s))


async def _closed(
    url: str, name: str, protocol: str, texts: Sequence[str], concurrency: int
) -> Load:
    client, ask = _client(url, name, protocol)
    latencies: list[float] = []
    answers: list[Any] = [None] * len(texts)
    waiting = iter(range(len(texts)))

    async def work() -> None:
        for index in waiting:
            start = time.perf_counter()
            answers[index] = await ask(texts[index])
            latencies.append(time.perf_counter() - start)

    try:
        await ask(texts[0])  # opens the connection
        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        seconds = time.perf_counter() - start
    finally:
        await client.close()
    return _load(protocol, concurrency, 0.0, seconds, latencies, answers)


async def _open(url: str, name: str, protocol: str, texts: Sequence[str], rate: float) -> Load:
    client, ask = _client(url, name, protocol)
    latencies: list[float] = []
    answers: list[Any] = [None] * len(texts)
    due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, len(texts)))

    async def one(index: int, start: float) -> None:
        await asyncio.sleep(max(0.0, start + due[index] - time.perf_counter()))
        answers[index] = await ask(texts[index])
        latencies.append(time.perf_counter() - start - due[index])

    try:
        await ask(texts[0])
        start = time.perf_counter()
        await asyncio.gather(*(one(index, start) for index in range(len(texts))))
        seconds = time.perf_counter() - start
    finally:
        await client.close()
    return _load(protocol, 0, rate, seconds, latencies, answers)


def _client(url: str, name: str, protocol: str) -> tuple[Any, Callable[[str], Any]]:
    client: Any
    if protocol == "http":
        import tritonclient.http as kinds
        from tritonclient.http.aio import InferenceServerClient

        client = InferenceServerClient(url, conn_limit=1024)
    else:
        import tritonclient.grpc as kinds
        from tritonclient.grpc.aio import InferenceServerClient

        client = InferenceServerClient(url)

    async def ask(text: str) -> Any:
        tensor = kinds.InferInput(_TEXT, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
        result = await client.infer(name, [tensor])
        return json.loads(result.as_numpy(_ANSWER)[0, 0])

    return client, ask


def _load(
    protocol: str,
    concurrency: int,
    rate: float,
    seconds: float,
    latencies: Sequence[float],
    answers: Sequence[Any],
) -> Load:
    p50, p95, p99 = (1e3 * np.percentile(latencies, (50, 95, 99))).tolist()
    return Load(
        protocol=protocol,
        concurrency=concurrency,
        rate_per_s=rate,
        texts_per_s=len(latencies) / seconds,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        answers=answers,
    )
