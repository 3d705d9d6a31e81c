"""The serving profile finds the best split and batch of machines whose speeds are known."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_directories import MAX_LENGTH, deployment

from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.scripts.serving import profile
from albert_deploy.scripts.serving.options import measured_settings
from albert_deploy.scripts.serving.profile import (
    BATCHES,
    ServingConfig,
    measure_serving,
    preferred,
    record_serving,
    rows_per_s,
    serving_text,
    splits,
)

Cost = Callable[[int, int, int], float]


class Machine:
    """A clock for each thread, and networks that move it on by what a run is said to take."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._local = threading.local()
        self.shapes: set[tuple[int, ...]] = set()
        self.opened: list[tuple[str, str, int]] = []
        self.open_now = 0

    def clock(self) -> float:
        return float(getattr(self._local, "now", 0.0))

    def open(self, variant: str, engine: str, threads: int) -> Any:
        self.opened.append((variant, engine, threads))
        self.open_now += 1
        return _Network(self, threads)

    def run(self, feeds: Any, threads: int) -> None:
        shape = feeds["input_ids"].shape
        assert {value.shape for value in feeds.values()} == {shape}
        self.shapes.add(shape)
        self._local.now = self.clock() + self._cost(self.open_now, threads, shape[0])


class _Network:
    engine, outputs = "ort", ("logits",)

    def __init__(self, machine: Machine, threads: int) -> None:
        self._machine, self._threads = machine, threads

    def run(self, feeds: Any) -> Any:
        self._machine.run(feeds, self._threads)
        return {}

    def close(self) -> None:
        self._machine.open_now -= 1

    def __enter__(self) -> _Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measured(directory: Path, machine: Machine, count: int = 4, **given: Any) -> dict[str, Any]:
    return measure_serving(
        directory,
        ServingConfig(**{"seconds": 10, "lengths": (32,)} | given),
        open_one=machine.open,
        clock=machine.clock,
        count=count,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return deployment(tmp_path / "out", "text-classification", ("fp32", "int8"))


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (1, ((1, 1),)),
        (2, ((2, 1), (1, 2))),
        (4, ((4, 1), (2, 2), (1, 4))),
        (6, ((6, 1), (4, 1), (2, 3), (1, 6))),
        (8, ((8, 1), (4, 2), (2, 4), (1, 8))),
    ],
)
def test_splits_go_from_all_networks_to_all_threads(
    count: int, wanted: tuple[tuple[int, int], ...]
) -> None:
    assert splits(count) == wanted
    assert all(n * threads <= count for n, threads in wanted)


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [
        ({"1": 100.0, "2": 100.0, "4": 100.0}, []),
        ({"1": 96.0, "2": 98.0, "4": 100.0}, []),
        ({"1": 94.0, "2": 95.0, "4": 100.0}, [2]),
        ({"1": 10.0, "2": 20.0, "4": 40.0}, [4]),
        ({"1": 10.0, "2": 40.0, "4": 20.0}, [2]),
        ({"1": 10.0, "8": 39.0, "16": 40.0}, [8]),
    ],
)
def test_the_smallest_batch_that_is_about_as_good_is_preferred(
    rates: dict[str, float], wanted: list[int]
) -> None:
    assert preferred(rates) == wanted


@pytest.mark.parametrize("instances", [1, 3])
def test_a_rate_is_rows_over_time_of_all_networks(instances: int) -> None:
    machine = Machine(lambda _, __, rows: 0.5 * rows)
    sessions = [machine.open("fp32", "ort", 1) for _ in range(instances)]
    row = {name: np.ones((1, 7), np.int64) for name in ("input_ids", "attention_mask")}
    for size in (1, 4):
        rate = rows_per_s(sessions, row, size, seconds=10, clock=machine.clock)
        assert rate == pytest.approx(2 * instances)
    assert machine.shapes == {(1, 7), (4, 7)}


def test_a_network_that_fails_ends_the_measurement() -> None:
    def cost(_: int, threads: int, __: int) -> float:
        if threads == 2:
            raise ContractError("broken")
        return 1.0

    machine = Machine(cost)
    sessions = [machine.open("fp32", "ort", threads) for threads in (1, 2, 1)]
    row = {"input_ids": np.ones((1, 7), np.int64)}
    before = threading.active_count()
    with pytest.raises(ContractError, match="broken"):
        rows_per_s(sessions, row, 1, seconds=10, clock=machine.clock)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("cost", "split"),
    [
        # Threads help as much as they are many, or not at all, or up to two.
        (lambda _, threads, rows: rows / threads**1.1, "1x4"),
        (lambda _, threads, rows: rows, "4x1"),
        (lambda _, threads, rows: rows / (1, 2.2, 0, 2.3)[threads - 1], "2x2"),
        # Networks beside each other slow each other down.
        (lambda networks, threads, rows: rows * networks**2, "1x4"),
    ],
)
def test_the_best_split_is_found(cost: Cost, split: str, directory: Path) -> None:
    found = measured(directory, Machine(cost))["int8"]
    assert f"{found['instances']}x{found['threads']}" == split
    assert list(found["rows_per_s"]["splits"]) == ["4x1", "2x2", "1x4"]
    best = found["rows_per_s"]["splits"]
    assert best[split] == max(best.values())


@pytest.mark.parametrize(
    ("cost", "wanted"),
    [
        (lambda _, __, rows: rows, []),
        (lambda _, __, rows: 9 + rows, [32]),
        (lambda _, __, rows: math.ceil(rows / 8), [8]),
    ],
)
def test_batches_are_measured_with_the_best_split(
    cost: Cost, wanted: list[int], directory: Path
) -> None:
    machine = Machine(cost)
    found = measured(directory, machine, variants=("int8",))["int8"]
    assert found["preferred"] == wanted
    assert list(found["rows_per_s"]["batches"]) == [str(size) for size in BATCHES]
    assert machine.opened[-4:] == [("int8", "ort", 1)] * 4
    assert machine.open_now == 0


def test_what_is_measured_is_recorded_and_used(directory: Path) -> None:
    machine = Machine(lambda _, __, rows: 3 + rows)
    found = measured(directory, machine, lengths=(512, 48, 16))
    assert found.keys() == {"fp32", "int8"}
    assert machine.shapes == {(size, 48) for size in BATCHES}
    record_serving(directory, found)
    manifest = read_manifest(directory)
    one = manifest["serving"]["int8"]
    assert one == found["int8"]
    assert one["sha256"] == manifest["files"]["onnx/model_int8.onnx"]["sha256"]
    assert (one["engine"], one["length"], one["lengths"]) == ("ort", 48, [])
    assert one["machine"].keys() == {"cpu", "cores", "versions"}
    settings = measured_settings(manifest, "int8")
    assert settings == {"instances": 4, "threads": 1, "preferred": (32,), "lengths": ()}
    again = measured(
        directory, Machine(lambda _, threads, rows: rows / threads**2), variants=("fp32",)
    )
    record_serving(directory, again)
    manifest = read_manifest(directory)
    assert manifest["serving"]["int8"] == one
    assert measured_settings(manifest, "fp32")["threads"] == 4


def test_a_choice_has_two_rows_of_tokens(tmp_path: Path) -> None:
    machine = Machine(lambda _, __, rows: rows)
    measured(deployment(tmp_path / "out", "multiple-choice"), machine, lengths=(16,))
    assert machine.shapes == {(size, 2, 16) for size in BATCHES}


def texts_of(monkeypatch: pytest.MonkeyPatch, counts: dict[int, int]) -> None:
    """Stand in for a data set whose texts have so many tokens."""
    from albert_deploy.validation.bench import workload

    feeds = [{"input_ids": np.ones((1, n), np.int64)} for n in Counter(counts).elements()]
    monkeypatch.setattr(workload, "texts", lambda *_: feeds)


@pytest.mark.parametrize(
    ("counts", "length", "wanted"),
    [
        ({8: 10}, 8, [8, 64]),
        ({8: 10, 64: 1}, 8, [8, 64]),
        ({7: 3, 15: 9, 30: 1}, 15, [8, 16, 32, 64]),
        ({8 * n: 5 for n in range(1, 8)}, 32, None),
        ({8 * n: 5 for n in range(1, 9)}, 40, None),
    ],
)
def test_a_data_set_gives_the_length_and_the_buckets(
    counts: dict[int, int],
    length: int,
    wanted: list[int] | None,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts_of(monkeypatch, counts)
    machine = Machine(lambda _, __, rows: rows)
    given = {"dataset": ("sst2", None), "variants": ("fp32",)}
    found = measured(directory, machine, **given)["fp32"]
    assert found["length"] == length
    assert machine.shapes == {(size, length) for size in BATCHES}
    lengths = found["lengths"]
    assert wanted is None or lengths == wanted
    assert 1 <= len(lengths) <= 4
    assert lengths[-1] == MAX_LENGTH
    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lengths": ()}, "give at least one"),
        ({"lengths": (0,)}, "give at least one"),
        ({"seconds": 0}, "use more than 0"),
        ({"variants": ("int4",)}, "unknown variant 'int4'"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServingConfig(**given)


def test_what_is_not_there_cannot_be_measured(directory: Path) -> None:
    machine = Machine(lambda _, __, rows: rows)
    with pytest.raises(InputError, match="has no fp16; it has fp32, int8"):
        measured(directory, machine, variants=("fp16",))
    with pytest.raises(InputError, match="got lengths 128; the model takes at most 64"):
        measured(directory, machine, lengths=(128,))
    assert machine.opened == []


def test_a_variant_that_nothing_runs_here_is_left_out(
    directory: Path, monkeypatch: pytest.MonkeyPatch, progress: pytest.LogCaptureFixture
) -> None:
    def choose(_: Any, variant: str) -> str:
        if variant == "int8":
            raise MachineError("no engine that runs int8 is installed")
        return "ort"

    monkeypatch.setattr(profile, "choose_engine", choose)
    machine = Machine(lambda _, __, rows: rows)
    config = ServingConfig(lengths=(16,))
    given: Any = {"open_one": machine.open, "clock": machine.clock, "count": 1}
    assert measure_serving(directory, config, **given).keys() == {"fp32"}
    assert "left out: no engine that runs int8 is installed" in progress.messages
    with pytest.raises(MachineError, match="no engine that runs int8"):
        measured(directory, machine, variants=("int8",))


def test_tables_are_for_people(directory: Path) -> None:
    found = measured(directory, Machine(lambda _, __, rows: 3 + rows), lengths=(16,))
    text = serving_text(found)
    assert "int8 in ort, 16 tokens, rows per second:" in text
    assert "networks x threads  4x1" in text
    assert "serve with 4 networks of 1 threads, batches of 32" in text
    assert max(map(len, text.splitlines())) < 100


def test_the_command_measures_and_records(
    cli: Any, deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real sessions, for an instant each."""
    monkeypatch.setattr(profile, "BATCHES", (1, 2))
    monkeypatch.setattr(
        ServingConfig, "__post_init__", lambda self: object.__setattr__(self, "seconds", 0.01)
    )
    out = tmp_path / "serving.json"
    result = cli(
        "bench", deployed, "--serving", "--variants", "fp32", "--lengths", "16", "--out", out
    )
    assert result.code == 0, result.err
    assert "fp32 in ort, 16 tokens, rows per second:" in result.out
    one = read_manifest(deployed)["serving"]["fp32"]
    assert all(rate > 0 for rates in one["rows_per_s"].values() for rate in rates.values())
    assert out.is_file()
    assert not (deployed / "reports" / "bench.json").exists()


@pytest.mark.parametrize(
    "other",
    [
        *(("--tune",), ("--no-torch",), ("--contenders", "int8*"), ("--source", "x")),
        *(("--threads", "2"), ("--repeats", "3"), ("--seconds", "5")),
    ],
)
def test_with_it_nothing_else_is_measured(other: tuple[str, ...], cli: Any, exported: Path) -> None:
    result = cli("bench", exported, "--serving", *other)
    assert result.code == 2
    assert "--serving goes with DIR" in result.err


def test_it_needs_a_directory(cli: Any) -> None:
    result = cli("bench", "--serving", "--random", "base")
    assert result.code == 2
    assert "--serving goes with DIR" in result.err
