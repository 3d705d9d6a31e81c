"""The front: limits, an allow list and retries before a Triton that has none of them."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import TYPE_CHECKING

from albert_deploy.scripts.serving.front.http import HttpFront
from albert_deploy.scripts.serving.front.state import FrontConfig, FrontCounts, FrontState, Upstream

if TYPE_CHECKING:
    from albert_deploy.scripts.serving.front.rpc import GrpcFront

__all__ = ["Front", "FrontConfig", "FrontCounts", "Upstream"]


_GRPC_GRACE_S = 0.5


class Front:
    """A reverse proxy for HTTP and gRPC, of one process and one event loop.

    Requests that are not on the allow list or over a limit end here. Inference is pure: where its
    worker dies, it waits until `open` and is sent again.
    """

    def __init__(self, config: FrontConfig, *, worker_died: Callable[[str], None]) -> None:
        """Make a front that holds until `open`.

        Args:
            config: Its limits.
            worker_died: Told why, from the event loop, once until the next `open`, when Triton or
                a process of its Python backend is gone; the front holds by then.
        """
        self._state = FrontState(config=config, worker_died=worker_died)
        self._http: HttpFront | None = None
        self._grpc: GrpcFront | None = None

    async def start(self) -> None:
        """Bind both ports.

        Raises:
            MachineError: A port cannot be had; the message names it.
        """
        config = self._state.config
        _raise_file_limit(2 * (config.max_connections + config.max_in_flight) + 256)
        self._http = HttpFront(self._state)
        await self._http.start()
        if config.grpc_port is not None:
            from albert_deploy.scripts.serving.front.rpc import GrpcFront

            self._grpc = GrpcFront(self._state)
            try:
                await self._grpc.start()
            except BaseException:
                await self._http.close()
                raise

    @property
    def http_port(self) -> int:
        """The port that HTTP is spoken on."""
        return self._started().port

    @property
    def grpc_port(self) -> int | None:
        """The port that gRPC is spoken on, None without gRPC."""
        return self._grpc.port if self._grpc is not None else None

    @property
    def counts(self) -> FrontCounts:
        """What became of the requests so far."""
        return self._state.counts()

    def open(self, upstream: Upstream) -> None:
        """Let requests flow (again), those that wait first."""
        http = self._started()
        self._state.open_to(upstream)
        if self._grpc is not None:
            self._grpc.open_to(upstream)
        http.pool.resume()

    def hold(self, why: str, *, ours: bool = False) -> None:
        """Let inference wait for `open`, and say not ready at once.

        Args:
            why: What clients are told meanwhile.
            ours: Triton is about to be ended from here: what it has now is asked again.
        """
        self._state.hold(why, ours=ours)

    async def drain(self, timeout_s: float) -> int:
        """Take nothing new, and wait for what is accepted.

        Args:
            timeout_s: How long to wait at most.

        Returns:
            How many accepted requests were not answered in time.
        """
        http, loop = self._started(), asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self._state.draining = True
        http.stop_listening()
        while (self._state.in_flight or http.unsent()) and loop.time() < deadline:
            await asyncio.sleep(0.005)
        left = self._state.in_flight
        if self._grpc is not None:  # Only now: until then new calls are refused with words.
            await self._grpc.close(_GRPC_GRACE_S)
        return left

    async def close(self) -> None:
        """End everything at once; what is not answered gets 503 or UNAVAILABLE."""
        self._state.draining = True
        if self._http is not None:
            await self._http.close()
        if self._grpc is not None:
            await self._grpc.close()
            await self._grpc.close_channels()

    def _started(self) -> HttpFront:
        if self._http is None:
            raise RuntimeError("the front is not started: call start() first")
        return self._http


def _raise_file_limit(wanted: int) -> None:
    """Each connection is an open file; the usual soft limit of 1024 is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        top = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, top), hard))
