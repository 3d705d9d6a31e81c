"""The front over HTTP: limits, allow list, retries, order and endings, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from fake_upstream import DEAD, INFER, Client, Reply, World, ask, get, play, playing, post, until

from albert_deploy.runtime.errors import MachineError
from albert_deploy.scripts.serving.front.front import Front, FrontConfig, Upstream

CHUNKED = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
DEAD_ANSWER = (500, b'{"error":"%b"}' % DEAD.encode())


@playing()
async def test_an_answer_passes_through_with_its_headers_and_over_kept_connections(
    world: World,
) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nServer: t\r\n"
            b"Inference-Header-Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )

    world.fake.behave = behave
    client = await Client.to(world)
    lines = (
        "Content-Type: a/b\r\nAccept: c/d\r\nInference-Header-Content-Length: 2\r\n"
        "Accept-Encoding: gzip\r\nX-Secret: 1\r\nConnection: keep-alive\r\n"
    )
    for _ in range(5):
        client.send(post(b"{}binary", headers=lines))
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"abcde")
        assert answer.headers == {
            "content-type": "application/octet-stream",
            "inference-header-content-length": "3",
            "content-length": "5",
        }
    line, headers, body = world.fake.seen[-1]
    assert (line, body) == (f"POST {INFER} HTTP/1.1", b"{}binary")
    host = "{}:{}".format(*world.upstream.http)
    assert headers == {
        "host": host,
        "content-type": "a/b",
        "accept": "c/d",
        "inference-header-content-length": "2",
        "content-length": "8",
    }
    assert world.fake.connections == 1
    client.close()


@playing()
async def test_errors_of_triton_pass_through(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        return 500, b'{"error":"the text said: %b, so there"}' % DEAD.encode()

    world.fake.behave = behave
    answer = await ask(world, post(b"1"))
    assert (answer.status, "so there" in answer.body.decode()) == (500, True)
    assert not world.died


OFFERED = [
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/albert",
    "/v2/models/a.b-c_D1/versions/12",
    "/v2/models/albert/ready",
    "/v2/models/albert/versions/1/ready",
    "/v2/models/albert/stats",
    "/v2/models/albert/config",
    "/v2/models/stats",
]
REFUSED = [
    (get("/"), 400),
    (get("/v3"), 404),
    (get("/v2/"), 400),
    (get("/v2/models"), 404),
    (get("/v2/models/albert/versions/x"), 404),
    (get("/v2/models/../health/live"), 400),
    (get("/v2/models/.."), 400),
    (get("/v2/models/./ready"), 400),
    (get("/v2//health/live"), 400),
    (get("/v2/models/al%62ert"), 400),
    (get("/v2/models/a%2Fb"), 400),
    (get("/v2/models/albert?x=1"), 400),
    (get("/v2/models/albert#x"), 400),
    (get("/v2/models/" + "a" * 256), 404),
    (get("http://127.0.0.1/v2"), 400),
    (get("/v2/repository/index"), 403),
    (post(b"{}", "/v2/repository/index"), 403),
    (post(b"{}", "/v2/repository/models/albert/load"), 403),
    (post(b"{}", "/v2/repository/models/albert/unload"), 403),
    (post(b"{}", "/v2/models/albert/unload"), 403),
    (get("/v2/logging"), 403),
    (post(b"{}", "/v2/trace/setting"), 403),
    (get("/v2/models/albert/trace/setting"), 403),
    (get("/v2/systemsharedmemory/status"), 403),
    (post(b"{}", "/v2/cudasharedmemory/region/a/register"), 403),
    (post(b"{}", "/v2/models/albert/generate_stream"), 404),
    (get(INFER), 405),
    (post(b"", "/v2/health/live"), 405),
    (post(b"{}", "/v2/models/albert"), 405),
    (b"DELETE /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
    (b"GET /v2 HTTP/2.0\r\nHost: x\r\n\r\n", 400),
    (get("/v2", "Host: y\r\n"), 400),
    (get("/v2", "Content-Length: 1\r\n") + b"x", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01", 400),
    (post(b"x", headers="Content-Encoding: gzip\r\n"), 415),
    (post(b"x", headers="Content-Encoding: deflate\r\n"), 415),
    (post(b"x", headers="Content-Length: 1\r\n"), 400),
    (post(b"x", headers="Content-Length: 2\r\n"), 400),
    (post(b"x", headers="Transfer-Encoding: chunked\r\n"), 400),
    (CHUNKED.replace(b"chunked\r\n", b"chunked\r\nContent-Length: 3\r\n") + b"0\r\n\r\n", 400),
    (CHUNKED.replace(b"chunked", b"gzip, chunked"), 400),
    (CHUNKED.replace(b"chunked", b"chunked\r\nTransfer-Encoding: chunked"), 400),
    (CHUNKED.replace(b"chunked", b"xchunked"), 400),
    (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    (CHUNKED + b"zz\r\n", 400),
    (CHUNKED + b"-1\r\nx", 400),
    (CHUNKED + b"3\r\nabcd\r\n", 400),
    (f"POST {INFER} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 411),
    (f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".encode(), 400),
    (f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx".encode(), 400),
    (f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx".encode(), 400),
    (f"POST {INFER} HTTP/1.1\r\nHost : x\r\nContent-Length: 1\r\n\r\nx".encode(), 400),
    (f"POST {INFER} HTTP/1.1\r\nHost: x\r\n Content-Length: 1\r\n\r\nx".encode(), 400),
    (f"POST {INFER} HTTP/1.1\nHost: x\nContent-Length: 1\n\nx".encode(), 400),
    (post(b"x", headers="Expect: the worst\r\n"), 417),
    (post(b"{}", headers="Inference-Header-Content-Length: 3\r\n"), 400),
    (post(b"{}", headers="Inference-Header-Content-Length: -1\r\n"), 400),
    (post(b"{}", headers="Inference-Header-Content-Length: 1_0\r\n"), 400),
    (post(b"{}", headers="Inference-Header-Content-Length: 0x1\r\n"), 400),
    (post(b"x", headers="Connection: Upgrade\r\nUpgrade: h2c\r\n"), 400),
    (get("/v2", f"X: {'a' * 5000}\r\n"), 431),
    (get("/" + "a" * 5000), 431),
]


@playing(max_header_bytes=4096)
async def test_what_is_offered_reaches_triton_and_nothing_else_does(world: World) -> None:
    for path in OFFERED:
        assert (await ask(world, get(path))).status == 200, path
    for path in (INFER, "/v2/models/a/versions/1/infer", "/v2/models/a/generate"):
        assert (await ask(world, post(b"x", path))).body == b"x"
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    assert (await ask(world, get("/v2", upgrade))).status == 200
    passed = len(world.fake.seen)
    assert passed == len(OFFERED) + 4
    for data, status in REFUSED:
        answer = await ask(world, data)
        assert answer.status == status, data
        assert answer.error
    client = await Client.to(world)
    client.send(b"HEAD /v2 HTTP/1.1\r\nHost: x\r\n\r\n" + get("/v2"))
    head = await client.answer(head_only=True)
    assert (head.status, head.headers["allow"]) == (405, "GET")
    assert (await client.answer()).status == 200
    client.close()
    assert len(world.fake.seen) == passed + 1
    counts = world.front.counts
    assert sum(counts.refused.values()) == len(REFUSED) + 1


@playing(max_header_bytes=8192)
async def test_an_endless_header_and_a_chunk_with_trailers(world: World) -> None:
    client = await Client.to(world)
    client.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(64):
            client.send(b"a" * 4096)
            await client.writer.drain()
            await asyncio.sleep(0)
    assert (await client.answer()).status == 431
    assert await client.ended()
    client.close()
    trailers = b"Inference-Header-Content-Length: 9\r\nContent-Encoding: gzip\r\n"
    client = await Client.to(world)
    client.send(CHUNKED + b"2;a=b\r\nab\r\n1\r\nc\r\n0\r\n" + trailers + b"\r\n" + post(b"next"))
    assert (await client.answer()).body == b"abc"
    assert (await client.answer()).body == b"next"
    client.close()
    for _, headers, _ in world.fake.seen:
        assert set(headers) == {"host", "content-length"}


@pytest.mark.parametrize("chunked", [False, True])
@playing(max_body_bytes=1000)
async def test_a_body_over_the_limit_gets_413_that_can_be_read(world: World, chunked: bool) -> None:
    def send_all(port: int) -> bytes:
        import socket

        with socket.create_connection(("127.0.0.1", port)) as client:
            if chunked:
                client.sendall(CHUNKED)
                for _ in range(300):
                    client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
            else:
                client.sendall(post(bytes(300 * 65536)))
            received = b""
            while part := client.recv(65536):
                received += part
            return received

    received = await asyncio.to_thread(send_all, world.front.http_port)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in received
    assert received.endswith(b'{"error": "the body is larger than 1000 bytes"}')
    assert (await ask(world, post(bytes(1000)))).status == 200
    assert (await ask(world, CHUNKED + b"3E8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n")).status == 200
    assert (await ask(world, CHUNKED + b"3E9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n")).status == 413
    assert len(world.fake.seen) == 2


@playing(max_buffered_bytes=300_000)
async def test_bodies_in_all_connections_together_are_limited(world: World) -> None:
    first = await Client.to(world)
    first.send(post(bytes(200_000))[:1000])
    await asyncio.sleep(0.02)
    answer = await ask(world, post(bytes(200_000)))
    assert (answer.status, world.front.counts.refused) == (503, {"memory": 1})
    assert (await ask(world, post(bytes(60_000)))).status == 200
    first.close()
    await asyncio.sleep(0.02)
    assert (await ask(world, post(bytes(200_000)))).status == 200


@playing(max_body_bytes=1000)
async def test_expect_100_continue(world: World) -> None:
    client = await Client.to(world)
    head, body = post(b"x" * 10, headers="Expect: 100-continue\r\n").split(b"\r\n\r\n")
    for _ in range(2):
        client.send(head + b"\r\n\r\n")
        assert (await client.answer()).status == 100
        client.send(body)
        assert (await client.answer()).body == body
    client.send(post(b"first") + head + b"\r\n\r\n")  # 100 must not overtake an answer
    assert (await client.answer()).body == b"first"
    assert (await client.answer()).status == 100
    client.send(body)
    assert (await client.answer()).body == body
    client.send(post(bytes(2000), headers="Expect: 100-continue\r\n").split(b"\0")[0])
    assert (await client.answer()).status == 413
    assert await client.ended()
    client.close()


@playing()
async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        await asyncio.sleep(random.random() * 0.01)
        return 200, body

    world.fake.behave = behave
    client = await Client.to(world)
    sent = [b"%d" % i for i in range(40)]
    client.send(b"".join(post(b) + get("/nowhere") for b in sent) + b"garbage\r\n\r\n")
    for body in sent:
        assert (await client.answer()).body == body
        assert (await client.answer()).status == 404
    assert (await client.answer()).status == 400
    assert await client.ended()
    client.close()
    client = await Client.to(world)
    client.send(post(b"1") + get("/nowhere") * 500)  # more than is read ahead: the end
    async with asyncio.timeout(5):
        answers = await client.reader.read()
    assert answers.count(b"HTTP/1.1 404 ") == 128
    assert answers.count(b"HTTP/1.1 503 ") == 1
    client.close()


@pytest.mark.parametrize(("version", "headers", "kept"), [
    ("1.0", "", False),
    ("1.0", "Connection: keep-alive\r\n", True),
    ("1.1", "Host: x\r\n", True),
    ("1.1", "Host: x\r\nConnection: close\r\n", False),
])  # fmt: skip
@playing()
async def test_connections_are_kept_as_the_client_asks(
    world: World, version: str, headers: str, kept: bool
) -> None:
    data = f"GET /v2 HTTP/{version}\r\n{headers}\r\n".encode()
    client = await Client.to(world)
    client.send(data)
    answer = await client.answer()
    assert answer.status == 200
    if kept:
        assert answer.headers.get("connection", "keep-alive") == "keep-alive"
        assert ("connection" in answer.headers) == (version == "1.0")
        client.send(data)
        assert (await client.answer()).status == 200
    else:
        assert answer.headers["connection"] == "close"
        assert await client.ended()
    client.close()


@playing(read_timeout_s=0.2, idle_timeout_s=0.3)
async def test_slow_senders_and_silent_connections_end(world: World) -> None:
    async def drip(at_once: bytes, data: bytes) -> int:
        client = await Client.to(world)
        client.send(at_once)
        answer = asyncio.create_task(client.answer())
        for byte in data:
            if answer.done():
                break
            client.send(bytes([byte]))
            await asyncio.sleep(0.02)
        status = (await answer).status
        assert await client.ended()
        client.close()
        return status

    slow = await asyncio.gather(
        drip(b"", get("/v2")),
        drip(post(b"x" * 99)[:-99], b"x" * 99),
        drip(CHUNKED, b"1\r\na\r\n" * 50),
    )
    assert slow == [408] * 3
    silent = await Client.to(world)
    assert await silent.ended()
    silent.close()
    used = await Client.to(world)
    used.send(post(b"1"))
    assert (await used.answer()).status == 200
    used.send(b"\r\n\r\n")  # allowed before a request, and no reason to wait longer
    assert await used.ended()
    used.close()


@playing()
async def test_two_hundred_requests_while_the_upstream_dies_once_each_get_their_own(
    world: World,
) -> None:
    count = 0

    async def behave(path: str, body: bytes) -> Reply:
        nonlocal count
        count += 1
        if count == 60:
            loop.call_soon(lambda: asyncio.ensure_future(restart()))
        await asyncio.sleep(random.random() * 0.02)
        return 200, b"answer to " + body

    loop = asyncio.get_running_loop()
    restarted: list[int] = []

    async def restart() -> None:
        await world.fake.stop()
        await until(lambda: bool(world.died))
        await asyncio.sleep(0.05)
        await world.fake.start(world.upstream.http[1])
        restarted.append(1)
        world.open()

    world.fake.behave = behave
    todo = iter(range(200))

    async def one_client() -> int:
        client, done = await Client.to(world), 0
        for i in todo:
            body = b"%d " % i * random.randrange(1, 2000)
            client.send(post(body))
            answer = await client.answer()
            if answer.status == 503:
                assert "not asked again" in answer.error
            else:
                assert (answer.status, answer.body) == (200, b"answer to " + body)
                done += 1
        client.close()
        return done

    done = sum(await asyncio.gather(*(one_client() for _ in range(32))))
    counts = world.front.counts
    assert (len(restarted), len(world.died)) == (1, 1)
    # What was under way when it died fails once; all that came after it waited.
    assert 1 <= counts.failed <= 32
    assert (counts.accepted, counts.answered) == (200, done) == (200, 200 - counts.failed)


@playing()
async def test_a_dead_stub_holds_and_the_request_is_sent_again(world: World) -> None:
    sick = True

    async def behave(path: str, body: bytes) -> Reply:
        return DEAD_ANSWER if sick and path == INFER else (200, body)

    world.fake.behave = behave
    jobs = [asyncio.create_task(ask(world, post(b"%d" % i))) for i in range(5)]
    await until(lambda: bool(world.died))
    assert DEAD in world.died[0]
    ready = await ask(world, get("/v2/health/ready"))
    assert (ready.status, DEAD in ready.error) == (503, True)
    assert (await ask(world, get("/v2/models/albert/ready"))).status == 503
    assert (await ask(world, get("/v2/health/live"))).status == 200
    assert (await ask(world, get("/v2/models/albert"))).status == 200
    await asyncio.sleep(0.02)
    sick = False
    world.open()
    assert sorted([(await job).body for job in jobs]) == [b"%d" % i for i in range(5)]
    assert len(world.died) == 1
    assert (await ask(world, get("/v2/health/ready"))).status == 200


@playing()
async def test_a_request_that_kills_every_worker_fails_in_the_end(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        return DEAD_ANSWER

    world.fake.behave = behave
    job = asyncio.create_task(ask(world, post(b"other")))
    for incidents in (1, 2):
        await until(lambda n=incidents: len(world.died) == n)
        world.open()
    answer = await job
    assert (answer.status, "3 tries" in answer.error) == (503, True)
    assert len(world.fake.seen) == 3


@pytest.mark.parametrize("kept", [False, True])
@playing()
async def test_a_request_that_kills_triton_is_never_sent_again(world: World, kept: bool) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        if body != b"poison":
            return 200, body
        await world.fake.stop()
        return None

    world.fake.behave = behave
    if kept:
        assert (await ask(world, post(b"1"))).status == 200
    port = world.upstream.http[1]
    job = asyncio.create_task(ask(world, post(b"poison")))
    answer = await job
    assert (answer.status, "not asked again" in answer.error) == (503, True)
    await until(lambda: bool(world.died))
    await world.fake.start(port)
    world.open()
    assert (await ask(world, post(b"2"))).body == b"2"
    assert [body for _, _, body in world.fake.seen].count(b"poison") == 1


@playing()
async def test_what_runs_while_a_worker_is_replaced_is_asked_again(world: World) -> None:
    slow = True

    async def behave(path: str, body: bytes) -> Reply:
        if slow:
            await asyncio.sleep(60)
        return 200, body

    world.fake.behave = behave
    port = world.upstream.http[1]
    job = asyncio.create_task(ask(world, post(b"1")))
    await until(lambda: bool(world.fake.seen))
    world.front.hold("a worker died", ours=True)
    await world.fake.stop()
    slow = False
    await world.fake.start(port)
    world.open()
    assert (await job).body == b"1"


@playing()
async def test_a_get_that_meets_a_broken_upstream_gets_503_at_once(world: World) -> None:
    await world.fake.stop()
    assert (await ask(world, get("/v2/models/albert"))).status == 503
    await until(lambda: len(world.died) == 1)
    assert (await ask(world, get("/v2/models/albert"))).status == 503
    assert len(world.died) == 1


@playing()
async def test_a_kept_upstream_connection_that_grew_old_is_no_incident(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        await asyncio.sleep(0)
        old = (world.fake.connections, body or path) in {(1, b"2"), (2, "/v2/models/m")}
        return None if old else (200, body)

    world.fake.behave = behave
    assert (await ask(world, post(b"1"))).body == b"1"
    assert (await ask(world, post(b"2"))).body == b"2"
    assert (await ask(world, get("/v2/models/m"))).status == 200
    assert (world.died, world.front.counts.retried) == ([], 2)


@pytest.mark.parametrize("reply", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
    b"no http at all\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb",
])  # fmt: skip
@playing()
async def test_a_broken_answer_reaches_nobody(world: World, reply: bytes) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        if world.fake.connections > 1:
            return 200, body
        writer = next(iter(world.fake.writers))
        writer.write(reply)
        await writer.drain()
        return None

    world.fake.behave = behave
    answer = await ask(world, post(b"1"))
    assert (answer.status, "not asked again" in answer.error) == (503, True)
    await until(lambda: bool(world.died))
    world.open()
    assert (await ask(world, post(b"2"))).body == b"2"


@playing()
async def test_late_failures_of_an_upstream_given_up_are_no_new_incident(world: World) -> None:
    release = asyncio.Event()

    async def behave(path: str, body: bytes) -> Reply:
        if body == b"old" and not release.is_set():
            await release.wait()
            return DEAD_ANSWER
        return 200, body

    world.fake.behave = behave
    job = asyncio.create_task(ask(world, post(b"old")))
    await until(lambda: len(world.fake.seen) == 1)
    world.front.hold("planned")
    world.open()
    release.set()
    assert (await job).body == b"old"
    assert not world.died


@playing(opened=False, hold_s=0.6)
async def test_held_requests_wait_for_open_and_not_for_ever(world: World) -> None:
    job = asyncio.create_task(ask(world, post(b"1")))
    await until(lambda: world.front.counts.in_flight == 1)
    assert (await ask(world, get("/v2/health/live"))).status == 200
    assert (await ask(world, get("/v2"))).status == 503
    world.open()
    assert (await job).body == b"1"
    world.front.hold("a new model is being loaded")
    late = await ask(world, post(b"2"))
    assert (late.status, "a new model is being loaded" in late.error) == (503, True)
    assert not world.died


@playing(request_timeout_s=0.4)
async def test_an_answer_that_does_not_come_gets_504(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        await asyncio.sleep(30 if body == b"slow" else 0)
        return 200, body

    world.fake.behave = behave
    slow = await ask(world, post(b"slow"))
    assert (slow.status, slow.error) == (504, "no answer in time")
    assert (await ask(world, post(b"quick"))).body == b"quick"
    assert not world.died


@playing(max_in_flight=4)
async def test_a_full_queue_refuses_at_once_but_not_probes(world: World) -> None:
    gate = asyncio.Event()

    async def behave(path: str, body: bytes) -> Reply:
        if body:
            await gate.wait()
        return 200, body

    world.fake.behave = behave
    jobs = [asyncio.create_task(ask(world, post(b"%d" % i))) for i in range(4)]
    await until(lambda: world.front.counts.in_flight == 4)
    full = await ask(world, post(b"5"))
    assert (full.status, "full" in full.error) == (503, True)
    assert (await ask(world, get("/v2/health/ready"))).status == 200
    gate.set()
    assert {(await job).status for job in jobs} == {200}
    assert (await ask(world, post(b"6"))).status == 200
    assert world.front.counts.refused == {"full": 1}


@playing(max_connections=2)
async def test_too_many_connections_get_503_but_probes_an_answer(world: World) -> None:
    gate = asyncio.Event()

    async def behave(path: str, body: bytes) -> Reply:
        if path == INFER:
            await gate.wait()
        return 200, body

    world.fake.behave = behave
    busy = [asyncio.create_task(ask(world, post(b"1"))) for _ in range(2)]
    await until(lambda: len(world.fake.seen) == 2)
    for request, status in ((post(b"1"), 503), (get("/v2/health/ready"), 200)):
        client = await Client.to(world)
        client.send(request)
        assert (await client.answer()).status == status
        assert await client.ended()
        client.close()
    gate.set()
    assert [(await one).status for one in busy] == [200, 200]
    assert (await ask(world, post(b"1"))).status == 200


@playing()
async def test_silent_connections_make_room_for_those_that_ask(world: World) -> None:
    silent = [await Client.to(world) for _ in range(520)]
    client = await Client.to(world)
    client.send(post(b"1"))
    assert (await client.answer()).status == 200
    assert await silent[0].ended()
    for one in (*silent, client):
        one.close()


@playing()
async def test_clients_that_leave_disturb_nobody(world: World) -> None:
    gate = asyncio.Event()

    async def behave(path: str, body: bytes) -> Reply:
        if body.startswith(b"wait"):
            await gate.wait()
        return 200, body

    world.fake.behave = behave
    half = await Client.to(world)
    half.send(post(b"x" * 1000)[:500])
    await asyncio.sleep(0.02)
    half.close()  # mid-body
    gone = await Client.to(world)
    gone.send(post(b"wait, no"))
    await until(lambda: len(world.fake.seen) == 1)
    gone.close()  # before its answer
    await until(lambda: world.front.counts.abandoned == 1)
    gate.set()
    await asyncio.sleep(0.05)
    assert (await ask(world, post(b"mine"))).body == b"mine"
    assert world.fake.connections == 1  # the unread answer was thrown away, the rest is usable
    world.front.hold("a while")
    held = await Client.to(world)
    held.send(post(b"never sent"))
    await until(lambda: world.front.counts.in_flight == 1)
    held.close()
    await until(lambda: world.front.counts.abandoned == 2)
    world.open()
    assert (await ask(world, post(b"2"))).body == b"2"
    assert [body for _, _, body in world.fake.seen] == [b"wait, no", b"mine", b"2"]


@playing(request_timeout_s=1.0)
@pytest.mark.medium
async def test_a_client_that_does_not_read_is_cut_off_and_one_that_reads_late_is_not(
    world: World,
) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        return 200, bytes(16 << 20)

    world.fake.behave = behave
    stuck, late = await Client.to(world), await Client.to(world)
    for client in (stuck, late):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(post(b"1"))
    await until(lambda: world.front.counts.answered == 2)
    late.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len((await late.answer()).body) == 16 << 20
    await asyncio.sleep(1.4)
    stuck.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await stuck.answer()
    late.close()
    stuck.close()


@playing()
async def test_drain_under_load_loses_nothing(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        await asyncio.sleep(0.01)
        return 200, body

    world.fake.behave = behave
    results: list[int] = []

    async def one_client(name: int) -> None:
        client = await Client.to(world)
        for i in range(1000):
            body = b"%d %d" % (name, i)
            client.send(post(body))
            answer = await client.answer()
            results.append(answer.status)
            if answer.status != 200 or "connection" in answer.headers:
                assert answer.headers["connection"] == "close"
                assert answer.status == 503 or answer.body == body
                assert await client.ended()
                client.close()
                return

    idle = await Client.to(world)
    clients = [asyncio.create_task(one_client(i)) for i in range(16)]
    await until(lambda: len(results) > 100)
    assert await world.front.drain(5) == 0
    idle.send(post(b"late"))
    answer = await idle.answer()
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    idle.close()
    with pytest.raises(OSError, match=r"refused|failed"):
        await Client.to(world)
    await asyncio.gather(*clients)
    counts = world.front.counts
    assert counts.accepted == counts.answered == results.count(200)


@playing()
async def test_drain_counts_what_is_not_answered_in_time(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        await asyncio.sleep(30)
        return 200, body

    world.fake.behave = behave
    jobs = [asyncio.create_task(ask(world, post(b"1"))) for _ in range(3)]
    await until(lambda: world.front.counts.in_flight == 3)
    assert await world.front.drain(0.1) == 3
    await world.front.close()
    assert {(await job).status for job in jobs} == {503}


@playing()
async def test_metrics_have_the_counts_of_the_front_with_and_without_triton(world: World) -> None:
    async def behave(path: str, body: bytes) -> Reply:
        return 200, b"nv_inference_count 7\n" if path == "/metrics" else body

    world.fake.behave = behave
    own = Upstream(http=world.upstream.http, metrics=world.upstream.http)
    world.front.open(own)
    await ask(world, post(b"1"))
    await ask(world, get("/nowhere"))
    answer = await ask(world, get("/metrics"))
    lines = answer.body.decode().split("\n")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "nv_inference_count 7" in lines
    assert "albert_front_answered_total 1" in lines
    assert 'albert_front_refused_total{reason="not_offered"} 1' in lines
    world.open()  # without metrics
    answer = await ask(world, get("/metrics"))
    assert answer.status == 200
    assert answer.body.startswith(b"# HELP albert_front_accepted_total")


@playing()
async def test_a_taken_port_is_named(world: World) -> None:
    port = world.front.http_port
    second = Front(FrontConfig(http_port=port, grpc_port=None), worker_died=print)
    with pytest.raises(MachineError, match=rf"HTTP port {port} .* is taken"):
        await second.start()


PIECES = st.sampled_from([
    b"GET /v2 HTTP/1.1\r\n", b"POST " + INFER.encode() + b" HTTP/1.1\r\n", b"Host: x\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"\r\n", b"abc",
    b"0\r\n\r\n", b"3\r\nabc\r\n", b"ffffffffffffffff\r\n", b"\n", b"\0", b": ", b" ",
])  # fmt: skip


def test_garbage_is_answered_or_closed_and_the_front_lives() -> None:
    @given(st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=12), st.booleans())
    def check(pieces: list[bytes], at_once: bool) -> None:
        async def scenario(world: World) -> None:
            errors: list[dict[str, Any]] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: errors.append(context))
            client = await Client.to(world)
            with contextlib.suppress(ConnectionError):
                for data in [b"".join(pieces)] if at_once else pieces:
                    client.send(data)
                    await asyncio.sleep(0)
                async with asyncio.timeout(5):  # the front ends it, whatever was sent
                    await client.reader.read()
            client.close()
            fine = b""
            for _ in range(5):  # a busy machine may be slower than these short limits
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                    fine = (await ask(world, post(b"fine"))).body
                    break
            assert (fine, errors) == (b"fine", [])
            assert all(b"\0" not in line.encode() for line, _, _ in world.fake.seen)

        play(scenario, read_timeout_s=0.1, idle_timeout_s=0.03)

    check()
