"""Sends the front's HTTP requests to Triton over kept connections, holds them, sends them again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import httptools

from albert_deploy.scripts.serving.front.routes import JSON_TYPE, grown
from albert_deploy.scripts.serving.front.state import DEAD_STUB, FrontState

_DIED = "the server died while it had this request, which is not asked again"


class Pool:
    """Sends jobs to Triton, holds them while there is no worker, and sends them again."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.idle: dict[bool, list[UpstreamConnection]] = {False: [], True: []}
        self.active: set[Job] = set()  # sent, being connected, or waiting
        self.waiting: dict[Job, None] = {}
        self._connects: set[asyncio.Task[None]] = set()

    def submit(self, job: Job) -> None:
        """Take one accepted request."""
        self.active.add(job)
        self._send(job)

    def drop(self, job: Job) -> None:
        """Forget who asked; what is already sent is read and thrown away."""
        job.done = None
        if job.connection is None:
            self.active.discard(job)
            self.waiting.pop(job, None)

    def _send(self, job: Job) -> None:
        state = self.state
        if job.again and state.held is not None:
            job.hold_until = self.loop.time() + state.config.hold_s
            self.waiting[job] = None
            return
        idle = self.idle[job.metrics]
        while idle:
            connection = idle.pop()
            if connection.usable():
                connection.begin(job)
                return
            connection.abort()
        self._dial(job)

    def _dial(self, job: Job) -> None:
        task = self.loop.create_task(self._connect(job))
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    async def _connect(self, job: Job) -> None:
        state, upstream = self.state, self.state.upstream
        generation = state.generation
        address = upstream and (upstream.metrics if job.metrics else upstream.http)
        if not address:
            self._fail(job, 503, state.held or "there is nothing to ask")
            return
        try:
            async with asyncio.timeout(5.0):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self, job.metrics, generation), *address
                )
        except OSError as error:
            job.attempts += 1
            self.state.lost(generation, f"Triton is gone: it cannot be reached: {error}")
            # A kept connection broke under it: not because that was old, as Triton is gone.
            if job.sent and not self.state.ours:
                self._fail(job, 503, _DIED)
            else:
                self._again(job, f"it cannot be reached: {error}")
            return
        if job not in self.active:  # its client left, or it took too long
            if connection.usable():
                self.idle[job.metrics].append(connection)
            else:
                connection.abort()
        elif connection.usable():
            connection.begin(job)
        else:
            connection.abort()
            self._send(job)

    def broken(self, job: Job, generation: int, why: str, *, fresh: bool) -> None:
        """The upstream went while it had a request; a kept connection may merely have grown old.

        What Triton died of must not reach the next one: such a request is not sent again.
        """
        if fresh and not job.metrics:
            self.state.lost(generation, f"Triton is gone: {why}")
        if fresh and self.state.ours:
            self._again(job, why)
        elif fresh:
            self._fail(job, 503, _DIED)
        elif job.done is not None and job in self.active:
            self.state.retried += 1
            self._dial(job)
        else:
            self.active.discard(job)

    def answered(
        self, job: Job, generation: int, status: int, headers: bytes, body: bytes | bytearray
    ) -> None:
        """Triton's answer: to the client, unless it says that its worker is gone."""
        if status == 500 and job.again:
            text = body[-400:].decode("utf-8", "replace")
            if DEAD_STUB.search(text):
                job.sent = False
                self.state.lost(generation, f"a worker is gone: {text}")
                self._again(job, "its worker died")
                return
        self.active.discard(job)
        done, job.done = job.done, None
        if done is not None:
            done(status, headers, body)

    def _again(self, job: Job, why: str) -> None:
        if job.done is None:
            self.active.discard(job)
        elif job.again and job.attempts <= self.state.config.retries:
            self.state.retried += 1
            self._send(job)
        else:
            self._fail(job, 503, f"no answer after {job.attempts} tries: {why}")

    def _fail(self, job: Job, status: int, message: str) -> None:
        self.active.discard(job)
        self.waiting.pop(job, None)
        done, job.done = job.done, None
        if done is not None:
            done(status, None, message.encode())

    def resume(self) -> None:
        """The upstream is open again: send what waits, close what led to the old one."""
        for idle in self.idle.values():
            for connection in list(idle):
                connection.abort()
            idle.clear()
        waiting, self.waiting = list(self.waiting), {}
        for job in waiting:
            self._send(job)

    def sweep(self, now: float) -> None:
        """Give up what waited or ran too long."""
        for job in [j for j in self.waiting if now >= j.hold_until]:
            self._fail(job, 503, f"no worker came back in time: {self.state.held}")
        for job in [j for j in self.active if now >= j.deadline]:
            if job.connection is not None:
                job.connection.abort()
                job.connection = None
            self._fail(job, 504, "no answer in time")

    async def close(self) -> None:
        """Fail what is left and end all connections."""
        for job in list(self.active):
            if job.connection is not None:
                job.connection.abort()
            self._fail(job, 503, "the server stopped")
        for task in list(self._connects):
            task.cancel()
        await asyncio.gather(*self._connects, return_exceptions=True)
        for idle in self.idle.values():
            for connection in list(idle):
                connection.abort()


# ruff: noqa: D102 -- asyncio and httptools say what their callbacks are


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
        "sent",
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
        self.sent = False
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
        job.sent = True
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
