"""A server started for a test, from an environment of its own, and asked by Triton's own client."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from albert_deploy.runtime.errors import MachineError

_WHERE = re.compile(r"serving (\S+) .* on http://([\d.]+):(\d+)(?:, gRPC [\d.]+:(\d+))?")
_START_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that listens.

    Attributes:
        process: ``albert-deploy serve``.
        name: Of the model.
        http: ``host:port``.
        grpc: ``host:port``; empty without gRPC.
        log: What it says, on both streams.
        temporary: Folder in which it makes its temporary ones, and nobody else.
    """

    process: subprocess.Popen[bytes]
    name: str
    http: str
    grpc: str
    log: Path
    temporary: Path

    def said(self) -> str:
        """Return what it said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, timeout_s: float = 60.0) -> int:
        """Tell it to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def running(
    program: Path, directory: Path, log: Path, options: Sequence[str] = ()
) -> Iterator[Running]:
    """Start a server on free ports, give it once it is ready, and stop it.

    Args:
        program: ``albert-deploy`` of an environment with the extra ``serve``.
        directory: What to serve.
        log: File for what it says.
        options: Of the command ``serve``.

    Raises:
        MachineError: It ended, or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="albert-deploy-test-") as folder:
        temporary = Path(folder)
        with log.open("wb") as file:
            process = _start(program, directory, file, options, temporary)
        try:
            yield _ready(process, log, temporary)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _start(
    program: Path, directory: Path, log: IO[bytes], options: Sequence[str], temporary: Path
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [program, "serve", directory, "--port", "0", "--grpc-port", "0", *options],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)},
    )


def _ready(process: subprocess.Popen[bytes], log: Path, temporary: Path) -> Running:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        said = log.read_text(encoding="utf-8", errors="replace")
        if found := _WHERE.search(said):
            name, host, http, grpc = found.groups()
            return Running(
                process=process,
                name=name,
                http=f"{host}:{http}",
                grpc=f"{host}:{grpc}" if grpc else "",
                log=log,
                temporary=temporary,
            )
        if process.poll() is not None:
            raise MachineError(f"the server ended with {process.returncode}: {said.strip()}")
        time.sleep(0.1)
    raise MachineError(f"the server was not ready within {_START_S:.0f} s: {said.strip()}")
