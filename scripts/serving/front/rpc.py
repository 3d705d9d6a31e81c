"""The front's gRPC half: passes the bytes of allowed methods through, holds and sends again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from albert_deploy.runtime.errors import MachineError
from albert_deploy.scripts.serving.front.state import DEAD_STUB, FrontState, Upstream

_SERVICE = "/inference.GRPCInferenceService/"
_INFER = _SERVICE + "ModelInfer"
_OFFERED = {
    _INFER,
    _SERVICE + "ServerMetadata",
    _SERVICE + "ModelMetadata",
    _SERVICE + "ModelConfig",
    _SERVICE + "ModelStatistics",
}
# While there is no worker the front answers these itself: the encoded messages
# ServerLiveResponse(live=True), ServerReadyResponse(), ModelReadyResponse() and
# HealthCheckResponse(status=NOT_SERVING).
_HEALTH = {
    _SERVICE + "ServerLive": b"\x08\x01",
    _SERVICE + "ServerReady": b"",
    _SERVICE + "ModelReady": b"",
    "/grpc.health.v1.Health/Check": b"\x08\x02",
}
# What gRPC itself says of a connection that is gone; Triton's own UNAVAILABLE (a full queue) is
# none of these and is passed on.
_GONE = re.compile(
    r"failed to connect|connection (?:reset|refused|attempt timed out|dropped)|socket closed"
    r"|broken pipe|goaway|end of tcp stream|cancelling all calls|transport closed|recvmsg"
    r"|stream removed",
    re.IGNORECASE,
)
# Of those, a call that never left.
_NOT_SENT = re.compile(r"failed to connect|connection (?:refused|attempt timed out)", re.I)
_Call = Callable[..., Awaitable[bytes]]


class GrpcFront(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC server that knows methods by name alone."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.server: Any = None
        self.port = 0
        self._channel: Any = None
        self._calls: dict[str, _Call] = {}
        self._old: set[asyncio.Task[None]] = set()
        self._handlers = {m: self._handler(m) for m in (*_OFFERED, *_HEALTH)}

    async def start(self) -> None:
        """Bind and listen.

        Raises:
            MachineError: The port cannot be had.
        """
        config = self.state.config
        self.server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", config.max_header_bytes),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=4 * config.max_in_flight + 64,
        )
        self.server.add_generic_rpc_handlers((self,))
        try:
            self.port = self.server.add_insecure_port(_address(config.host, config.grpc_port))
        except RuntimeError as error:
            raise MachineError(
                f"gRPC port {config.grpc_port} of {config.host} cannot be had (taken?); "
                "choose another, 0 for a free one, or None for no gRPC"
            ) from error
        await self.server.start()

    def open_to(self, upstream: Upstream) -> None:
        """Send from now on to `upstream`, over a channel without a memory of failures."""
        self._retire()
        if upstream.grpc is not None:
            host, port = upstream.grpc
            self._channel = grpc.aio.insecure_channel(
                _address(host, port),
                options=[
                    ("grpc.max_receive_message_length", -1),
                    ("grpc.max_send_message_length", -1),
                    ("grpc.enable_retries", 0),
                    ("grpc.use_local_subchannel_pool", 1),
                ],
            )
            self._calls = {m: self._channel.unary_unary(m) for m in (*_OFFERED, *_HEALTH)}

    def _retire(self) -> None:
        if self._channel is not None:
            closing = self._channel.close(self.state.config.request_timeout_s)
            task = self.loop.create_task(closing)
            self._old.add(task)
            task.add_done_callback(self._old.discard)
        self._channel, self._calls = None, {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method; for one that is not offered, a handler that says so."""
        found = self._handlers.get(handler_call_details.method)
        if found is not None:
            return found
        self.state.refused["not_offered"] += 1
        return grpc.stream_stream_rpc_method_handler(_refuse(handler_call_details.method))

    def _handler(self, method: str) -> Any:
        held_answer = _HEALTH.get(method)
        again = method == _INFER

        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            state = self.state
            if held_answer is not None:
                if state.held is not None or (state.draining and not method.endswith("Live")):
                    return held_answer
            elif state.draining:
                state.refused["draining"] += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            elif state.in_flight >= state.config.max_in_flight:
                state.refused["full"] += 1
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full, try again later"
                )
            state.take()
            try:
                code, answer = await self._ask(method, request, again, context.time_remaining())
            except BaseException:  # the client's cancellation
                state.abandoned += 1
                raise
            finally:
                state.in_flight -= 1
            if isinstance(answer, bytes):
                state.answered += 1
                return answer
            if code is None:
                state.failed += 1
                code = grpc.StatusCode.UNAVAILABLE
            else:
                state.answered += 1
            await context.abort(code, answer)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _ask(
        self, method: str, request: bytes, again: bool, left_s: float | None
    ) -> tuple[grpc.StatusCode | None, bytes | str]:
        """Triton's answer (bytes), its error (code and text), or why there is none (text)."""
        state, config = self.state, self.state.config
        limit_s = config.request_timeout_s if left_s is None else left_s
        deadline = self.loop.time() + min(limit_s, config.request_timeout_s)
        tries = 0
        while True:
            if again and state.held is not None and not await self._opened(deadline):
                return None, f"no worker came back in time: {state.held}"
            call, channel, generation = self._calls.get(method), self._channel, state.generation
            if call is None:
                return None, state.held or "Triton offers no gRPC"
            try:
                return None, await call(request, timeout=max(0.0, deadline - self.loop.time()))
            except grpc.aio.AioRpcError as error:
                code, text = error.code(), error.details() or ""
            if code is grpc.StatusCode.INTERNAL and DEAD_STUB.search(text):
                why = f"a worker is gone: {text}"
            elif code is grpc.StatusCode.CANCELLED or (
                code is grpc.StatusCode.UNAVAILABLE and (_GONE.search(text) or not _ready(channel))
            ):  # Nobody but a server that ends cancels a call.
                why = f"Triton is gone: {text}"
            else:
                return code, text
            state.lost(generation, why)
            died = code is not grpc.StatusCode.INTERNAL and not _NOT_SENT.search(text)
            if died and not state.ours:
                return None, "the server died while it had this call, which is not asked again"
            tries += 1
            if not again or tries > config.retries:
                return None, f"no answer after {tries} tries: {why}"
            state.retried += 1

    async def _opened(self, deadline: float) -> bool:
        wait_s = min(self.state.config.hold_s, deadline - self.loop.time())
        try:
            async with asyncio.timeout(wait_s):
                await self.state.opened.wait()
        except TimeoutError:
            return False
        return True

    async def close(self, grace_s: float | None = None) -> None:
        """Stop listening at once; end what runs after `grace_s`."""
        if self.server is not None:
            await self.server.stop(grace_s)

    async def close_channels(self) -> None:
        """End the connections to Triton."""
        for task in list(self._old):
            task.cancel()
        await asyncio.gather(*self._old, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
            self._channel, self._calls = None, {}


def _address(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ready(channel: Any) -> bool:
    return bool(channel.get_state() is grpc.ChannelConnectivity.READY)


def _refuse(method: str) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]:
    stream = method == _SERVICE + "ModelStreamInfer"
    code = grpc.StatusCode.UNIMPLEMENTED if stream else grpc.StatusCode.PERMISSION_DENIED
    instead = ", use ModelInfer" if stream else ": this server is not administered by its clients"

    async def handle(_: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(code, f"{method} is not offered here{instead}")

    return handle
