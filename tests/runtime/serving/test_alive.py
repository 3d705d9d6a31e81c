"""The liveness probe: refusals are signs of life, a dead worker and a silent server are not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from albert_deploy.runtime.serving.alive import alive, main


class Server(ThreadingHTTPServer):
    """Ends with its requests, and in silence where an asker has left."""

    daemon_threads = False

    def handle_error(self, *_: Any) -> None:
        pass


INPUTS = [{"name": "text"}, {"name": "text_pair", "optional": True}]


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """``serve(status, text, after_s=0)``: URL of a server whose model answers so."""
    servers: list[Server] = []

    def start(status: int, text: str, after_s: float = 0) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, json.dumps({"inputs": INPUTS}))

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert [one["name"] for one in asked["inputs"]] == ["text"]
                time.sleep(after_s)
                self.answer(status, text)

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(Server(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "good"),
    [
        (200, "{}", True),
        (400, '{"error": "text 1 of the request has no mask"}', True),
        (503, '{"error": "Exceeds maximum queue size"}', True),
        (500, '{"error": "Stub process \'albert_0_0\' is not healthy."}', False),
        (503, '{"error": "Stub process is not healthy."}', False),
        (400, '{"error": "Request for unknown model: \'albert\' is not found"}', False),
        (500, '{"error": "internal error"}', False),
        (200, "no JSON", False),
    ],
)
def test_what_is_a_sign_of_life(
    serve: Callable[..., str], status: int, text: str, good: bool, capsys: Any
) -> None:
    url = serve(status, text)
    assert (alive(url, "albert") is None) is good
    assert main([f"{url}/", "mine"]) == (0 if good else 1)
    assert ("mine" in capsys.readouterr().err) is not good


def test_silence_is_none(serve: Callable[..., str]) -> None:
    assert "timed out" in str(alive(serve(200, "{}", 1.0), "albert", timeout_s=0.2))
    assert "refused" in str(alive("http://127.0.0.1:9", "albert")).lower()
