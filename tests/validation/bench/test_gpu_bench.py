"""The GPU benchmark's core: turns, budget, failures and resumption, on fakes that need no GPU."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.validation.bench.gpu_bench import GpuBenchConfig, gpu_bench
from albert_deploy.validation.bench.gpu_journal import CRASHED, Journal, open_journal
from albert_deploy.validation.bench.gpu_lengths import Distribution, LengthsConfig
from albert_deploy.validation.bench.gpu_report import text, write_report
from albert_deploy.validation.bench.gpu_turns import (
    Device,
    Entrant,
    Pace,
    close_runner,
    prepare_cell,
    reason,
    relative_error,
    time_cells,
)
from albert_deploy.validation.bench.interleave import LEAST_ROUNDS

MANIFEST: dict[str, Any] = {
    "contract": {
        "max_length": 64,
        "inputs": [{"name": "input_ids", "axes": ["batch", "sequence"]}],
    },
    "source": {"config": {"vocab_size": 100}},
}
MACHINE: dict[str, Any] = {
    "cpu": "a processor",
    "cores": 2,
    "instructions": [],
    "system": "Linux x86_64",
    "load_average": None,
    "versions": {"torch": "2.11.0"},
    "gpu": {
        "name": "NVIDIA X100 80GB",
        "capability": [9, 0],
        "memory_bytes": 80 << 30,
        "processors": 100,
        "cuda": "13.0",
        "driver": "580.1",
        "sm_clock_mhz": 300.0,
        "sm_clock_most_mhz": 1980.0,
        "power_limit_w": None,
    },
}
MB = 1_000_000


class FakeGpu:
    """Seconds that pass, and bytes that are taken, only when a fake runner works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.kept = 0
        self.cached = 0
        self.log: list[tuple[str, ...]] = []

    @property
    def device(self) -> Device:
        return Device(
            used_bytes=lambda: self.kept + self.cached,
            release=self._release,
            clock=lambda: self.now,
        )

    def _release(self) -> None:
        self.cached = 0

    def ran(self, name: str) -> int:
        return sum(entry[:2] == ("run", name) for entry in self.log)


class FakeRunner:
    """Takes ``seconds`` for each token of a batch, and 10 bytes of cache for each."""

    def __init__(
        self,
        gpu: FakeGpu,
        name: str,
        seconds: float,
        *,
        fails: Callable[[tuple[int, int], int], Exception | None] = lambda shape, run: None,
        value: float = 1.0,
        keeps: bool = False,
    ) -> None:
        self.gpu, self.name, self.seconds = gpu, name, seconds
        self.fails, self.value, self.keeps = fails, value, keeps
        self.device_ms: float | None = None
        self.closed = False

    def prepare(self, feeds: Mapping[str, Any]) -> Callable[[], Any]:
        rows, width = feeds["input_ids"].shape
        runs = 0

        def run() -> Any:
            nonlocal runs
            runs += 1
            self.gpu.log.append(("run", self.name, f"{rows}x{width}"))
            failure = self.fails((rows, width), runs)
            if failure is not None:
                raise failure
            self.gpu.now += self.seconds * rows * width
            self.device_ms = self.seconds * rows * width * 500
            if self.keeps:
                self.gpu.kept += 10 * rows * width * (runs == 1)
            else:
                self.gpu.cached = max(self.gpu.cached, 10 * rows * width)
            return np.full((rows, 2), self.value, np.float32)

        return run

    def close(self) -> None:
        self.closed = True
        raise RuntimeError("an error of the device makes freeing fail too")


class FakeModel:
    """A model of several fake contenders; ``opened`` counts how often each was loaded."""

    def __init__(
        self, gpu: FakeGpu, speeds: Mapping[str, float], *, name: str = "small", **how: Any
    ) -> None:
        self.gpu, self.speeds, self.how, self.name = gpu, speeds, how, name
        self.manifest = MANIFEST
        self.opened: list[str] = []

    def entrants(self) -> Sequence[Entrant]:
        return [
            Entrant(
                name=name,
                label=f"the {name}",
                engine="fake",
                data_type="fp16",
                open=lambda name=name: self._open(name),  # type: ignore[misc]
            )
            for name in self.speeds
        ]

    def _open(self, name: str) -> FakeRunner:
        self.opened.append(name)
        if self.speeds[name] < 0:
            raise MachineError("it is not\ninstalled; run: pip install it")
        self.gpu.kept += 5 * MB
        self.gpu.now += 0.5
        return FakeRunner(self.gpu, name, self.speeds[name], **self.how.get(name, {}))

    def reference(self, feeds: Any) -> Any:
        return np.full((len(feeds["input_ids"]), 2), 1.0, np.float32)

    def operations(self, batch: int, tokens: int) -> float | None:
        return 1e9 * batch * tokens

    def facts(self) -> dict[str, Any]:
        return {"parameter_bytes": 123}


PACE = Pace(rounds=4, turn=2, warmup=1, seconds=1e9)
CONFIG = GpuBenchConfig(batches=(1, 4), lengths=(8, 32, 128), seconds=1e6, pace=PACE)
REAL = Distribution(name="sst2", lengths=(3, 30, 5, 31, 4), edges=(8, 32))
TIMED = ("p50_ms", "p90_ms", "p99_ms", "min_ms", "mean_ms")
NUMBER = {"type": ["number", "null"]}
CELL = {
    "type": "object",
    "required": ["error"],
    "if": {"properties": {"error": {"type": "null"}}},
    "then": {
        "required": [*TIMED, "runs", "samples_per_s", "memory_bytes", "gops", "peak_share"],
        "properties": dict.fromkeys([*TIMED, "memory_bytes", "peak_share"], NUMBER),
    },
}
SCHEMA = {
    "type": "object",
    "required": ["identity", "machine", "complete", "stopped", "under_way", "notes", "peaks"],
    "properties": {
        "schema": {"const": 1},
        "geometries": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["model", "entrants", "shapes", "lengths"],
                "properties": {
                    "entrants": {
                        "additionalProperties": {"required": ["label", "data_type", "error"]}
                    },
                    "shapes": {
                        "additionalProperties": {
                            "required": ["batch", "tokens", "operations", "done"],
                            "properties": {"cells": {"additionalProperties": CELL}},
                        }
                    },
                },
            },
        },
    },
}


def feeds_of(rows: int, width: int) -> dict[str, Any]:
    return {"input_ids": np.zeros((rows, width), np.int64)}


def timed(gpu: FakeGpu, runners: dict[str, FakeRunner], pace: Pace = PACE) -> dict[str, Any]:
    runs = {name: runner.prepare(feeds_of(1, 10)) for name, runner in runners.items()}
    return time_cells(runs, runners, pace, gpu.device)


def journal_at(path: Path | None = None, **how: Any) -> Journal:
    journal = open_journal(path, {"gpu": "X100"}, MACHINE, command="make gpu-bench", **how)
    journal.report["peaks"] = {"fp16": {"gops": 1e6, "by": "a test"}}
    return journal


def run_bench(
    gpu: FakeGpu, *models: FakeModel, path: Path | None = None, config: GpuBenchConfig = CONFIG
) -> dict[str, Any]:
    loads = [lambda model=model: model for model in models]
    return gpu_bench(loads, config, journal_at(path), gpu.device)


def test_contenders_take_turns_and_each_round_starts_with_the_next() -> None:
    gpu = FakeGpu()
    runners = {name: FakeRunner(gpu, name, 1e-5) for name in "abc"}
    cells = timed(gpu, runners)
    names = [entry[1] for entry in gpu.log]
    # One untimed and two timed runs of each, in an order that moves on.
    assert "".join(names) == "aaabbbccc" + "bbbcccaaa" + "cccaaabbb" + "aaabbbccc"
    assert {name: cell["runs"] for name, cell in cells.items()} == {"a": 8, "b": 8, "c": 8}
    assert cells["a"]["p50_ms"] == pytest.approx(0.1)
    assert cells["a"]["device_p50_ms"] == pytest.approx(0.05)


def test_percentiles_are_those_of_the_runs_and_none_where_too_few() -> None:
    gpu = FakeGpu()
    runner = FakeRunner(gpu, "a", 0)
    times = iter(range(1, 1000))

    def run() -> Any:
        gpu.now += next(times) / 1000
        return None

    pace = Pace(rounds=100, turn=1, warmup=0, seconds=1e9)
    cell = time_cells({"a": run}, {"a": runner}, pace, gpu.device)["a"]
    # Runs above 100 ms are not preceded by an untimed one: 2, 4, .. 100, then one by one.
    seen = [*range(2, 101, 2), *range(101, 151)]
    assert cell["runs"] == len(seen) == 100
    assert cell["p50_ms"] == pytest.approx(np.percentile(seen, 50))
    assert cell["p99_ms"] == pytest.approx(np.percentile(seen, 99))
    few = time_cells({"a": run}, {"a": runner}, Pace(rounds=9, turn=1), gpu.device)["a"]
    assert few["runs"] == 9
    assert (few["p90_ms"], few["p99_ms"]) == (None, None)
    ten = time_cells({"a": run}, {"a": runner}, Pace(rounds=10, turn=1, seconds=1e9), gpu.device)
    assert ten["a"]["p90_ms"] is not None


def test_no_round_starts_when_the_time_is_up_but_the_least_are_run() -> None:
    gpu = FakeGpu()
    slow = FakeRunner(gpu, "slow", 1.0)
    cell = timed(gpu, {"slow": slow}, Pace(rounds=40, turn=5, warmup=2, seconds=5.0))["slow"]
    # Each turn of so slow a run is a single one; one untimed run came first.
    assert cell["runs"] == LEAST_ROUNDS
    assert gpu.ran("slow") == LEAST_ROUNDS + 1
    quick = FakeRunner(gpu, "quick", 1e-4)
    begin = gpu.now
    assert timed(gpu, {"quick": quick}, Pace(rounds=40, turn=5, seconds=0.1))["quick"]["runs"] == 85
    assert gpu.now - begin == pytest.approx(0.102)


def test_one_that_fails_on_the_way_is_a_row_with_its_reason_and_the_others_go_on() -> None:
    gpu = FakeGpu()
    bad = FakeRunner(
        gpu, "bad", 1e-5, fails=lambda _, n: MemoryError("full\nlong") if n > 4 else None
    )
    cells = timed(gpu, {"bad": bad, "good": FakeRunner(gpu, "good", 1e-5)})
    assert cells["bad"] == {"error": "MemoryError: full"}
    assert cells["good"]["runs"] == 8


def test_first_runs_measure_memory_and_refuse_what_is_not_a_number() -> None:
    gpu = FakeGpu()
    caching = FakeRunner(gpu, "caching", 1e-5)
    run, cell, logits = prepare_cell(caching, feeds_of(2, 50), PACE, gpu.device)
    assert run is not None
    assert logits is not None
    assert logits.shape == (2, 2)
    assert cell == {"error": None, "first_run_ms": 1.0, "shape_bytes": 1000, "kept_bytes": 0}
    assert gpu.ran("caching") == 1 + PACE.warmup
    keeping = FakeRunner(gpu, "keeping", 1e-5, keeps=True)
    assert prepare_cell(keeping, feeds_of(2, 50), PACE, gpu.device)[1]["kept_bytes"] == 1000
    wrong = FakeRunner(gpu, "wrong", 1e-5, value=float("nan"))
    run, cell, _ = prepare_cell(wrong, feeds_of(2, 50), PACE, gpu.device)
    assert run is None
    assert cell["error"] == "it answers NaN or infinity"
    close_runner(wrong)
    assert wrong.closed


def test_reasons_are_one_line() -> None:
    assert reason(MachineError("one\ntwo")) == "one two"
    assert reason(ValueError("one\ntwo")) == "ValueError: one"
    assert len(reason(ValueError("x" * 1000))) == 300
    assert relative_error(np.array([[3.0, 5.0]]), np.array([[3.0, 4.0]])) == pytest.approx(0.2)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, FakeGpu]:
    """A whole benchmark: one contender that works, one absent, one that is short of memory."""
    gpu = FakeGpu()
    path = tmp_path_factory.mktemp("gpu") / "x100.json"

    def full(shape: tuple[int, int], _: int) -> Exception | None:
        return RuntimeError("CUDA out of memory") if shape == (4, 32) else None

    how = {"big": {"fails": full}, "odd": {"value": 1.5}}
    model = FakeModel(gpu, {"good": 1e-5, "absent": -1, "big": 2e-5, "odd": 1e-5}, **how)
    config = GpuBenchConfig(
        batches=(4, 1),
        lengths=(32, 8, 128),
        seconds=1e6,
        pace=PACE,
        distributions=(REAL,),
        real=LengthsConfig(batch=2, passes=3),
    )
    report = run_bench(gpu, model, path=path, config=config)
    return report, path, gpu


def test_a_whole_benchmark_is_written_as_its_schema_says(
    done: tuple[dict[str, Any], Path, FakeGpu],
) -> None:
    report, path, _ = done
    assert json.loads(path.read_text()) == report
    jsonschema.validate(report, SCHEMA)
    assert report["complete"]
    part = report["geometries"]["small"]
    # The model takes 64 tokens; the smallest shapes come first.
    assert list(part["shapes"]) == ["1x8", "4x8", "1x32", "4x32"]
    assert part["entrants"]["absent"]["error"] == "it is not installed; run: pip install it"
    assert part["entrants"]["good"]["open_ms"] == 500
    assert part["entrants"]["good"]["relative_error"] == 0
    assert part["entrants"]["odd"]["relative_error"] == pytest.approx(0.5)
    cells = part["shapes"]["4x32"]["cells"]
    assert list(cells) == ["good", "big", "odd"]
    assert cells["big"]["error"] == "RuntimeError: CUDA out of memory"
    good = cells["good"]
    assert good["p50_ms"] == pytest.approx(1.28)
    assert good["samples_per_s"] == pytest.approx(3125)
    # 128 tokens at 10^9 operations each, in 1.28 ms, of a peak of 10^6 GOPS.
    assert good["gops"] == pytest.approx(1e5)
    assert good["peak_share"] == pytest.approx(0.1)
    assert good["memory_bytes"] == 5 * MB + 1280


def test_memory_that_stays_with_a_contender_is_counted_on() -> None:
    gpu = FakeGpu()
    model = FakeModel(gpu, {"arena": 1e-5, "cache": 1e-5}, arena={"keeps": True})
    shapes = run_bench(gpu, model)["geometries"]["small"]["shapes"]
    held = {name: [s["cells"][name]["memory_bytes"] - 5 * MB for s in shapes.values()]
            for name in ("arena", "cache")}  # fmt: skip
    assert held["cache"] == [80, 320, 320, 1280]
    assert held["arena"] == [80, 400, 720, 2000]


def test_real_lengths_are_run_with_and_without_buckets(
    done: tuple[dict[str, Any], Path, FakeGpu],
) -> None:
    found = done[0]["geometries"]["small"]["lengths"]["sst2"]
    assert found["real_tokens"] == 73
    assert found["padding"]["arrival"] == {"batches": 3, "shapes": 3, "tokens": 126, "work": 1.726}
    assert found["padding"]["buckets"] == {"batches": 3, "shapes": 3, "tokens": 88, "work": 1.2055}
    assert found["padding"]["fixed"]["tokens"] == 160
    good = found["cells"]["good"]
    assert good["arrival"]["samples_per_s"] == pytest.approx(5 / 126e-5, rel=1e-3)
    assert good["buckets"]["tokens_per_s"] == pytest.approx(73 / 88e-5, rel=1e-3)
    assert good["buckets"]["passes"] == 3
    assert "absent" not in found["cells"]


def row(text: str, title: str, name: str) -> list[str]:
    """Cells of the row called so in the table under a title."""
    lines = text[text.index(title) :].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    return next(cells for first, *cells in rows if first == name)


def test_tables_and_picture_say_what_was_measured_and_what_failed(
    done: tuple[dict[str, Any], Path, FakeGpu],
) -> None:
    report, path, _ = done
    table, picture = write_report(path, report)
    told = table.read_text()
    assert told == text(report, picture=picture.name)
    assert told.startswith("# NVIDIA X100 80GB\n\n`make gpu-bench`\n")
    assert "1980 MHz at most" in told
    assert row(told, "Batch 4: median ms", "") == ["4 x 8", "4 x 32"]
    assert row(told, "Batch 4: median ms", "the good") == ["0.32", "1.28"]
    assert row(told, "Batch 4: median ms", "the big") == ["0.64", "failed"]
    alone = "Median ms on the GPU alone"
    assert row(told, alone, "the good") == ["0.04", "0.16", "0.16", "0.64"]
    assert "- the big, 4x32: RuntimeError: CUDA out of memory" in told
    assert "it is not installed; run: pip install it" in told
    assert "| fp16   |    1000.0 | a test |" in told
    assert "Not complete" not in told
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    assert len(re.findall(r'<g id="axes_\d', drawn)) == 3
    after = {"sm_clock_mhz": 1755.0, "temperature_c": None}
    assert "After the last run: 1755 MHz, - °C." in text(report | {"after": after})
    partial = copy.deepcopy(report) | {"complete": False, "stopped": "time"}
    partial["geometries"]["small"]["shapes"]["4x32"]["done"] = False
    assert "Not complete: time." in text(partial)
    assert "4 x 32" not in text(partial)


def test_a_report_of_nothing_can_be_written(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "x.json")
    table, picture = write_report(tmp_path / "x.json", journal.report)
    assert "Not complete: the run was ended" in table.read_text()
    drawn = picture.read_text()
    assert "<dc:date>" not in drawn
    write_report(tmp_path / "x.json", journal.report)
    assert picture.read_text() == drawn


def test_a_run_out_of_time_keeps_what_it_has_and_the_next_goes_on(tmp_path: Path) -> None:
    gpu, path = FakeGpu(), tmp_path / "x.json"
    first = FakeModel(gpu, {"good": 1e-2, "other": 1e-2})
    # Loading takes 1 s, the first shape 0.16 s to prepare and 1.6 s for the least rounds.
    config = GpuBenchConfig(batches=(1,), lengths=(8, 16, 32), seconds=3.0, pace=PACE)
    report = run_bench(gpu, first, path=path, config=config)
    assert not report["complete"]
    assert "time of 3 s was up" in report["stopped"]
    kept = json.loads(path.read_text())["geometries"]["small"]["shapes"]
    assert list(kept) == ["1x8", "1x16"]
    measured = copy.deepcopy(kept["1x8"])
    gpu.log.clear()
    longer = GpuBenchConfig(batches=(1,), lengths=(8, 16, 32), seconds=1e6, pace=PACE)
    report = run_bench(gpu, FakeModel(gpu, {"good": 1e-2, "other": 1e-2}), path=path, config=longer)
    assert report["complete"]
    assert report["stopped"] is None
    assert {entry[2] for entry in gpu.log} == {"1x32"}
    assert report["geometries"]["small"]["shapes"]["1x8"] == measured
    last = FakeModel(gpu, {"good": 1e-2, "other": 1e-2})
    run_bench(gpu, last, path=path, config=longer)
    assert last.opened == []


def test_every_model_has_its_share_of_the_time() -> None:
    gpu = FakeGpu()
    models = [FakeModel(gpu, {"good": 1e-2}, name=name) for name in ("one", "two")]
    config = GpuBenchConfig(batches=(1,), lengths=(8, 16, 32, 64), seconds=8.0, pace=PACE)
    report = run_bench(gpu, *models, config=config)
    assert [len(report["geometries"][name]["shapes"]) for name in ("one", "two")] == [3, 3]
    late = GpuBenchConfig(batches=(1,), lengths=(8,), seconds=1.0, pace=PACE)
    report = gpu_bench([lambda: models[0]], late, journal_at(), gpu.device, begin=gpu.now - 2.0)
    assert report["geometries"] == {}
    assert not report["complete"]


def test_the_file_is_written_after_every_contender_and_shape(tmp_path: Path) -> None:
    gpu, path = FakeGpu(), tmp_path / "x.json"
    seen: list[list[str]] = []

    def look(shape: tuple[int, int], run: int) -> None:
        if run == 1:
            cells = json.loads(path.read_text())["geometries"]["small"]["shapes"]
            seen.append([f"{k} {n}" for k, s in cells.items() for n in s["cells"]])

    model = FakeModel(gpu, {"a": 1e-5, "b": 1e-5}, b={"fails": look})
    config = GpuBenchConfig(batches=(1,), lengths=(8, 16), pace=PACE)
    run_bench(gpu, model, path=path, config=config)
    assert seen == [["1x8 a"], ["1x8 a", "1x8 b", "1x16 a"]]


def test_one_that_ends_the_process_is_left_out_of_the_next_run(tmp_path: Path) -> None:
    gpu, path = FakeGpu(), tmp_path / "x.json"
    left: dict[str, str] = {}

    def crash(shape: tuple[int, int], run: int) -> None:
        if run == 1:
            left["json"] = path.read_text()  # What a segmentation fault here would leave.

    run_bench(gpu, FakeModel(gpu, {"good": 1e-5, "bad": 1e-5}, bad={"fails": crash}), path=path)
    path.write_text(left["json"])
    gpu.log.clear()
    model = FakeModel(gpu, {"good": 1e-5, "bad": 1e-5})
    report = run_bench(gpu, model, path=path)
    assert model.opened == ["good"]
    error = report["geometries"]["small"]["entrants"]["bad"]["error"]
    assert error == f"{CRASHED}: the first run of 4x32"
    assert list(report["geometries"]["small"]["shapes"]["4x32"]["cells"]) == ["good"]
    assert gpu.ran("good") > 0


def test_an_interrupt_blames_nobody_and_keeps_what_is_there(tmp_path: Path) -> None:
    gpu, path = FakeGpu(), tmp_path / "x.json"

    def interrupt(shape: tuple[int, int], _: int) -> None:
        if shape == (1, 32):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench(gpu, FakeModel(gpu, {"good": 1e-5}, good={"fails": interrupt}), path=path)
    kept = json.loads(path.read_text())
    assert kept["under_way"] is None
    assert [s["done"] for s in kept["geometries"]["small"]["shapes"].values()] == [
        True,
        True,
        False,
    ]


def test_only_a_run_of_the_same_kind_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    journal_at(path).save()
    assert journal_at(path).resumed
    assert not journal_at(path, fresh=True).resumed
    assert not open_journal(path, {"gpu": "other"}, MACHINE).resumed
    path.write_text('{"schema": 0, "geometries": {}}')
    assert not journal_at(path).resumed
    for other in ("[]", '{"format": 1}', "no JSON"):
        path.write_text(other)
        with pytest.raises(InputError, match=r"`fresh=True`"):
            journal_at(path)


def test_configurations_out_of_range_are_refused() -> None:
    for wrong in ({"batches": ()}, {"lengths": (0,)}, {"seconds": 0.0}):
        with pytest.raises(InputError, match="give"):
            GpuBenchConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no rows"):
        Distribution(name="x", lengths=(), edges=(8,))
    for edges in ((), (8, 4, 16), (8,)):
        with pytest.raises(InputError, match="rising"):
            Distribution(name="x", lengths=(9,), edges=edges)
