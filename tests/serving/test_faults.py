"""What a served model refuses, with which words, and that it goes on."""

from __future__ import annotations

import json
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.scripts.tools.running import Running


@pytest.fixture(autouse=True)
def goes_on(
    server: Running,
    connect: Callable[..., Any],
    texts: list[str],
    wanted: dict[str, Any],
    same: Callable[[Any, Any], bool],
) -> Iterator[None]:
    """After each fault the same server still gives right answers."""
    yield
    for protocol in ("http", "grpc"):
        assert same(connect(server, protocol).ask(*texts[:3]), [wanted[t] for t in texts[:3]])
    assert "restarting" not in server.said()


def refusal(call: Callable[[], Any]) -> str:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as caught:
        call()
    return f"{caught.value.status()} {caught.value.message()}"


@pytest.mark.parametrize(
    ("asked", "options", "hint"),
    [
        (("so warm " * 400,), {}, "text 1 of the request has"),
        (("fine", "so warm " * 400), {}, "text 2 of the request has"),
        (("x" * 65_537,), {}, "65,537 bytes; 65,536 at most"),
        ((b"caf\xe9",), {}, "no UTF-8 at byte 4"),
        ((b"\xed\xa0\x80",), {}, "no UTF-8 at byte 1"),
        (("a",) * 33, {}, "batch-size must be <= 32"),
        (("a",), {"top_k": 0}, "top_k is 0"),
        (("a",), {"top_k": "many"}, "top_k"),
        (("a",), {"batch_size": 4}, "'batch_size' is not known"),
        (("a",), {"nonsense": True}, "'nonsense' is not known; use: "),
        (("a",), {"function_to_apply": "exec"}, "function_to_apply is 'exec'"),
    ],
)
def test_a_text_or_option_that_cannot_be_used(
    client: Any, asked: tuple[str | bytes, ...], options: dict[str, Any], hint: str
) -> None:
    told = refusal(lambda: client.ask(*asked, **options))
    assert hint in told
    assert "400" in told or "INVALID_ARGUMENT" in told
    assert "Traceback" not in told


def test_a_bad_text_spoils_no_other_request(
    server: Running, connect: Callable[..., Any], texts: list[str], wanted: Any, same: Any
) -> None:
    def ask(number: int) -> Any:
        client = connect(server, ("http", "grpc")[number // 2 % 2])
        if number % 2:
            return refusal(lambda: client.ask("ok", b"\xff\xff"))
        return client.ask(*texts[number : number + 4])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    for number, answer in enumerate(found):
        if number % 2:
            assert "text 2 is no UTF-8" in answer
        else:
            assert same(answer, [wanted[text] for text in texts[number : number + 4]])


def test_tensors_of_the_wrong_shape_type_or_name(client: Any) -> None:
    kinds = client.kinds

    def tensor(name: str, array: Any, kind: str) -> Any:
        made = kinds.InferInput(name, list(array.shape), kind)
        made.set_data_from_numpy(array)
        return made

    words = np.array([[b"a", b"b"]], np.object_)
    cases = {
        "two texts in a row": ([tensor("text", words, "BYTES")], "unexpected shape"),
        "no batch axis": ([tensor("text", words[0], "BYTES")], "shape"),
        "numbers": ([tensor("text", np.zeros((1, 1), np.float32), "FP32")], "data-type"),
        "another name": ([tensor("texts", words[:, :1], "BYTES")], "texts"),
        "nothing": ([], "expected"),
        "an empty batch": ([tensor("text", words[:0, :1], "BYTES")], ""),
        "as many pairs": (
            [tensor("text", words.T, "BYTES"), tensor("text_pair", words[:, :1], "BYTES")],
            "batch",
        ),
    }
    for name, (tensors, hint) in cases.items():
        told = refusal(lambda tensors=tensors: client.send(tensors))
        assert hint in told, (name, told)


def test_a_request_that_is_too_large(client: Any) -> None:
    told = refusal(lambda: client.ask(*["x" * 60_000] * 2))
    assert "413" in told or "RESOURCE_EXHAUSTED" in told


def test_clients_administer_nothing(client: Any) -> None:
    admin = client.client
    calls = {
        "load": lambda: admin.load_model("albert"),
        "unload": lambda: admin.unload_model("albert"),
        "index": admin.get_model_repository_index,
        "memory": lambda: admin.register_system_shared_memory("x", "/x", 8),
        "trace": admin.get_trace_settings,
        "log": lambda: admin.update_log_settings({"log_file": "/tmp/log"}),
    }
    for name, call in calls.items():
        assert "administered" in (told := refusal(call)), (name, told)


def send(server: Running, data: bytes) -> bytes:
    """Send bytes to the HTTP port and return all that comes back."""
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port)), timeout=15) as one:
        one.sendall(data)
        answer = b""
        while part := one.recv(65_536):
            answer += part
    return answer


def infer(body: bytes, *headers: str, path: str = "/v2/models/albert/infer") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "Connection: close", "", "")).encode() + body


def said(**changes: Any) -> bytes:
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]} | changes
    return json.dumps({"inputs": [tensor]}).encode()


_HEAD = json.dumps(
    {
        "inputs": [
            {
                "name": "text",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": 5},
            }
        ]
    }
).encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        infer(b"{"),
        infer(b"[" * 50_000),
        infer(b'{"inputs":' * 9_000),
        infer(said(shape=[2, 1])),
        infer(said(shape=[1_000_000_000, 1_000_000_000])),
        infer(said(shape=[-1, 1])),
        infer(said(shape="x")),
        infer(said(data=[1])),
        infer(said(data=[["a"]] * 3)),
        infer(said(datatype="PICKLE")),
        infer(said(name="../../etc/passwd")),
        infer(b"{}"),
        infer(b""),
        infer(b"null"),
        infer(b"7"),
        infer(b"[]"),
        infer(b'{"inputs": NaN}'),
        infer(said() + b"x"),
        infer(said(data=["\ud800"])),
        infer(said(data=[None])),
        infer(json.dumps({str(i): 1 for i in range(6_000)}).encode()),
        infer(said(parameters={"shared_memory_region": "x"})),
        infer(b'{"text": null}', path="/v2/models/albert/generate"),
        infer(b'{"text": "\\udc00"}', path="/v2/models/albert/generate"),
        infer(b"[" * 40_000, path="/v2/models/albert/generate"),
        infer(said(), path="/v2/models/..%2f..%2fetc/infer"),
        infer(said(), path="/v2/models/albert/versions/99/infer"),
        infer(said(), path="/v2/models/other/infer"),
        infer(_HEAD + b"\x01\0\0\0a", "Inference-Header-Content-Length: 99999999"),
        infer(_HEAD + b"\x01\0\0\0a", "Inference-Header-Content-Length: -1"),
        infer(_HEAD + b"\x01\0\0\0a", "Inference-Header-Content-Length: 5"),
        infer(_HEAD + b"\xff\xff\xff\x7fa", f"Inference-Header-Content-Length: {len(_HEAD)}"),
        infer(_HEAD + b"\x01", f"Inference-Header-Content-Length: {len(_HEAD)}"),
        infer(said(), "Content-Encoding: gzip"),
        infer(said(), "Transfer-Encoding: chunked"),
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + bytes(100),
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000,
    ],
    ids=range(38),
)
def test_malformed_requests_get_an_error(server: Running, request_bytes: bytes) -> None:
    answer = send(server, request_bytes)
    status = int(answer.split(b" ", 2)[1]) if answer else 0
    assert 400 <= status < 500, answer[:300]
    body = answer.partition(b"\r\n\r\n")[2]
    assert json.loads(body)["error"]
    assert b"Traceback" not in body
    assert tempfile.gettempdir().encode() not in body


def test_an_unknown_path_says_what_is_offered(server: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{server.http}/etc/passwd", timeout=10)
    assert caught.value.code == 404
    assert json.load(caught.value)["error"]
    caught.value.close()


def test_a_body_of_many_keys_keeps_nobody_waiting(
    start: Callable[..., Any], bundled: Path, connect: Callable[..., Any], texts: list[str]
) -> None:
    body = json.dumps({f"key {i}": i for i in range(150_000)}).encode()
    with start(bundled) as served, ThreadPoolExecutor(20) as pool:
        sent = [pool.submit(send, served, infer(body)) for _ in range(20)]
        assert len(connect(served, "http").ask(texts[0])) == 1
        assert all(one.result().startswith(b"HTTP/1.1 400 ") for one in sent)
        assert "restarting" not in served.said()


def test_silent_connections_keep_nobody_out(
    server: Running, connect: Callable[..., Any], texts: list[str]
) -> None:
    host, port = server.http.split(":")
    silent = [socket.create_connection((host, int(port)), timeout=15) for _ in range(520)]
    try:
        assert len(connect(server, "http").ask(texts[0])) == 1
        with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=10) as ready:
            assert ready.status == 200
    finally:
        for one in silent:
            one.close()


def test_classification_of_texts_does_not_reach_triton(server: Running) -> None:
    asked = json.loads(said()) | {
        "outputs": [{"name": "answer", "parameters": {"classification": 3}}]
    }
    answer = send(server, infer(json.dumps(asked).encode()))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"classification" in answer
