"""A validation of real models that is killed goes on where it was, and ends in the same report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.export.samples import SAMPLES

COMMAND = [sys.executable, "-m", "albert_deploy.scripts.cli"]
SAMPLE = "sample-sst2"
# What was timed or when, and the machine's load.
PASSING = ("time", "command", "latency", "environment")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def _killed_between_rows(directory: Path, groups: int, data: tuple[str, ...]) -> int:
    """Validate, kill the process when its journal has some groups; return how many it has."""
    progress = directory / "reports/.progress"
    process = subprocess.Popen(
        [*COMMAND, "validate", str(directory), *data, "--bisect-trials", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            if _journal(progress).count(b"\n") >= groups:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    return _journal(progress).count(b"\n")


def _journal(progress: Path) -> bytes:
    files = list(progress.glob("*.jsonl")) if progress.is_dir() else []
    assert len(files) <= 1
    return files[0].read_bytes() if files else b""


def _report(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "reports/validation.json").read_text())
    return report


def _lasting(value: Any) -> Any:
    """Return a report less what two runs of one command do not have in common."""
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in PASSING}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_validation_ends_in_the_same_report(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # What is resumed is a group of rows: a third of the data has enough of them.
    text = (SAMPLES[SAMPLE].data / "dev.tsv").read_text(encoding="utf-8")
    header, *lines = text.splitlines(keepends=True)
    lines = lines[::3]
    (tmp_path / "dev.tsv").write_text("".join([header, *lines]), encoding="utf-8")
    rows, gate = len(lines), tmp_path / "gate.toml"
    gate.write_text('[statistics]\nundecided = "pass"\n', encoding="utf-8")
    data = ("--dataset", f"sst2={tmp_path}", "--gate", str(gate))
    # A release validates too, here without an interruption.
    _run("release", SAMPLE, "--variants", "fp32,int8", *data, "--out", str(whole))
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "reports")
    done = [_killed_between_rows(killed, groups, data) for groups in (3, 8)]
    # The second run went on from the first one's groups and added its own.
    assert 3 <= done[0] < done[1]
    entries = [json.loads(line) for line in _journal(killed / "reports/.progress").splitlines()]
    assert [entry["group"] for entry in entries] == list(range(len(entries)))
    assert sum(len(entry["numbers"]) for entry in entries) < rows
    assert not (killed / "reports/validation.json").exists()
    _run("validate", str(killed), *data, "--blame-trials", "0")
    assert not (killed / "reports/.progress").exists()
    names = {path.name for path in (whole / "reports/predictions").iterdir()}
    assert names == {f"{model}.jsonl.gz" for model in ("source", "fp32", "int8")}
    for name in names:
        ours, theirs = (d / "reports/predictions" / name for d in (whole, killed))
        assert ours.read_bytes() == theirs.read_bytes(), name
    first, second = _report(whole), _report(killed)
    assert first["dataset"]["rows"] == second["dataset"]["rows"] == rows
    for variant, entry in first["variants"].items():
        other = second["variants"][variant]
        assert entry["metrics"] == other["metrics"]
        assert entry["parity"] == other["parity"]
        assert entry["flips"] == other["flips"]
        assert entry["errors_histogram"] == other["errors_histogram"]
    assert _lasting(first) == _lasting(second)
