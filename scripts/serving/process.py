"""One run of the Triton server: started, awaited, watched, stopped, and what it said kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from albert_deploy.runtime.errors import ContractError
from albert_deploy.scripts.serving.installation import Ports

_LOG = logging.getLogger(__name__)
_LINES_KEPT = 200
_TOLD = 1000
# Run before the server: prctl(PR_SET_PDEATHSIG, SIGKILL) outlives exec. Not in a hook after fork,
# which gRPC's threads in this process do not survive.
_LAUNCHER = (
    sys.executable,
    "-ISc",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
)
# What it complains about on every machine without a GPU.
_NOT_WORTH_TELLING = ("pinned", "Pinned", "CUDA", "Cuda", "NVML", "DCGM", "cnmem")


class TritonProcess:
    """A server that runs.

    Attributes:
        ports: Where it listens.
        pid: Its process.
    """

    def __init__(self, process: asyncio.subprocess.Process, ports: Ports) -> None:
        self.ports = ports
        self.pid = process.pid
        self._process = process
        self._said: deque[str] = deque(maxlen=_LINES_KEPT)
        self._reader: asyncio.Task[None] | None = None
        self._stopping = False

    def listen(self, *, verbose: bool) -> None:
        """Begin to read what it says; warnings and errors are passed on, or all of it."""
        self._reader = asyncio.create_task(self._read(verbose))

    async def ready(self, timeout_s: float) -> None:
        """Wait until its model can be asked.

        Raises:
            ContractError: It ended, or took too long: its last errors are told.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while loop.time() < end:
            if self._process.returncode is not None:
                break
            if await _asked(self.ports.http):
                return
            await asyncio.sleep(0.1)
        else:
            raise ContractError(f"Triton was not ready within {timeout_s:.0f} s: {self.told()}")
        if self._reader is not None:
            await self._reader
        raise ContractError(f"Triton ended before its model was loaded: {self.told()}")

    def runs(self) -> bool:
        """Return whether it has not ended."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return await self._process.wait()

    def workers(self) -> int:
        """Return how many processes run its models now; the server does not reap the dead."""
        try:
            listed = list(Path(f"/proc/{self.pid}/task").iterdir())
            pids = [pid for task in listed for pid in (task / "children").read_text().split()]
        except OSError:
            return 0
        return sum(map(_runs, pids))

    async def stop(self, timeout_s: float) -> None:
        """Tell it to finish, then end it and its workers."""
        self._stopping = True
        if self._process.returncode is None:
            # Not Process.terminate, which may reap the process before asyncio does.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), timeout_s)
        await self.kill()

    async def kill(self) -> None:
        """End it and its workers at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()

    def told(self) -> str:
        """Return the last error that it told, which sums up those before it."""
        errors = [line for line in self._said if _is_trouble(line)]
        lines = errors or list(self._said) or ["it said nothing"]
        return lines[-1].strip()[:_TOLD]

    async def _read(self, verbose: bool) -> None:
        stream = self._process.stdout
        assert stream is not None  # it was opened as a pipe
        while line := await _line(stream):
            text = line.decode(errors="replace").rstrip()
            self._said.append(text)
            if verbose or (_is_trouble(text) and not self._stopping):
                _LOG.info(text)


async def start_triton(
    command: Sequence[str], environment: Mapping[str, str], ports: Ports
) -> TritonProcess:
    """Start the server in a group of its own; it ends with this process, however that ends."""
    process = await asyncio.create_subprocess_exec(
        *_LAUNCHER,
        *command,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    return TritonProcess(process, ports)


def free_ports() -> Ports:
    """Return three ports of the loopback interface that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        http, grpc, metrics = (int(one.getsockname()[1]) for one in sockets)
    return Ports(http=http, grpc=grpc, metrics=metrics)


def _runs(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _is_trouble(line: str) -> bool:
    bad = line[:1] in {"E", "W"} and line[1:5].isdigit()
    bad |= "Error" in line or "error" in line or line.startswith("Signal (")
    return bad and not any(word in line for word in _NOT_WORTH_TELLING)


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than any line should be
        return await stream.read(1 << 16)


async def _asked(port: int) -> bool:
    """Ask whether the server is ready."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(
            b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        status = await asyncio.wait_for(reader.readline(), 5)
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
    return b" 200 " in status
