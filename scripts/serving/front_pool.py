"""Sends the front's HTTP requests to Triton over kept connections, holds them, sends them again."""

from __future__ import annotations

import asyncio

from albert_deploy.scripts.serving.front_state import DEAD_STUB, FrontState
from albert_deploy.scripts.serving.front_upstream import Job, UpstreamConnection


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
            self.broken(job, generation, f"it cannot be reached: {error}", fresh=True)
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
        """A request found its upstream gone; a kept connection may merely have grown old."""
        if fresh and not job.metrics:
            self.state.lost(generation, f"Triton is gone: {why}")
        if not fresh and job.done is not None and job in self.active:
            self.state.retried += 1
            self._dial(job)
        else:
            self._again(job, why)

    def answered(
        self, job: Job, generation: int, status: int, headers: bytes, body: bytes | bytearray
    ) -> None:
        """Triton's answer: to the client, unless it says that its worker is gone."""
        if status == 500 and job.again:
            text = body[-400:].decode("utf-8", "replace")
            if DEAD_STUB.search(text):
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
