"""A server that is broken or stopped under load: nothing accepted is lost, no answer is wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from folders import flip

from albert_deploy.scripts.tools.running import Running

_CLIENTS, _ASKED = 8, 400


def children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []


def triton(served: Running) -> int:
    (pid,) = [
        pid
        for pid in children(served.process.pid)
        if "tritonserver" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    return pid


def gone(pid: int, timeout_s: float = 20) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def until(done: Callable[[], bool], timeout_s: float = 60) -> bool:
    end = time.monotonic() + timeout_s
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


class Refused(str):
    """What a client was told in place of an answer."""


class Load:
    """Clients in threads, each of which asks its share of the texts one by one."""

    def __init__(
        self, served: Running, connect: Callable[..., Any], texts: list[str], protocol: str
    ) -> None:
        self.served = served
        self.answers: list[tuple[str, Any]] = []
        self.texts = texts
        self._connect = partial(connect, served, protocol)
        self._pool = ThreadPoolExecutor(_CLIENTS)
        self._runs: list[Future[None]] = []

    def start(self, rounds: int) -> None:
        self._runs = [self._pool.submit(self._ask, n, rounds) for n in range(_CLIENTS)]

    def _ask(self, mine: int, rounds: int) -> None:
        client = self._connect()  # here, as the client for HTTP belongs to a thread
        for number in range(rounds):
            text = self.texts[(number * _CLIENTS + mine) % len(self.texts)]
            try:
                (answer,) = client.ask(text)
            except Exception as error:  # whatever the client's library raises is kept and judged
                answer = Refused(f"{type(error).__name__}: {error}")
            self.answers.append((text, answer))

    def finish(self) -> list[tuple[str, Any]]:
        for run in self._runs:
            run.result(timeout=120)
        self._pool.shutdown()
        return self.answers


@pytest.fixture
def served(start: Callable[..., Any], bundled: Path) -> Iterator[Running]:
    with start(bundled) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def load(
    served: Running, connect: Callable[..., Any], texts: list[str], request: pytest.FixtureRequest
) -> Load:
    """Load that has run for a while, in either protocol."""
    begun = Load(served, connect, texts, request.param)
    begun.start(_ASKED // _CLIENTS)
    assert until(lambda: len(begun.answers) > _ASKED // _CLIENTS)
    return begun


@pytest.mark.parametrize("victim", ["worker", "every worker", "triton"])
def test_kill_9_under_load_loses_nothing_but_what_triton_had(
    load: Load, wanted: dict[str, Any], same: Callable[[Any, Any], bool], victim: str
) -> None:
    served = load.served
    server = triton(served)
    workers = children(server)
    assert len(workers) == 2
    victims = {"worker": workers[:1], "every worker": workers, "triton": [server]}[victim]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    answers = load.finish()
    assert len(answers) == _ASKED
    lost = [answer for _, answer in answers if isinstance(answer, Refused)]
    for text, answer in answers:
        assert isinstance(answer, Refused) or same(answer, wanted[text]), answer
    # What Triton died of may be a request that it had: those are not asked again.
    assert len(lost) <= (_CLIENTS if victim == "triton" else 0), lost
    assert all("not asked again" in one for one in lost)
    assert "restarting Triton" in served.said()
    assert all(gone(pid) for pid in [server, *workers])
    assert served.stop() == 0


def test_sigterm_under_load_answers_what_was_accepted(
    load: Load, wanted: dict[str, Any], same: Callable[[Any, Any], bool]
) -> None:
    served = load.served
    server = triton(served)
    assert served.stop() == 0
    answers = load.finish()
    refused = [answer for _, answer in answers if isinstance(answer, Refused)]
    assert refused
    for text, answer in answers:
        if not isinstance(answer, Refused):
            assert same(answer, wanted[text])
    # After it, nobody listens; in between, a request is refused with words. None is cut off, but
    # gRPC itself cancels a call that reaches it while it closes its port: nobody has begun it.
    words = ("refused", "stopping", "failed to connect", "503", "UNAVAILABLE", "CANCELLED")
    assert [one for one in refused if not any(word in one for word in words)] == []
    assert gone(server)
    assert not list(served.temporary.glob("albert-deploy-*"))


def test_a_full_queue_refuses_at_once_and_goes_on(
    start: Callable[..., Any],
    sample: Path,
    connect: Callable[..., Any],
    texts: list[str],
    wanted: dict[str, Any],
    same: Callable[[Any, Any], bool],
) -> None:
    from tritonclient.utils import InferenceServerException

    with start(sample, "--instances", "1", "--max-queue", "1", "--max-in-flight", "6") as served:

        def ask(number: int) -> Any:
            try:
                return connect(served, ("http", "grpc")[number % 2]).ask(*texts[:24])
            except InferenceServerException as error:
                return error

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(ask, range(32)))
        refused = [one for one in found if isinstance(one, Exception)]
        answered = [one for one in found if not isinstance(one, Exception)]
        assert refused
        assert answered
        for answer in answered:
            assert same(answer, [wanted[text] for text in texts[:24]])
        for error in refused:
            told = f"{error.status()} {error.message()}"
            assert "503" in told or "RESOURCE_EXHAUSTED" in told or "UNAVAILABLE" in told, told
        for protocol in ("http", "grpc"):
            assert same(connect(served, protocol).ask(texts[0]), [wanted[texts[0]]])
        assert "restarting" not in served.said()


def test_a_model_damaged_on_disk_is_never_served(
    start: Callable[..., Any],
    program: Path,
    bundled: Path,
    tmp_path: Path,
    connect: Callable[..., Any],
    texts: list[str],
    wanted: dict[str, Any],
    same: Callable[[Any, Any], bool],
) -> None:
    copy = Path(shutil.copytree(bundled, tmp_path / "bundle"))
    with start(copy) as served:
        client = connect(served, "http")
        assert same(client.ask(texts[0]), [wanted[texts[0]]])
        flip(copy / "onnx" / "model.onnx")
        assert same(client.ask(texts[1]), [wanted[texts[1]]])  # what is in memory is still good
        os.kill(children(triton(served))[0], signal.SIGKILL)
        assert served.process.wait(60) == 4
        assert "onnx/model.onnx was changed" in served.said()
    run = subprocess.run(
        [program, "serve", copy, "--port", "0", "--no-grpc"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 4
    assert "onnx/model.onnx was changed" in run.stderr


def test_a_killed_server_leaves_no_process(served: Running) -> None:
    server = triton(served)
    workers = children(server)
    served.process.kill()
    served.process.wait()
    assert gone(server)
    assert all(gone(pid) for pid in workers)


def test_a_port_that_is_taken_is_named(served: Running, program: Path, bundled: Path) -> None:
    for option, place in (("--port", served.http), ("--grpc-port", served.grpc)):
        port = place.split(":")[1]
        others = {"--port": "0", "--grpc-port": "0"} | {option: port}
        run = subprocess.run(
            [program, "serve", bundled, *(word for pair in others.items() for word in pair)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == 9, run.stderr
        assert port in run.stderr
