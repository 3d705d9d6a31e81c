"""Turns, budgets, failures and memory, on fakes that need neither a model nor a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeMachine, FakeSession, fake_contender, feeds

from albert_deploy.runtime.errors import MachineError
from albert_deploy.validation.bench.bench import statistics_of
from albert_deploy.validation.bench.interleave import (
    LEAST_ROUNDS,
    Timed,
    first_runs,
    label,
    load_interleaved,
    reason,
    rotated,
    time_interleaved,
    torch_threads,
)
from albert_deploy.validation.bench.workload import Column

ANY = (Exception,)


def timed(
    machine: FakeMachine, sessions: Mapping[str, Any], *inputs: Any, **how: Any
) -> dict[str, Timed]:
    settings: dict[str, Any] = {"repeats": 4, "seconds": 1e9, "forgiven": ANY} | how
    return time_interleaved(
        sessions, inputs or [feeds(1, 10)], clock=lambda: machine.now, **settings
    )


def test_contenders_take_turns_and_each_round_starts_with_the_next() -> None:
    machine = FakeMachine()
    sessions = {name: FakeSession(machine, name) for name in "abc"}
    found = timed(machine, sessions, feeds(1, 10), feeds(1, 30))
    # An untimed run of the first input, then those that count.
    orders = ("abc", "bca", "cab", "abc")
    runs = ("1x10", "1x10", "1x30")
    assert machine.log == [(name, run) for order in orders for name in order for run in runs]
    # A time is the mean over the inputs.
    assert found["a"].times_ms == pytest.approx([0.2] * 4)
    assert found["a"].device_ms == pytest.approx([0.1] * 4)


def test_rotation() -> None:
    assert [rotated("abc", n) for n in range(4)] == [list(s) for s in ("abc", "bca", "cab", "abc")]


def test_no_round_starts_when_the_time_is_up_but_the_least_are_run() -> None:
    for seconds, rounds in ((0.0, LEAST_ROUNDS), (0.000_95, 5), (1e9, 20)):
        machine = FakeMachine()
        session = FakeSession(machine, "a")
        assert (
            len(timed(machine, {"a": session}, repeats=20, seconds=seconds)["a"].times_ms) == rounds
        )


def test_a_slow_contender_is_not_warmed_before_each_pass() -> None:
    machine = FakeMachine()
    timed(machine, {"slow": FakeSession(machine, "slow", 1.0)})
    assert machine.runs("slow") == 1 + 4
    timed(machine, {"quick": FakeSession(machine, "quick", 1e-3)})
    assert machine.runs("quick") == 4 + 4


def test_one_that_fails_on_the_way_is_a_row_with_its_reason_and_the_others_go_on() -> None:
    machine = FakeMachine()

    def full(_: tuple[int, int], run: int) -> Exception | None:
        return MemoryError("full\nlong") if run > 4 else None

    sessions = {
        "bad": FakeSession(machine, "bad", fails=full),
        "good": FakeSession(machine, "good"),
    }
    found = timed(machine, sessions)
    assert found["bad"].error == "MemoryError: full"
    assert found["good"].error is None
    assert len(found["good"].times_ms) == 4
    with pytest.raises(MemoryError):
        timed(machine, {"bad": FakeSession(machine, "bad", fails=full)}, forgiven=())


def test_percentiles_are_those_of_the_runs_and_none_where_too_few() -> None:
    column = Column(name="x", label="x", rows=(feeds(2, 8), feeds(1, 8)), lengths=(8, 8, 8))
    times = [float(n) for n in range(1, 101)]
    found = statistics_of(Timed(times_ms=times, device_ms=[3.0, 1.0, 2.0]), column)
    assert (found["median_ms"], found["min_ms"], found["device_median_ms"]) == (50.5, 1, 2)
    assert found["p90_ms"] == pytest.approx(np.percentile(times, 90))
    assert found["p99_ms"] == pytest.approx(np.percentile(times, 99))
    # Three texts in two inputs of 50.5 ms each.
    assert found["samples_per_s"] == pytest.approx(3 / 2 / 0.0505, abs=0.01)
    few = statistics_of(Timed(times_ms=times[:99]), column)
    assert few["p90_ms"] is not None
    assert few["p99_ms"] is few["device_median_ms"] is None
    assert statistics_of(Timed(times_ms=times[:9]), column)["p90_ms"] is None
    assert statistics_of(Timed(error="no"), column) == {"error": "no"}


def test_first_runs_measure_memory_and_refuse_what_is_not_a_number() -> None:
    machine = FakeMachine()
    caching = FakeSession(machine, "caching")
    record, logits = first_runs(caching, [feeds(2, 50)], 2, machine.device, ANY)
    assert logits is not None
    assert logits.shape == (2, 2)
    assert record == {"error": None, "first_run_ms": 1.0, "taken_bytes": 1000, "kept_bytes": 0}
    assert machine.runs("caching") == 2
    keeping = FakeSession(machine, "keeping", keeps=True)
    assert first_runs(keeping, [feeds(2, 50)], 0, machine.device)[0]["kept_bytes"] == 1000
    assert machine.runs("keeping") == 1
    wrong = FakeSession(machine, "wrong", value=float("nan"))
    record, logits = first_runs(wrong, [feeds(2, 50)], 1, machine.device, ANY)
    assert logits is None
    assert record["error"] == "it answers NaN or infinity"
    bad = FakeSession(machine, "bad", fails=lambda *_: ValueError("no"))
    record, logits = first_runs(bad, [feeds(2, 50)], 1, machine.device, ANY)
    assert (record["error"], logits) == ("ValueError: no", None)
    with pytest.raises(ValueError, match="no"):
        first_runs(bad, [feeds(2, 50)], 1, machine.device)


def test_loads_rotate_and_only_the_last_stays_open() -> None:
    machine = FakeMachine()
    found = [fake_contender(machine, "a", opens=0.1), fake_contender(machine, "b", opens=0.2)]
    with ExitStack() as stack:
        sessions, records = load_interleaved(found, 2, stack, device=machine.device)
        assert list(sessions) == ["a", "b"]
        assert [r["load_times_ms"] for r in records.values()] == [
            pytest.approx([100, 100]),
            pytest.approx([200, 200]),
        ]
        assert [name for name, what in machine.log if what == "open"] == list("abbaab")
        assert machine.log[-2:] == [("a", "open"), ("b", "open")]
    assert machine.log[-2:] == [("b", "close"), ("a", "close")]


def test_what_takes_minutes_to_load_is_opened_once() -> None:
    machine = FakeMachine()
    with ExitStack() as stack:
        known = [fake_contender(machine, "a", load_ms=5000.0)]
        _, records = load_interleaved(known, 3, stack, device=machine.device)
        assert records["a"]["load_times_ms"] == [5000.0]
        once = [fake_contender(machine, "b", opens=0.5)]
        _, records = load_interleaved(once, 0, stack, device=machine.device)
        assert records["b"]["load_times_ms"] == [500]
        assert records["b"]["held_bytes"] == 5_000_000
        assert machine.log == [("a", "open"), ("b", "open")]


def test_one_that_cannot_be_loaded_has_its_reason() -> None:
    machine = FakeMachine()
    found = [
        fake_contender(machine, "a", error=MachineError("not\nthere")),
        fake_contender(machine, "b"),
    ]
    with ExitStack() as stack:
        sessions, records = load_interleaved(found, 0, stack, forgiven=ANY)
        assert list(sessions) == ["b"]
        assert records["a"]["error"] == "not there"
        with pytest.raises(MachineError):
            load_interleaved(found, 0, stack)


def test_reasons_are_one_line() -> None:
    assert reason(MachineError("one\ntwo")) == "one two"
    assert reason(ValueError("one\ntwo")) == "ValueError: one"
    assert len(reason(ValueError("x" * 1000))) == 300


def test_labels_are_peoples() -> None:
    assert label("torch-compile") == "torch.compile"
    assert label("int8-qdq@openvino-bf16") == "int8-qdq, OpenVINO bf16"
    assert label("nncf-int8@openvino") == "NNCF INT8, OpenVINO"
    assert label("fp16@trt-graphs") == "fp16, TensorRT, CUDA graphs"


def test_torch_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
