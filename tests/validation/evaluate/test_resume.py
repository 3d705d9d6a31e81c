"""A validation that was killed goes on where it was, and ends in the same bytes and numbers."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.validation.evaluate.journal import Journal, journal_key

# Two fake models whose logits depend on the tokens; each run takes a moment.
PROGRAM = """
import json, sys, time
from pathlib import Path
import numpy as np
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.evaluate.evaluate import EvaluateConfig, Storage, evaluate
from albert_deploy.validation.evaluate.workers import SOURCE

class Fake:
    engine, outputs = "fake", ("logits",)
    def __init__(self, scale):
        self.scale, self.runs = scale, 0
    def run(self, feeds):
        self.runs += 1
        time.sleep(float(sys.argv[4]))
        ids = feeds["input_ids"].astype(np.float32)
        return {"logits": np.stack([np.sin(ids * self.scale).sum(1), np.cos(ids).sum(1)], 1)}
    def close(self): pass

contract = {
    "inputs": [{"name": "input_ids", "axes": ["batch", "sequence"]}],
    "outputs": [{"name": "logits"}], "labels": ["negative", "positive"],
    "problem_type": "single_label_classification", "max_length": 64, "pad_token_id": 0,
}
sessions = {SOURCE: Fake(1.0), "fp32": Fake(1.0 + 1e-6), "int8": Fake(1.01)}
reports = Path(sys.argv[3])
evidence = evaluate(
    sessions, contract=contract, task="text-classification",
    tokenizer=load_tokenizer(Path(sys.argv[1])), decide={"logits": "argmax"},
    dataset=("sst2", Path(sys.argv[2])), config=EvaluateConfig(),
    storage=Storage(reports=reports, models={SOURCE: "a", "fp32": "b", "int8": "c"}),
)
differences = {v: d["logits"].to_json() for v, d in evidence.differences.items()}
numbers = [evidence.metrics, evidence.errors, differences, evidence.predictions]
(reports / "numbers.json").write_text(json.dumps(numbers))
print(sessions[SOURCE].runs)
"""
WORDS = ("the", "a", "film", "river", "is", "was", "long", "warm", "who", "what", "where")


@pytest.fixture
def setting(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "program.py").write_text(PROGRAM)
    rows = ["sentence\tlabel"]
    for i in range(80):
        text = " ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 2 + i % 17))
        rows.append(f"{text}\t{i % 2}")
    (tmp_path / "dev.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def command(setting: Path, reports: Path, seconds: float = 0.0) -> list[str]:
    program, data = str(setting / "program.py"), str(setting / "dev.tsv")
    return [sys.executable, program, str(setting), data, str(reports), str(seconds)]


@pytest.fixture
def finished(
    setting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], int]:
    """A function that runs the program to its end in this process; returns the runs it took."""

    def run(reports: Path) -> int:
        arguments = command(setting, reports)[1:]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(arguments[0])
        return int(capsys.readouterr().out)

    return run


def results(reports: Path) -> dict[str, bytes]:
    files = [*(reports / "predictions").iterdir(), reports / "numbers.json"]
    return {file.name: file.read_bytes() for file in files}


def journal_of(reports: Path) -> Path:
    return next((reports / ".progress").iterdir())


@pytest.mark.medium
def test_a_killed_run_goes_on_and_ends_the_same(
    setting: Path, tmp_path: Path, finished: Callable[[Path], int]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    all_runs = finished(whole)
    process = subprocess.Popen(command(setting, cut, 0.05), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        files = list(cut.glob(".progress/*"))
        if files and files[0].read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (cut / "predictions").exists()
    done = journal_of(cut).read_bytes().count(b"\n")
    assert done >= 3
    assert finished(cut) == all_runs - done
    assert results(cut) == results(whole)


def test_a_torn_line_is_dropped(tmp_path: Path, finished: Callable[[Path], int]) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    all_runs = finished(whole)
    assert finished(torn) == all_runs
    journal = journal_of(torn)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == all_runs
    journal.write_bytes(b"".join(lines[:5]) + lines[5][: len(lines[5]) // 2])
    assert finished(torn) == all_runs - 5
    assert results(torn) == results(whole)
    assert journal.read_bytes().count(b"\n") == all_runs
    assert finished(torn) == 0  # All of it is there.
    assert results(torn) == results(whole)


def test_other_data_begins_anew(
    setting: Path, tmp_path: Path, finished: Callable[[Path], int]
) -> None:
    all_runs = finished(tmp_path / "reports")
    text = (setting / "dev.tsv").read_text()
    (setting / "dev.tsv").write_text(text.replace("film", "warm", 1))
    assert finished(tmp_path / "reports") > all_runs / 2
    assert len(list((tmp_path / "reports" / ".progress").iterdir())) == 2


def test_the_key_depends_on_all_that_changes_the_outputs() -> None:
    base = journal_key({"source": "a"}, ["row"], {"batch": 8})
    assert base == journal_key({"source": "a"}, ["row"], {"batch": 8})
    others = [
        journal_key({"source": "b"}, ["row"], {"batch": 8}),
        journal_key({"source": "a"}, ["other"], {"batch": 8}),
        journal_key({"source": "a"}, ["row"], {"batch": 4}),
    ]
    assert len({base, *others}) == 4


def test_a_journal_takes_what_is_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "progress" / "key.jsonl"
    with Journal(path) as journal:
        assert journal.done == []
        for group in range(3):
            journal.add({"group": group, "value": 0.1 + group})
    with Journal(path) as journal:
        assert [entry["value"] for entry in journal.done] == [0.1, 1.1, 2.1]
    with path.open("ab") as file:
        file.write(json.dumps({"group": 5}).encode() + b"\n")
    with Journal(path) as journal:
        assert len(journal.done) == 3
        journal.add({"group": 3})
    with Journal(path) as journal:
        assert len(journal.done) == 4
    with Journal(None) as journal:
        journal.add({"group": 0})
        assert journal.done == []
