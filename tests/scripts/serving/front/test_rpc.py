"""The front over gRPC: bytes of allowed methods pass through, and a dead worker costs no answer."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_upstream import DEAD, World, playing, until

from albert_deploy.runtime.errors import MachineError
from albert_deploy.scripts.serving.front.front import Front, FrontConfig, Upstream

SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"
HEALTH = "/grpc.health.v1.Health/Check"
Code = grpc.StatusCode


@asynccontextmanager
async def channel(world: World) -> AsyncIterator[Any]:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    address = f"127.0.0.1:{world.front.grpc_port}"
    async with grpc.aio.insecure_channel(address, options=options) as opened:
        yield opened


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Code and text of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


@playing(with_grpc=True)
async def test_bytes_of_offered_methods_pass_and_the_rest_is_refused(world: World) -> None:
    async with channel(world) as to:
        offered = "ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelConfig"
        for name in f"{offered} ModelStatistics ModelInfer".split():
            assert await to.unary_unary(SERVICE + name)(b"\x01\xff") == b"\x01\xff"
        assert await to.unary_unary(HEALTH)(b"") == b""
        seen = len(world.fake.rpcs)
        admin = "RepositoryIndex RepositoryModelLoad RepositoryModelUnload TraceSetting"
        for name in f"{admin} LogSettings SystemSharedMemoryRegister Nothing".split():
            code, text = await refusal(to.unary_unary(SERVICE + name)(b""))
            assert (code, name in text) == (Code.PERMISSION_DENIED, True)
        code, _ = await refusal(to.unary_unary("/grpc.health.v1.Health/Watch")(b""))
        assert code is Code.PERMISSION_DENIED
        stream = to.stream_stream(SERVICE + "ModelStreamInfer")(iter([b"1"]))
        code, text = await refusal(stream.read())
        assert (code, "ModelInfer" in text) == (Code.UNIMPLEMENTED, True)
        assert len(world.fake.rpcs) == seen


@playing(with_grpc=True, request_timeout_s=20)
async def test_deadlines_pass_on_and_metadata_does_not(world: World) -> None:
    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(10 if request == b"slow" else 0)
        return request

    world.fake.rpc = rpc
    async with channel(world) as to:
        infer = to.unary_unary(INFER)
        await infer(b"1", timeout=5, metadata=(("x-secret", "1"),))
        await infer(b"2")
        (_, _, left, metadata), (_, _, own, _) = world.fake.rpcs
        assert left is not None
        assert 3 < left <= 5.1
        assert own is not None
        assert own <= 20.1
        assert "x-secret" not in metadata
        assert (await refusal(infer(b"slow", timeout=0.1)))[0] is Code.DEADLINE_EXCEEDED
        assert await infer(b"quick") == b"quick"
        assert not world.died


@playing(with_grpc=True, request_timeout_s=0.1)
async def test_an_answer_that_does_not_come_ends_with_the_fronts_own_deadline(world: World) -> None:
    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(10)
        return request

    world.fake.rpc = rpc
    async with channel(world) as to:
        code, _ = await refusal(to.unary_unary(INFER)(b"1"))
        assert code is Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (Code.INVALID_ARGUMENT, "unexpected shape for input 'text'"),
        (Code.UNAVAILABLE, "Exceeds maximum queue size"),
        (Code.INTERNAL, f"the text said: {DEAD}, so there"),
        (Code.NOT_FOUND, "Request for unknown model"),
    ],
)
@playing(with_grpc=True)
async def test_errors_of_triton_pass_through(
    world: World, code: grpc.StatusCode, text: str
) -> None:
    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        await context.abort(code, text)
        raise AssertionError

    world.fake.rpc = rpc
    async with channel(world) as to:
        assert await refusal(to.unary_unary(INFER)(b"1")) == (code, text)
    assert (world.died, len(world.fake.rpcs)) == ([], 1)
    assert world.front.counts.answered == 1


@playing(with_grpc=True, max_body_bytes=1 << 20)
@pytest.mark.medium
async def test_large_messages_and_bombs_are_refused(world: World) -> None:
    async with channel(world) as to:
        infer, zip_ = to.unary_unary(INFER), grpc.Compression.Gzip
        assert len(await infer(bytes(1 << 20))) == 1 << 20
        assert len(await infer(bytes(1 << 20), compression=zip_)) == 1 << 20
        for compression in (None, zip_, grpc.Compression.Deflate):
            for size in ((1 << 20) + 1, 100 << 20):
                code, text = await refusal(infer(bytes(size), compression=compression))
                assert (code, "larger than max" in text) == (Code.RESOURCE_EXHAUSTED, True)
        assert len(world.fake.rpcs) == 2


@playing(with_grpc=True, opened=False, hold_s=0.6)
async def test_while_held_health_is_answered_and_inference_waits(world: World) -> None:
    async with channel(world) as to:
        assert await to.unary_unary(SERVICE + "ServerLive")(b"") == b"\x08\x01"
        assert await to.unary_unary(SERVICE + "ServerReady")(b"") == b""
        assert await to.unary_unary(SERVICE + "ModelReady")(b"x") == b""
        assert await to.unary_unary(HEALTH)(b"") == b"\x08\x02"
        code, _ = await refusal(to.unary_unary(SERVICE + "ServerMetadata")(b""))
        assert code is Code.UNAVAILABLE
        infer = to.unary_unary(INFER)
        job = asyncio.ensure_future(infer(b"1"))
        gone = infer(b"left")
        await until(lambda: world.front.counts.in_flight == 2)
        gone.cancel()
        await until(lambda: world.front.counts.abandoned == 1)
        world.open()
        assert await job == b"1"
        assert [request for _, request, _, _ in world.fake.rpcs] == [b"1"]
        world.front.hold("a new model is being loaded")
        code, text = await refusal(infer(b"2"))
        assert (code, "a new model is being loaded" in text) == (Code.UNAVAILABLE, True)


def test_the_encoded_health_answers_are_what_tritons_messages_say() -> None:
    pb = pytest.importorskip("tritonclient.grpc.service_pb2")
    assert pb.ServerLiveResponse.FromString(b"\x08\x01").live
    assert not pb.ServerReadyResponse.FromString(b"").ready
    assert not pb.ModelReadyResponse.FromString(b"").ready


@playing(with_grpc=True)
async def test_a_dead_stub_holds_and_the_request_is_sent_again(world: World) -> None:
    sick = True

    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        if sick:
            await context.abort(Code.INTERNAL, DEAD)
        return request

    world.fake.rpc = rpc
    async with channel(world) as to:
        infer = to.unary_unary(INFER)
        jobs = [asyncio.ensure_future(infer(b"%d" % i)) for i in range(4)]
        await until(lambda: bool(world.died))
        assert DEAD in world.died[0]
        sick = False
        world.open()
        assert [await job for job in jobs] == [b"%d" % i for i in range(4)]
        assert len(world.died) == 1
        sick, job = True, asyncio.ensure_future(infer(b"poison"))
        for n in (2, 3):
            await until(lambda n=n: len(world.died) == n)  # type: ignore[misc]
            world.open()
        code, text = await refusal(job)
        assert (code, "3 tries" in text) == (Code.UNAVAILABLE, True)
        assert world.front.counts.failed == 1


@playing(with_grpc=True)
async def test_two_hundred_requests_while_triton_dies_once_each_get_their_own(world: World) -> None:
    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(random.random() * 0.02)
        return b"answer to " + request

    async def restart() -> None:
        await until(lambda: len(world.fake.rpcs) > 60)
        await world.fake.grpc_server.stop(0)
        await until(lambda: bool(world.died))
        address = await world.fake.start_grpc()
        world.front.open(Upstream(http=world.upstream.http, grpc=address))

    world.fake.rpc = rpc
    todo = iter(range(200))

    async def one_client(infer: Any) -> int:
        done = 0
        for i in todo:
            body = b"%d " % i * random.randrange(1, 500)
            try:
                answer = await infer(body)
            except grpc.aio.AioRpcError as error:
                answer = str(error.details()).encode()
            died = b"not asked again" in answer
            assert died or answer == b"answer to " + body
            done += not died
        return done

    async with channel(world) as to:
        infer = to.unary_unary(INFER)
        restarting = asyncio.create_task(restart())
        done = sum(await asyncio.gather(*(one_client(infer) for _ in range(32))))
        await restarting
    counts = world.front.counts
    assert len(world.died) == 1
    assert counts.failed <= 32
    assert (counts.accepted, counts.answered) == (200, done) == (200, 200 - counts.failed)


@playing(with_grpc=True, max_in_flight=3)
async def test_a_full_queue_refuses_at_once_but_not_probes(world: World) -> None:
    gate = asyncio.Event()

    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        if method == INFER:
            await gate.wait()
        return request

    world.fake.rpc = rpc
    async with channel(world) as to:
        infer = to.unary_unary(INFER)
        jobs = [asyncio.ensure_future(infer(b"1")) for _ in range(3)]
        await until(lambda: world.front.counts.in_flight == 3)
        code, text = await refusal(infer(b"2"))
        assert (code, "full" in text) == (Code.RESOURCE_EXHAUSTED, True)
        assert await to.unary_unary(SERVICE + "ServerReady")(b"\x08\x01") == b"\x08\x01"
        gate.set()
        assert [await job for job in jobs] == [b"1"] * 3
    assert world.front.counts.refused == {"full": 1}


@playing(with_grpc=True)
async def test_drain_answers_what_is_accepted_and_takes_nothing_new(world: World) -> None:
    gate = asyncio.Event()

    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        await gate.wait()
        return request

    world.fake.rpc = rpc
    async with channel(world) as to:
        infer = to.unary_unary(INFER)
        jobs = [asyncio.ensure_future(infer(b"%d" % i)) for i in range(20)]
        await until(lambda: world.front.counts.in_flight == 20)
        drain = asyncio.create_task(world.front.drain(5))
        await asyncio.sleep(0.05)
        assert (await refusal(infer(b"late")))[0] is Code.UNAVAILABLE
        gate.set()
        assert [await job for job in jobs] == [b"%d" % i for i in range(20)]
        assert await drain == 0
        assert world.front.counts.accepted == 20


@playing(with_grpc=True)
async def test_drain_counts_what_is_not_answered_in_time(world: World) -> None:
    async def rpc(method: str, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(10)
        return request

    world.fake.rpc = rpc
    async with channel(world) as to:
        infer = to.unary_unary(INFER)
        jobs = [asyncio.ensure_future(infer(b"1")) for _ in range(3)]
        await until(lambda: world.front.counts.in_flight == 3)
        assert await world.front.drain(0.1) == 3
        for job in jobs:
            assert (await refusal(job))[0] is Code.UNAVAILABLE


@playing(with_grpc=True)
async def test_a_taken_port_is_named_and_leaves_no_listener(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    port = world.front.grpc_port
    second = Front(FrontConfig(http_port=0, grpc_port=port), worker_died=print)
    with pytest.raises(MachineError, match=rf"gRPC port {port} "):
        await second.start()
    with pytest.raises(OSError, match=r"refused|failed"):
        await asyncio.open_connection("127.0.0.1", second.http_port)
