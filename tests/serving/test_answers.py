"""Answers of a served model are those of the same model in this process, whoever asks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from albert_deploy.scripts.tools.load import closed_load
from albert_deploy.scripts.tools.running import Running

Same = Callable[[Any, Any], bool]


def post(url: str, value: Any) -> Any:
    request = urllib.request.Request(f"http://{url}", json.dumps(value).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def get(url: str) -> str:
    with urllib.request.urlopen(f"http://{url}", timeout=30) as answer:
        return str(answer.read().decode())


def test_texts_one_by_one_and_together(
    client: Any, texts: list[str], wanted: dict[str, Any], same: Same
) -> None:
    for text in texts[:8]:
        assert same(client.ask(text), [wanted[text]])
    for size in (1, 5, 32):
        asked = texts[:size]
        assert same(client.ask(*asked), [wanted[text] for text in asked])


def test_options_and_pairs(client: Any, bundled: Any, same: Same) -> None:
    from albert_deploy.runtime import load

    with load(bundled) as model:
        assert same(client.ask("a warm film", top_k=2), [model("a warm film", top_k=2)])
        scores = client.ask("a warm film", function_to_apply="none")
        assert same(scores, model("a warm film", function_to_apply="none"))
        pair = [client.tensor("text", [["a warm film"]]), client.tensor("text_pair", [["so dull"]])]
        assert same(client.send(pair), [model({"text": "a warm film", "text_pair": "so dull"})])
        long = "so very warm " * 200
        assert same(client.ask(long, truncation=True), [model([long], truncation=True)[0]])


def test_plain_json_and_curl(server: Running, texts: list[str], wanted: Any, same: Same) -> None:
    place = f"{server.http}/v2/models/{server.name}"
    tensor = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": texts[:2]}
    (found,) = post(f"{place}/infer", {"inputs": [tensor]})["outputs"]
    assert found["shape"] == [2, 1]
    assert same([json.loads(one) for one in found["data"]], [wanted[t] for t in texts[:2]])
    assert same(
        json.loads(post(f"{place}/generate", {"text": texts[0]})["answer"]), wanted[texts[0]]
    )
    run = subprocess.run(
        ["curl", "-sS", f"http://{place}/generate", "-d", json.dumps({"text": texts[1]})],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert same(json.loads(json.loads(run.stdout)["answer"]), wanted[texts[1]])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_many_at_once_get_their_own_answers_in_shared_batches(
    server: Running, texts: list[str], wanted: Any, same: Same, protocol: str
) -> None:
    def batches() -> int:
        path = f"{server.http}/v2/models/{server.name}/stats"
        (stats,) = json.loads(get(path))["model_stats"]
        return int(stats["execution_count"])

    before = batches()
    asked = texts * 4
    url = server.http if protocol == "http" else server.grpc
    run = closed_load(url, server.name, protocol, asked, 16)
    for text, answer in zip(asked, run.answers, strict=True):
        assert same(answer, wanted[text])
    after = batches()
    # Shared: how far depends on what else the machine does, and the counts may lag.
    assert 0 < after - before < len(asked)


def test_health_metadata_and_metrics(server: Running, client: Any) -> None:
    assert client.client.is_server_live()
    assert client.client.is_server_ready()
    assert client.client.is_model_ready(server.name)
    assert not client.client.is_model_ready("another")
    as_json = {"as_json": True} if "grpc" in client.kinds.__name__ else {}
    found = client.client.get_model_metadata(server.name, **as_json)
    assert [one["name"] for one in found["inputs"]] == ["text", "text_pair"]
    config = client.client.get_model_config(server.name, **as_json)
    config = config.get("config", config)
    assert "directory" not in config.get("parameters", {}) or config["parameters"]
    metrics = get(f"{server.http}/metrics")
    assert f'nv_inference_request_success{{model="{server.name}"' in metrics
    assert "albert_front_" in metrics


def test_a_client_that_leaves_spoils_nothing(
    server: Running, texts: list[str], wanted: Any, same: Same, connect: Callable[..., Any]
) -> None:
    host, port = server.http.split(":")
    tensor = {"name": "text", "shape": [32, 1], "datatype": "BYTES", "data": texts[:32]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST /v2/models/{server.name}/infer HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()

    async def leave(keep: int) -> None:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write((head + body)[:keep])
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()

    async def many() -> None:
        await asyncio.gather(*(leave(keep) for keep in [10, len(head) + 5, len(head + body)] * 10))

    asyncio.run(many())
    for protocol in ("http", "grpc"):
        assert same(
            connect(server, protocol).ask(*texts[:16]), [wanted[text] for text in texts[:16]]
        )


def test_the_liveness_probe_sees_a_server_that_answers(server: Running) -> None:
    from albert_deploy.runtime.serving.alive import alive

    assert alive(f"http://{server.http}", server.name) is None
    assert alive(f"http://{server.http}", "another") is not None
