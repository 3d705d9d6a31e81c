"""Watch over a Triton that serves: put it right when it breaks, and stop it in order.

Inference changes nothing, so that a request whose worker died is asked again of the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_deploy.runtime.bundle import check_bundle, is_bundle
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import check_file, read_manifest
from albert_deploy.runtime.tasks.tokenize import TOKENIZER_NAME
from albert_deploy.scripts.serving.front.front import Front, FrontConfig, Upstream
from albert_deploy.scripts.serving.installation import (
    Installation,
    command,
    environment,
    remove_memory,
)
from albert_deploy.scripts.serving.process import TritonProcess, free_ports, start_triton

_LOG = logging.getLogger(__name__)
# More often than this within that time is no accident.
_RESTARTS, _WITHIN_S = 5, 60.0
_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How long things may take, and what requests may be.

    Args:
        front: Where it listens, and limits on requests.
        start_s: How long loading may take, in seconds.
        drain_s: How long requests that run may take once told to stop, in seconds.
        verbose: Pass on all that Triton says, not its warnings and errors alone.

    Raises:
        InputError: A time is not above 0.
    """

    front: FrontConfig = field(default_factory=FrontConfig)
    start_s: float = 120.0
    drain_s: float = 30.0
    verbose: bool = False

    def __post_init__(self) -> None:
        """Check the times."""
        for name in ("start_s", "drain_s"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; use more than 0 seconds")


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, prepared in a temporary folder.

    Attributes:
        directory: Deployment directory or bundle.
        variant: Key of ``VARIANTS``.
        name: Of the model that takes texts.
        models: Model repository.
        backends: Folder of backends.
        installation: Whose server runs.
        memory: How the shared memory of its models is called.
    """

    directory: Path
    variant: str
    name: str
    models: Path
    backends: Path
    installation: Installation
    memory: str


async def run(served: Served, config: WatchConfig, *, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, and then answer what was accepted.

    Args:
        served: What is served.
        config: Options.
        ready: Called once, with a line that says where it listens.

    Raises:
        ContractError: A file changed, or Triton cannot load the model.
        MachineError: A port is taken, or Triton breaks again and again.
    """
    died: asyncio.Queue[str] = asyncio.Queue()
    front = Front(config.front, worker_died=died.put_nowait)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    await front.start()
    triton: TritonProcess | None = None
    restarts: deque[float] = deque()
    try:
        triton = await _unless(stop, _started(served, config, front))
        if triton is not None:
            ready(_where(served, config, front))
        while triton is not None and (why := await _trouble(triton, died, stop)):
            front.hold(why, ours=triton.runs())
            await triton.kill()
            triton = await _unless(stop, _again(served, config, front, why, restarts))
            while not died.empty():  # of the one before
                died.get_nowait()
        _LOG.info("stopping: answering what was accepted")
        if left := await front.drain(config.drain_s):
            _LOG.info(f"{left} requests were not answered within {config.drain_s:.0f} s")
    finally:
        await front.close()
        if triton is not None:
            await triton.stop(config.drain_s)
        remove_memory(served.memory)


async def _unless(
    stop: asyncio.Event, starting: Coroutine[Any, Any, TritonProcess]
) -> TritonProcess | None:
    """Return the started server; None, with nothing left of it, where told to stop meanwhile."""
    start, stopped = asyncio.create_task(starting), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((start, stopped), return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            return start.result()
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        return None
    finally:
        stopped.cancel()


async def _again(
    served: Served,
    config: WatchConfig,
    front: Front,
    why: str,
    restarts: deque[float],
) -> TritonProcess:
    """Start the server until it runs, but not again and again in a short time."""
    while True:
        _LOG.info(f"restarting Triton: {why}")
        remove_memory(served.memory)
        now = asyncio.get_running_loop().time()
        restarts.append(now)
        while restarts[0] < now - _WITHIN_S:
            restarts.popleft()
        if len(restarts) > _RESTARTS:
            raise MachineError(
                f"Triton broke {len(restarts)} times within {_WITHIN_S:.0f} s, the last time as "
                f"{why}; see what it said above, and with --verbose all of it"
            )
        _check_files(served)
        try:
            return await _started(served, config, front)
        except ContractError as error:
            why = str(error)
            await asyncio.sleep(_PAUSE_S)


async def _started(served: Served, config: WatchConfig, front: Front) -> TritonProcess:
    ports = free_ports()
    triton = await start_triton(
        command(
            served.installation,
            models=served.models,
            backends=served.backends,
            name=served.name,
            ports=ports,
            memory=served.memory,
            exit_timeout_s=max(1, int(config.drain_s)),
        ),
        environment(served.installation, os.environ),
        ports,
    )
    try:
        triton.listen(verbose=config.verbose)
        await triton.ready(config.start_s)
    except BaseException:
        await triton.kill()
        raise
    here = "127.0.0.1"
    front.open(
        Upstream(
            http=(here, ports.http),
            grpc=None if front.grpc_port is None else (here, ports.grpc),
            metrics=(here, ports.metrics),
        )
    )
    return triton


def _check_files(served: Served) -> None:
    """Compare what is about to be read again.

    Raises:
        ContractError: It changed since the server was started.
    """
    try:
        if is_bundle(served.directory):
            check_bundle(served.directory)
            return
        manifest = read_manifest(served.directory)
        for name in (TOKENIZER_NAME, VARIANTS[served.variant].file):
            check_file(served.directory, manifest, name)
    except InputError as error:
        raise ContractError(f"what is served is not there any more: {error}") from error


async def _trouble(
    triton: TritonProcess, died: asyncio.Queue[str], stop: asyncio.Event
) -> str | None:
    """Wait until something breaks, and say what; None when told to stop."""
    workers = triton.workers()
    waits: dict[asyncio.Task[Any], Callable[[Any], str | None]] = {
        asyncio.create_task(stop.wait()): lambda _: None,
        asyncio.create_task(triton.wait()): lambda code: f"it ended with {code}",
        asyncio.create_task(died.get()): str,
        asyncio.create_task(_fewer(triton, workers)): str,
    }
    done, others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    return None if stop.is_set() else waits[first := next(iter(done))](first.result())


async def _fewer(triton: TritonProcess, workers: int) -> str:
    while triton.workers() >= workers:
        await asyncio.sleep(0.5)
    return "a worker died"


def _where(served: Served, config: WatchConfig, front: Front) -> str:
    host = config.front.host
    grpc = "" if front.grpc_port is None else f", gRPC {host}:{front.grpc_port}"
    return (
        f"serving {served.name} ({served.variant} of {served.directory}) on "
        f"http://{host}:{front.http_port}{grpc}"
    )
