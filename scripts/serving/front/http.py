"""The front's HTTP half: listens, decides who is turned away, and sweeps over all time limits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Callable
from typing import Literal

from albert_deploy.runtime.errors import MachineError
from albert_deploy.scripts.serving.front.pool import Done, Job, Pool
from albert_deploy.scripts.serving.front.reading import Request, RequestReader
from albert_deploy.scripts.serving.front.routes import (
    JSON_TYPE,
    Refusal,
    Route,
    answer_bytes,
    error_body,
)
from albert_deploy.scripts.serving.front.state import FrontState, prometheus_text

_UNLIMITED = frozenset({Route.LIVE, Route.READY, Route.METRICS})


class HttpFront:
    """All HTTP clients, and the pool of connections to Triton behind them."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.pool = Pool(state)
        # In the order in which they came.
        self.connections: dict[ClientConnection, None] = {}
        self.server: asyncio.Server | None = None
        self.port = 0
        config = state.config
        shortest_s = min(
            config.read_timeout_s, config.idle_timeout_s, config.request_timeout_s, config.hold_s
        )
        self._tick_s = min(0.5, max(0.01, shortest_s / 8))
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Bind and listen.

        Raises:
            MachineError: The port cannot be had.
        """
        config = self.state.config
        try:
            self.server = await self.loop.create_server(
                lambda: ClientConnection(self), config.host, config.http_port, backlog=1024
            )
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had: {error}"
            raise MachineError(
                f"HTTP port {config.http_port} of {config.host} {why}; "
                "choose another, or 0 for a free one"
            ) from error
        self.port = self.server.sockets[0].getsockname()[1]
        self._timer = self.loop.call_later(self._tick_s, self._sweep)

    def _sweep(self) -> None:
        """One timer for all limits: cheaper than one per request."""
        now = self.loop.time()
        self.pool.sweep(now)
        for connection in [c for c in self.connections if c.deadline and now >= c.deadline]:
            connection.expire()
        self._timer = self.loop.call_later(self._tick_s, self._sweep)

    def make_room(self) -> bool:
        """End the connection that has waited longest without a request, if there is one."""
        silent = next((one for one in self.connections if one.idle()), None)
        if silent is not None and silent.transport is not None:
            silent.transport.abort()
            self.connections.pop(silent, None)
        return silent is not None

    def turn_away(self, request: Request) -> Refusal | None:
        """Why a whole request is not accepted now, if it is not."""
        state = self.state
        if bad := request.bad():
            return Refusal(400, "malformed", bad)
        if request.route in _UNLIMITED:
            return None
        if state.draining:
            return Refusal(503, "draining", "the server is stopping")
        if state.in_flight >= state.config.max_in_flight:
            return Refusal(503, "full", "the queue is full, try again later")
        return None

    def job(self, request: Request, done: Done) -> Job:
        """What is sent to Triton for an accepted request."""
        metrics, state = request.route is Route.METRICS, self.state
        host, port = (state.upstream and state.upstream.http) or ("localhost", 0)
        return Job(
            request.wire(f"{host}:{port}".encode()),
            again=request.route is Route.INFER,
            metrics=metrics,
            deadline=self.loop.time() + state.config.request_timeout_s,
            done=done,
        )

    def ended(self, how: Literal["answered", "failed", "abandoned"]) -> None:
        """An accepted request is over."""
        state = self.state
        state.in_flight -= 1
        if how == "answered":
            state.answered += 1
        elif how == "failed":
            state.failed += 1
        else:
            state.abandoned += 1

    def stop_listening(self) -> None:
        """Take no new connections."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def unsent(self) -> bool:
        """Whether an answer is still on its way out of this process."""
        transports = [c.transport for c in self.connections]
        return any(t is not None and t.get_write_buffer_size() for t in transports)

    async def close(self) -> None:
        """Fail what is left, then end every connection."""
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        await self.pool.close()
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.close()
        await _until(lambda: not self.connections, self.loop.time() + 0.5)
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)


async def _until(met: Callable[[], bool], deadline: float) -> None:
    loop = asyncio.get_running_loop()
    while not met() and loop.time() < deadline:
        await asyncio.sleep(0.005)


# ruff: noqa: D102 -- asyncio says what its callbacks are


_LINGER_BYTES = 1 << 30  # read and thrown away after a last answer, so that it can be read
_EXTRA_CONNECTIONS = 64  # beyond the limit, for probes and for being told 503
_MAX_PIPELINED = 128
_buffer = memoryview(bytearray(64 << 10))  # one for all: it is parsed before the next read


class ClientConnection(asyncio.BufferedProtocol):
    """One client: its requests are read ahead a little and answered one after the other.

    Attributes:
        beyond: It came when there were too many: a probe is answered on it, and then it ends.
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
        self.beyond = False
        self.lingering = False
        self.clogged = False
        self.turning = False
        self.paused = False
        self.discarded = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.deadline = self.front.loop.time() + self.state.config.read_timeout_s
        over = len(self.front.connections) + 1 - self.state.config.max_connections
        if over > 0 and self.front.make_room():
            over -= 1
        self.front.connections[self] = None
        self.beyond = over > 0
        if over > _EXTRA_CONNECTIONS:
            self.state.refused["connections"] += 1
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.front.connections.pop(self, None)
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

    def idle(self) -> bool:
        """Whether nothing was asked on it that is not answered, nor begins to be."""
        return (
            self.current is None
            and self.reader.reading is None
            and not (self.queue or self.lingering or self.clogged)
        )

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
        found = request.refusal
        if self.beyond and found is None:
            request.close = self.reader.deaf = True
            if request.route not in _UNLIMITED:
                found = Refusal(503, "connections", "too many connections are open")
        found = found or front.turn_away(request)
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
