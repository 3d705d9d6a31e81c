"""The front's HTTP half: listens, decides who is turned away, and sweeps over all time limits."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Literal

from albert_deploy.runtime.errors import MachineError
from albert_deploy.scripts.serving.front_client import ClientConnection
from albert_deploy.scripts.serving.front_pool import Pool
from albert_deploy.scripts.serving.front_request import Request
from albert_deploy.scripts.serving.front_routes import Refusal, Route
from albert_deploy.scripts.serving.front_state import FrontState
from albert_deploy.scripts.serving.front_upstream import Done, Job

_UNLIMITED = frozenset({Route.LIVE, Route.READY, Route.METRICS})


class HttpFront:
    """All HTTP clients, and the pool of connections to Triton behind them."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.pool = Pool(state)
        self.connections: set[ClientConnection] = set()
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

    def turn_away(self, request: Request) -> Refusal | None:
        """Why a whole request is not accepted now, if it is not."""
        state = self.state
        if request.bad_json_length():
            return Refusal(
                400, "malformed", "Inference-Header-Content-Length is no number within the body"
            )
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
