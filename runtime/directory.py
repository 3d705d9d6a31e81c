"""Deployment directories: built beside their place, then put there in one step."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import MANIFEST_NAME, is_deployment, os_failure

_PARTIAL = "partial"
# renameat2(2): exchange two paths atomically; paths relative to the current folder.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a fresh folder beside ``out``; it is removed at the end unless it was published.

    Raises:
        InputError: The parent folder cannot be written.
        MachineError: The disk is full.
    """
    out = Path(os.path.realpath(out))  # a link stays, and what it names is replaced
    work = out.parent / f".{out.name}.{_PARTIAL}-{socket.gethostname()}-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    except OSError as error:
        raise os_failure(error, out) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(work: Path, out: Path) -> None:
    """Put a finished folder in its place; whoever looks sees the old one or the new one."""
    out = Path(os.path.realpath(out))
    try:
        if not out.exists():
            work.rename(out)
        elif _exchange(work, out):
            shutil.rmtree(work, ignore_errors=True)
        else:
            old = out.with_name(f".{out.name}.old-{os.getpid()}")
            out.rename(old)
            work.rename(out)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise os_failure(error, out) from error


def check_replaceable(out: Path) -> bool:
    """Tell whether ``out`` holds a deployment directory (True) or nothing (False).

    Raises:
        InputError: It holds something else, which is never overwritten.
    """
    if not out.name or out.name == "..":
        raise InputError(f"{out} has no name of its own; choose a named folder for `out`")
    try:
        if out.is_file():
            raise InputError(f"{out} is a file; choose a folder for `out`")
        if not out.exists() or not any(out.iterdir()):
            return False
    except OSError as error:
        raise os_failure(error, out) from error
    if not is_deployment(out):
        raise InputError(
            f"{out} exists and is not a deployment directory (no {MANIFEST_NAME} of one); "
            "it is left alone: choose another `out` or remove it yourself"
        )
    return True


def _remove_abandoned(out: Path) -> None:
    """Remove what killed runs on this machine left beside ``out``."""
    prefix = f".{out.name}.{_PARTIAL}-{socket.gethostname()}-"
    for path in out.parent.glob(f"{glob.escape(prefix)}*"):
        pid = path.name.removeprefix(prefix)
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _exchange(one: Path, other: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    result = libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    return bool(result == 0)
