"""What both halves of the front share: its limits, its upstream, who is held, and its counts."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# How Triton's Python backend says that the process behind a model is gone. The end is anchored, so
# that a message which quotes a client's text does not pass for it.
DEAD_STUB = re.compile(r"Stub process(?: '[\w.-]+')? is (?:not healthy|unhealthy)\.?\"?\s*\}?\s*\Z")


@dataclass(frozen=True, kw_only=True)
class FrontConfig:
    """Limits of the front.

    Attributes:
        host: The address to listen on.
        http_port: 0 picks a free one.
        grpc_port: 0 picks a free one; None leaves gRPC out.
        max_body_bytes: Of an HTTP body and of a gRPC message.
        max_header_bytes: Of the request line and headers together.
        max_connections: HTTP connections open at once; the next one gets 503.
        max_in_flight: Requests accepted and not answered, over both protocols; the next one gets
            503 or RESOURCE_EXHAUSTED at once. Health and metrics are outside it.
        max_buffered_bytes: Of HTTP bodies over 64 KiB held at once; the next one gets 503.
        read_timeout_s: For a request to arrive whole once begun.
        idle_timeout_s: For a kept connection without a request.
        request_timeout_s: For the answer of an accepted request, waiting and retries included.
        hold_s: How long a request waits for a worker that comes back.
        retries: How often a request is sent again after its worker died.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int | None = 8001
    max_body_bytes: int = 4 << 20
    max_header_bytes: int = 32 << 10
    max_connections: int = 512
    max_in_flight: int = 512
    max_buffered_bytes: int = 256 << 20
    read_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    request_timeout_s: float = 60.0
    hold_s: float = 45.0
    retries: int = 2


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Where Triton listens: (host, port) of each of its services."""

    http: tuple[str, int]
    grpc: tuple[str, int] | None = None
    metrics: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class FrontCounts:
    """What became of the requests so far; `accepted` is the sum of the next three and `in_flight`.

    Attributes:
        accepted: Taken in whole, within all limits.
        answered: With what Triton said, errors of its own included.
        failed: Answered by the front, as Triton did not.
        abandoned: The client left first.
        in_flight: Accepted and not yet any of these.
        retried: Sent to Triton once more.
        refused: By reason, never accepted.
    """

    accepted: int
    answered: int
    failed: int
    abandoned: int
    in_flight: int
    retried: int
    refused: Mapping[str, int]


@dataclass(kw_only=True)
class FrontState:
    """The one mutable thing that HTTP and gRPC share; used from one event loop only.

    Attributes:
        held: Why no inference goes to Triton now; None while it is open.
        ours: What breaks now was broken on purpose, to replace a worker: no request is to blame.
        generation: Counts `open_to`, so that a late failure of an upstream given up long ago does
            not pass for a new incident.
    """

    config: FrontConfig
    worker_died: Callable[[str], None]
    upstream: Upstream | None = None
    held: str | None = "the server is starting"
    generation: int = 0
    ours: bool = False
    draining: bool = False
    buffered_bytes: int = 0
    accepted: int = 0
    answered: int = 0
    failed: int = 0
    abandoned: int = 0
    in_flight: int = 0
    retried: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def open_to(self, upstream: Upstream) -> None:
        """Let requests flow to `upstream`."""
        self.ours = False
        self.upstream = upstream
        self.generation += 1
        self.held = None
        self.opened.set()

    def hold(self, why: str, *, ours: bool = False) -> None:
        """Let inference wait until `open_to`."""
        self.held, self.ours = why, self.ours or ours
        self.opened.clear()

    def lost(self, generation: int, why: str) -> None:
        """A worker or Triton itself is gone: hold, and tell, once until `open_to`."""
        if self.held is None and generation == self.generation:
            self.hold(why)
            asyncio.get_running_loop().call_soon(self.worker_died, why)

    def take(self) -> None:
        """One more request is accepted."""
        self.accepted += 1
        self.in_flight += 1

    def counts(self) -> FrontCounts:
        """A snapshot."""
        return FrontCounts(
            accepted=self.accepted,
            answered=self.answered,
            failed=self.failed,
            abandoned=self.abandoned,
            in_flight=self.in_flight,
            retried=self.retried,
            refused=dict(self.refused),
        )


def prometheus_text(state: FrontState, connections: int) -> bytes:
    """The front's own counters in Prometheus' text form."""
    counts = state.counts()
    rows = [
        ("accepted_total", "counter", "Requests taken in.", counts.accepted),
        ("answered_total", "counter", "Requests answered by Triton.", counts.answered),
        ("failed_total", "counter", "Requests that Triton did not answer.", counts.failed),
        ("abandoned_total", "counter", "Requests whose client left first.", counts.abandoned),
        ("retried_total", "counter", "Requests sent to Triton once more.", counts.retried),
        ("in_flight", "gauge", "Requests accepted and not yet answered.", counts.in_flight),
        ("connections", "gauge", "HTTP connections open.", connections),
        ("held", "gauge", "1 while no worker can be reached.", int(state.held is not None)),
    ]
    lines: list[str] = []
    for name, kind, what, value in rows:
        full = f"albert_front_{name}"
        lines += [f"# HELP {full} {what}", f"# TYPE {full} {kind}", f"{full} {value}"]
    full = "albert_front_refused_total"
    lines += [f"# HELP {full} Requests refused, by reason.", f"# TYPE {full} counter"]
    lines += [f'{full}{{reason="{why}"}} {n}' for why, n in sorted(counts.refused.items())]
    return "\n".join(lines).encode() + b"\n"
