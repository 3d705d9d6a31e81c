"""A stand-in for Triton over HTTP and gRPC, and a plain client: what tests of the front share."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from albert_deploy.scripts.serving.front.front import Front, FrontConfig, Upstream

DEAD = "Stub process 'albert_0_0' is not healthy."
INFER = "/v2/models/albert/infer"
Reply = tuple[int, bytes] | bytes | None


@dataclass(kw_only=True)
class FakeTriton:
    """Echoes bodies; `behave` may answer otherwise.

    A `behave` that returns (status, body) answers so, bytes go over the wire as they are, and
    None breaks the connection.
    """

    behave: Callable[[str, bytes], Awaitable[Reply]] | None = None
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    rpc: Callable[[str, bytes, Any], Awaitable[bytes]] | None = None
    rpcs: list[tuple[str, bytes, float | None, dict[str, str]]] = field(default_factory=list)
    grpc_server: Any = None
    grpc_port: int = 0

    async def start(self, port: int = 0) -> tuple[str, int]:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return ("127.0.0.1", self.server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            for writer in list(self.writers):
                writer.transport.abort()
            self.server = None
        if self.grpc_server is not None:
            await self.grpc_server.stop(0)
            self.grpc_server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                path = head[0].split(" ")[1]
                self.seen.append((head[0], headers, body))
                reply: Reply = (200, body)
                if self.behave is not None:
                    reply = await self.behave(path, body)
                if reply is None:
                    break
                if not isinstance(reply, bytes):
                    status, body = reply
                    reply = (
                        b"HTTP/1.1 %d X\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n%b"
                        % (status, len(body), body)
                    )
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def start_grpc(self, port: int = 0) -> tuple[str, int]:
        fake = self

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                async def handle(request: bytes, context: Any) -> bytes:
                    metadata = {k: str(v) for k, v in context.invocation_metadata()}
                    left = context.time_remaining()
                    fake.rpcs.append((details.method, request, left, metadata))
                    if fake.rpc is not None:
                        return await fake.rpc(details.method, request, context)
                    return request

                return grpc.unary_unary_rpc_method_handler(handle)

        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self.grpc_server = grpc.aio.server(options=options)
        self.grpc_server.add_generic_rpc_handlers((Handler(),))
        self.grpc_port = self.grpc_server.add_insecure_port(f"127.0.0.1:{port}")
        await self.grpc_server.start()
        return ("127.0.0.1", self.grpc_port)


@dataclass(kw_only=True)
class World:
    """A front before a fake, and what it said of workers that died."""

    front: Front
    fake: FakeTriton
    upstream: Upstream
    died: list[str]

    def open(self) -> None:
        self.front.open(self.upstream)


def play(
    scenario: Callable[[World], Coroutine[Any, Any, None]],
    *,
    with_grpc: bool = False,
    opened: bool = True,
    **config: Any,
) -> None:
    """Run a scenario with a front and a fake of its own; both end with it."""

    async def main() -> None:
        fake, died = FakeTriton(), list[str]()
        upstream = Upstream(
            http=await fake.start(), grpc=await fake.start_grpc() if with_grpc else None
        )
        ports: dict[str, Any] = {"http_port": 0, "grpc_port": 0 if with_grpc else None}
        front = Front(FrontConfig(**(ports | config)), worker_died=died.append)
        await front.start()
        world = World(front=front, fake=fake, upstream=upstream, died=died)
        if opened:
            world.open()
        try:
            async with asyncio.timeout(20):
                await scenario(world)
            counts = front.counts
            ended = counts.answered + counts.failed + counts.abandoned
            assert counts.accepted == ended + counts.in_flight
        finally:
            await front.close()
            await fake.stop()

    asyncio.run(main())


def playing(**config: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a test of a scenario: ``play`` gives its first argument, fixtures the others."""

    def decorate(scenario: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(scenario)
        def test(**given: Any) -> None:
            play(lambda world: scenario(world, **given), **config)

        signature = inspect.signature(scenario)
        _, *others = signature.parameters.values()
        test.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return test

    return decorate


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The message, where the answer is an error in the one form that all have."""
        assert self.headers["content-type"] == "application/json"
        (message,) = json.loads(self.body).values()
        assert isinstance(message, str)
        return message


class Client:
    """One connection; reads what comes as strictly as it can."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, world: World) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", world.front.http_port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head_only: bool = False) -> Answer:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert lines[0].startswith("HTTP/1.1 ")
        headers = {}
        for line in filter(None, lines[1:]):
            name, value = line.split(": ", 1)
            assert name.lower() not in headers
            headers[name.lower()] = value
        status = int(lines[0].split(" ")[1])
        length = 0 if status == 100 or head_only else int(headers["content-length"])
        return Answer(status, headers, await self.reader.readexactly(length))

    async def ended(self) -> bool:
        """Whether the front ended the connection, and nothing but the answers read came."""
        try:
            async with asyncio.timeout(5):
                return await self.reader.read() == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.transport.abort()


def post(body: bytes, path: str = INFER, headers: str = "") -> bytes:
    """An inference request."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


async def ask(world: World, data: bytes) -> Answer:
    """One request on a connection of its own."""
    client = await Client.to(world)
    try:
        client.send(data)
        return await client.answer()
    finally:
        client.close()


async def until(met: Callable[[], bool]) -> None:
    """Let the loop run till something holds; the scenario's own time limit ends it else."""
    while not met():
        await asyncio.sleep(0.002)
