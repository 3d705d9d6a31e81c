"""One kept connection of the front to Triton, with one request on it at a time."""

# ruff: noqa: D102 -- asyncio and httptools say what their callbacks are

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import httptools

from albert_deploy.scripts.serving.front_routes import JSON_TYPE, grown

if TYPE_CHECKING:
    from albert_deploy.scripts.serving.front_pool import Pool

_PASSED_ON = {
    b"content-type": b"Content-Type",
    b"inference-header-content-length": b"Inference-Header-Content-Length",
}
Done = Callable[[int, bytes | None, bytes | bytearray], None]
_buffer = memoryview(bytearray(256 << 10))  # one for all: it is parsed before the next read


class Job:
    """One request on its way: what is sent, until when, and whom to tell.

    Attributes:
        wire: The whole request as it goes to Triton, kept to be sent again.
        again: It may wait for a worker and be sent again.
        done: Takes (status, header lines, body), called at most once; no header lines (None)
            stand for a failure of the front's own, whose body is the message.
    """

    __slots__ = (
        "again",
        "attempts",
        "connection",
        "deadline",
        "done",
        "hold_until",
        "metrics",
        "wire",
    )

    def __init__(
        self,
        wire: bytes,
        *,
        again: bool,
        metrics: bool,
        deadline: float,
        done: Done,
    ) -> None:
        self.wire = wire
        self.again = again
        self.metrics = metrics
        self.deadline = deadline
        self.done: Done | None = done
        self.attempts = 0
        self.hold_until = 0.0
        self.connection: UpstreamConnection | None = None


class UpstreamConnection(asyncio.BufferedProtocol):
    """A kept connection to Triton."""

    def __init__(self, pool: Pool, metrics: bool, generation: int) -> None:
        self.pool = pool
        self.metrics = metrics
        self.generation = generation
        self.transport: asyncio.Transport | None = None
        self.job: Job | None = None
        self.used = 0
        self._reset()
        self.parser = httptools.HttpResponseParser(self)

    def _reset(self) -> None:
        self.begun = self.complete = self.astray = self.keep = False
        self.status = 0
        self.headers: list[bytes] = []
        self.typed = False
        self.body: bytes | bytearray = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def usable(self) -> bool:
        """It can take a request of now."""
        return (
            self.generation == self.pool.state.generation
            and self.transport is not None
            and not self.transport.is_closing()
        )

    def begin(self, job: Job) -> None:
        """Send a request; nothing else is on this connection."""
        assert self.transport is not None
        self.job = job
        job.connection = self
        job.attempts += 1
        self.used += 1
        self.transport.write(job.wire)

    def abort(self) -> None:
        """End it at once; a request on it is forgotten."""
        self.job = None
        if self.transport is not None:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.parser.feed_data(_buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.astray = True
        if self.job is None or self.astray:  # bytes that nobody asked for
            self._broke("it sent what is not an answer")
        elif self.complete:
            self._finish(self.job)

    def _finish(self, job: Job) -> None:
        status, keep = self.status, self.keep
        if status < 200:
            self._broke(f"it answered {status}")
            return
        if not self.typed:
            self.headers.append(JSON_TYPE)
        headers, body = b"".join(self.headers), self.body
        self.job = job.connection = None
        self._reset()
        if keep and self.usable():
            self.pool.idle[self.metrics].append(self)
        elif self.transport is not None:
            self.transport.close()
        self.pool.answered(job, self.generation, status, headers, body)

    def _broke(self, why: str) -> None:
        job, fresh = self.job, self.used <= 1 or self.begun
        self.abort()
        if job is not None:
            job.connection = None
            self.pool.broken(job, self.generation, why, fresh=fresh)

    def connection_lost(self, exc: Exception | None) -> None:
        with contextlib.suppress(ValueError):
            self.pool.idle[self.metrics].remove(self)
        self.transport = None
        self._broke(f"the connection broke: {exc or 'closed'}")

    def on_message_begin(self) -> None:
        self.astray |= self.complete
        self.begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        shown = _PASSED_ON.get(name.lower())
        if shown is not None:
            self.typed |= shown == b"Content-Type"
            self.headers.append(b"%b: %b\r\n" % (shown, value))

    def on_body(self, part: bytes) -> None:
        self.body = grown(self.body, part)

    def on_message_complete(self) -> None:
        self.complete = True
        self.status = self.parser.get_status_code()
        self.keep = self.parser.should_keep_alive()  # the parser knows until the next message
