"""The Triton server that a Python package brought: where it lies, and how it is started."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from albert_deploy.runtime.errors import MachineError

# These let a client load models, map memory or write files. They are for who sends a header of this
# name, which nobody can: neither HTTP nor gRPC lets a name have a colon.
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
NOBODY = "no:one=x"
_HOW = "run: pip install 'albert-deploy[cpu,serve]' in an environment of its own (or make serve)"
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A Triton server and what it needs.

    Attributes:
        program: The server.
        backends: Folder with its backends.
        stub: What runs a Python model in this version of Python.
        libraries: Folders with shared libraries that it needs.
    """

    program: Path
    backends: Path
    stub: Path
    libraries: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the server listens, on the loopback interface alone."""

    http: int
    grpc: int
    metrics: int


def find_installation() -> Installation:
    """Find the server of ``nvidia-pytriton``, without importing that.

    Raises:
        MachineError: It is not installed, or has no part for this Python.
    """
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        raise MachineError(f"serving needs Triton, which is not installed; {_HOW}")
    package = Path(found.origin).parent
    home, version = package / "tritonserver", f"{sys.version_info.major}.{sys.version_info.minor}"
    program, stub = home / "bin" / "tritonserver", home / "python_backend_stubs" / version / _STUB
    if not program.is_file():
        raise MachineError(f"{package} brings no Triton server for this machine; {_HOW}")
    if not stub.is_file():
        there = ", ".join(sorted(path.name for path in stub.parents[1].glob("*")))
        raise MachineError(f"Triton runs models in Python {there}, this is {version}; {_HOW}")
    return Installation(
        program=program,
        backends=home / "backends",
        stub=stub,
        libraries=(package.parent / "nvidia_pytriton.libs", *_python_library(version)),
    )


def prepare_backends(installation: Installation, folder: Path) -> Path:
    """Copy the Python backend beside the stub that it starts, and return the folder of backends."""
    backends = folder / "backends"
    shutil.copytree(
        installation.backends / "python",
        backends / "python",
        ignore=shutil.ignore_patterns("__pycache__", _STUB),
    )
    shutil.copy2(installation.stub, backends / "python" / _STUB)
    return backends


def command(
    installation: Installation,
    *,
    models: Path,
    backends: Path,
    name: str,
    ports: Ports,
    memory: str,
    exit_timeout_s: int,
) -> list[str]:
    """Return the server's command line.

    Args:
        installation: Where the server is.
        models: Model repository.
        backends: Folder of backends.
        name: Of the model to load; an ensemble brings its steps along.
        ports: Where it listens.
        memory: How the shared memory of its models is called, which a kill leaves.
        exit_timeout_s: How long it waits for requests that run, when told to stop.
    """
    closed = f"{','.join(RESTRICTED)}:{NOBODY}"
    return [
        str(installation.program),
        f"--model-repository={models}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={memory}",
        "--model-control-mode=explicit",
        f"--load-model={name}",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        "--metrics-config=summary_latencies=true",
        f"--http-restricted-api={closed}",
        f"--grpc-restricted-protocol={closed}",
        f"--exit-timeout-secs={exit_timeout_s}",
    ]


def remove_memory(memory: str) -> None:
    """Remove the shared memory that killed models left."""
    for path in Path("/dev/shm").glob(f"{memory}*"):
        path.unlink(missing_ok=True)


def environment(installation: Installation, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which the server and its models run.

    Models import what is installed here. Nothing else of who started it goes on, no
    ``LD_PRELOAD``; Python in the stub is isolated and heeds no variable of its own.
    """
    kept = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "CUDA_VISIBLE_DEVICES")
    libraries = [str(path) for path in installation.libraries if path.is_dir()]
    # Python in the stub takes its packages from the environment whose python3 it finds first.
    places = given.get("PATH", "").split(os.pathsep)
    found = [str(Path(sys.prefix) / "bin"), *(one for one in places if Path(one).is_absolute())]
    return {name: given[name] for name in kept if name in given} | {
        "PATH": os.pathsep.join(found),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _python_library(version: str) -> tuple[Path, ...]:
    """Return the folder of Python's shared library, where the system's loader does not know one.

    Raises:
        MachineError: There is none, as in a Python that was built without.
    """
    name = f"libpython{version}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    if (folder / name).is_file():
        return (folder,)
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise MachineError(
            f"Triton's Python models need {name}, which is not here ({error}); install the "
            f"system's package libpython{version}, or use a Python built with --enable-shared"
        ) from error
    return ()
