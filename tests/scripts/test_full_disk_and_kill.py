"""A full disk, a bug and a kill leave an earlier export whole and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from albert_deploy.runtime.errors import MachineError
from albert_deploy.runtime.manifest import sha256_of

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

MACHINE = MachineError.exit_code
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every atomic write fails at its end, where the bytes have to reach the disk."""

    def fsync(_: int) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_of_an_export(cli: Cli, first: Path, out: Path) -> None:
    hints = ("No space left on device; free some space and run again",)
    cli.refuses(MACHINE, "export", first, "--out", out, hints=hints, out=out)
    assert not out.exists()


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("verb", ["export", "release"])
def test_a_full_disk_leaves_an_earlier_export(
    cli: Cli, second: Path, deployed: Path, verb: str
) -> None:
    arguments = (verb, second, "--out", deployed, "--force")
    cli.refuses(MACHINE, *arguments, hints=("free some space",), out=deployed)


def test_a_full_disk_leaves_nothing_of_a_variant(cli: Cli, deployed: Path, full_disk: None) -> None:
    arguments = ("quantize", deployed, "--variants", "int8")
    cli.refuses(MACHINE, *arguments, hints=("free some space",), out=deployed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system that holds the tokenizer and not the model."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.medium
def test_a_really_full_disk(cli: Cli, first: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    hints = ("No space left on device; free some space and run again",)
    cli.refuses(MACHINE, "export", first, "--out", out, hints=hints, out=out)
    assert list(small_disk.iterdir()) == []


def test_a_bug_is_not_taken_for_bad_input(
    cli: Cli, first: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from albert_deploy.export import source

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(source, "_read_config", broken)
    result = cli("export", first, "--out", out)
    assert result.code == 10
    assert result.err.startswith("internal error: ZeroDivisionError: a bug; please report it")
    assert "Traceback" not in result.err


def started(arguments: list[str], out: Path, moment: str) -> subprocess.Popen[bytes]:
    """Start an export and return when its staging folder holds what ``moment`` names."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        if list(out.parent.glob(f".{out.name}.partial-*/{moment}")):
            return process
        time.sleep(0.002)
    process.kill()
    process.wait()
    raise AssertionError(f"the export ended, or took five minutes, before {moment} was there")


@pytest.mark.medium
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_export_leaves_the_earlier_one(cli: Cli, second: Path, deployed: Path) -> None:
    before = cli.state(deployed)
    arguments = cli.command("export", second, "--out", deployed, "--force")
    for moment in ("", "tokenizer.json", "onnx", "config.json"):
        process = started(arguments, deployed, moment)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert cli.state(deployed) == before
        assert len(cli.strays(deployed)) == 1, "the kill came too late, or an earlier rest was kept"
    result = cli("export", second, "--out", deployed, "--force")
    assert result.code == 0, result.err
    assert cli.strays(deployed) == []
    manifest = json.loads((deployed / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["sha256"] == sha256_of(second / "model.safetensors")
