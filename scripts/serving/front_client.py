"""One HTTP client of the front: read, limited, answered in order, and never left hanging."""

# ruff: noqa: D102 -- asyncio says what its callbacks are

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from albert_deploy.scripts.serving.front_reader import RequestReader
from albert_deploy.scripts.serving.front_request import Request
from albert_deploy.scripts.serving.front_routes import (
    JSON_TYPE,
    Refusal,
    Route,
    answer_bytes,
    error_body,
)
from albert_deploy.scripts.serving.front_state import prometheus_text
from albert_deploy.scripts.serving.front_upstream import Job

if TYPE_CHECKING:
    from albert_deploy.scripts.serving.front_http import HttpFront

_LINGER_BYTES = 1 << 30  # read and thrown away after a last answer, so that it can be read
_EXTRA_CONNECTIONS = 64  # beyond the limit, held only as long as their 503 takes
_MAX_PIPELINED = 128
_buffer = memoryview(bytearray(64 << 10))  # one for all: it is parsed before the next read


class ClientConnection(asyncio.BufferedProtocol):
    """One client: its requests are read ahead a little and answered one after the other.

    Attributes:
        deadline: When the sweep calls `expire`; what it waits for depends on what is going on.
    """

    def __init__(self, front: HttpFront) -> None:
        self.front = front
        self.state = front.state
        self.transport: asyncio.Transport | None = None
        self.reader = RequestReader(front.state, self)
        self.queue: deque[Request] = deque()
        self.current: Request | None = None
        self.job: Job | None = None
        self.deadline: float | None = None
        self.lingering = False
        self.clogged = False
        self.turning = False
        self.paused = False
        self.discarded = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.deadline = self.front.loop.time() + self.state.config.idle_timeout_s
        self.front.connections.add(self)
        over = len(self.front.connections) - self.state.config.max_connections
        if over > _EXTRA_CONNECTIONS:
            self.state.refused["connections"] += 1
            transport.abort()
        elif over > 0:
            self.reader.refuse(Refusal(503, "connections", "too many connections are open"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.front.connections.discard(self)
        self.transport = None
        self.reader.deaf = True
        if self.job is not None:
            self.front.pool.drop(self.job)
            self.job = None
            self.front.ended("abandoned")
        for request in (self.reader.reading, self.current, *self.queue):
            if request is not None:
                request.release(self.state)
        self.queue.clear()
        self.reader.reading = self.current = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.reader.deaf:
            self.discarded += nbytes
            if self.discarded > _LINGER_BYTES and self.transport is not None:
                self.transport.abort()
            return
        self.reader.feed(_buffer[:nbytes])

    def pause_writing(self) -> None:
        self.clogged = True
        self.deadline = self.front.loop.time() + self.state.config.request_timeout_s

    def resume_writing(self) -> None:
        self.clogged = False
        if self.job is None and not self.lingering:
            self._next()

    def begun(self) -> None:
        """A request begins to arrive."""
        if self.current is None:
            self.deadline = self.front.loop.time() + self.state.config.read_timeout_s

    def expected(self, request: Request) -> None:
        """A client waits for 100 Continue, which must not overtake an earlier answer."""
        if self.current is None:
            self._go_on(request)
        else:
            request.told_to_wait = True

    def _go_on(self, request: Request) -> None:
        request.told_to_wait = False
        if self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def enqueue(self, request: Request) -> None:
        """Take the next request, whole or refused."""
        if self.current is None and not self.clogged:
            self._start(request)
            return
        if len(self.queue) >= _MAX_PIPELINED and not request.close:
            request.refusal = Refusal(503, "full", "too many requests at once on one connection")
            request.close = self.reader.deaf = True
        self.queue.append(request)
        if not self.paused and not self.reader.deaf and self.transport is not None:
            self.paused = True
            self.transport.pause_reading()

    def _next(self) -> None:
        if self.turning:  # a loop, not a recursion, over requests that are answered at once
            return
        self.turning = True
        while self.queue and self.current is None and not (self.clogged or self.lingering):
            self._start(self.queue.popleft())
        self.turning = False
        if self.current is not None or self.clogged or self.lingering:
            return
        config = self.state.config
        if self.paused and self.transport is not None:
            self.paused = False
            self.transport.resume_reading()
        reading = self.reader.reading
        wait_s = config.idle_timeout_s if reading is None else config.read_timeout_s
        self.deadline = self.front.loop.time() + wait_s
        if reading is not None and reading.told_to_wait:
            self._go_on(reading)

    def _start(self, request: Request) -> None:
        self.current, self.deadline = request, None
        front = self.front
        found = request.refusal or front.turn_away(request)
        if found is not None:
            self.state.refused[found.reason] += 1
            self._own(found.status, found.message, found.more)
        elif request.route is Route.LIVE and self.state.held is not None:
            self.answer(200, JSON_TYPE, b"{}")
        elif request.route is Route.READY and (self.state.held or self.state.draining):
            self._own(503, self.state.held or "the server is stopping")
        else:
            self.state.take()
            self.job = front.job(request, self._done)
            front.pool.submit(self.job)

    def _done(self, status: int, headers: bytes | None, body: bytes | bytearray) -> None:
        self.job = None
        metrics = self.current is not None and self.current.route is Route.METRICS
        if metrics:
            own = prometheus_text(self.state, len(self.front.connections))
            seen = bytes(body) if headers is not None and status == 200 else b""
            status, headers, body = 200, b"Content-Type: text/plain; charset=utf-8\r\n", seen + own
        self.front.ended("failed" if headers is None else "answered")
        if headers is None:
            self._own(status, bytes(body).decode())
        else:
            self.answer(status, headers, body)

    def _own(self, status: int, message: str, more: bytes = b"") -> None:
        self.answer(status, JSON_TYPE + more, error_body(message))

    def answer(self, status: int, headers: bytes, body: bytes | bytearray) -> None:
        """Write the answer to the current request and go on to the next."""
        request, self.current = self.current, None
        if request is None or self.transport is None:
            return
        request.release(self.state)
        close = request.close or self.state.draining
        whole = answer_bytes(status, headers, body, close=close, old=request.old)
        if request.method == b"HEAD":
            whole = whole[: len(whole) - len(body)]
        self.transport.write(whole)
        if close:
            self.linger()
        elif not self.clogged:
            self._next()

    def linger(self) -> None:
        """End this connection so that its last answer is not lost to a reset."""
        self.reader.deaf = self.lingering = True
        config = self.state.config
        wait_s = config.request_timeout_s if self.clogged else config.read_timeout_s
        self.deadline = self.front.loop.time() + wait_s
        if self.transport is not None:
            with contextlib.suppress(OSError):  # reset by the client already
                self.transport.write_eof()
            if self.paused:
                self.paused = False
                self.transport.resume_reading()

    def expire(self) -> None:
        """What this connection waited for did not come in time."""
        self.deadline = None
        if self.transport is None:
            return
        if self.lingering or self.clogged:
            self.transport.abort()
        elif self.reader.reading is not None:
            self.reader.refuse(Refusal(408, "slow", "the request did not arrive whole in time"))
        else:
            self.transport.close()
