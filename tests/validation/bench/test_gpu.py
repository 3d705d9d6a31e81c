"""A bench of a GPU: whole on fakes and on a processor, and the parts that need no GPU."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MB, FakeMachine, fake_contender

from albert_deploy.export.engine.step import BuildConfig, build
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.validation.bench import bench as module
from albert_deploy.validation.bench import gpu, peaks
from albert_deploy.validation.bench.bench import bench
from albert_deploy.validation.bench.config import GPU_DEFAULTS, BenchConfig
from albert_deploy.validation.bench.contenders import contenders
from albert_deploy.validation.bench.interleave import Contender, Device
from albert_deploy.validation.bench.record import latencies, record, write_beside
from albert_deploy.validation.bench.report import text
from albert_deploy.validation.bench.workload import random_row

pytestmark = pytest.mark.medium

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
    },
}
CONFIG = BenchConfig(
    device="gpu",
    batches=(4, 1),
    lengths=(32, 8, 128),
    repeats=4,
    warmup=2,
    loads=0,
    seconds=1e6,
    peak_seconds=0.001,
)


@pytest.fixture(scope="module")
def directory(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "deployment"
    export(str(make_checkpoint()), ExportConfig(), out=out)
    quantize(out, QuantizeConfig(variants=("fp16",)))
    return out


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let a bench of a GPU run where there is none."""
    monkeypatch.setattr(module, "require_gpu", lambda: None)
    monkeypatch.setattr(module, "gpu_machine", lambda: copy.deepcopy(MACHINE))
    monkeypatch.setattr(module, "readings", lambda: {"sm_clock_mhz": 1755.0, "temperature_c": None})
    quick = partial(peaks.gpu_peaks, "cpu", sizes=((32, 32, 32),))
    monkeypatch.setattr(module, "gpu_peaks", lambda seconds: quick(seconds=seconds))
    monkeypatch.setattr(gpu, "cuda_device", Device)
    monkeypatch.setattr(gpu, "_DEVICE", "cpu")
    return monkeypatch


def fake_bench(
    patch: pytest.MonkeyPatch,
    directory: Path,
    machine: FakeMachine,
    found: list[Contender],
    config: BenchConfig = CONFIG,
    out: Path | None = None,
) -> dict[str, Any]:
    patch.setattr(module, "contenders", lambda *_, **__: found)
    patch.setattr(module, "gpu_peaks", lambda **_: ({"fp16": {"gops": 10.0, "by": "a test"}}, []))
    patch.setattr(gpu, "cuda_device", lambda: machine.device)
    ones = np.ones((1, 2), np.float32)
    patch.setattr(
        gpu, "difference_from_fp32", lambda *_: lambda logits: float(abs(logits - ones).max())
    )
    return bench(directory, config, out=out)


def cells(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = report["runs"][0]["contenders"][name]["latency"]
    return found


def full(shape: tuple[int, int], _: int) -> Exception | None:
    return RuntimeError("CUDA out of memory") if shape == (4, 32) else None


@pytest.fixture
def done(
    on_processor: pytest.MonkeyPatch, directory: Path, tmp_path: Path
) -> tuple[dict[str, Any], Path]:
    """A whole bench: one contender that works, one absent, one that is short of memory."""
    machine, path = FakeMachine(), tmp_path / "x100.json"
    absent = MachineError("it is not\ninstalled; run: pip install it")
    found = [
        fake_contender(machine, "good"),
        fake_contender(machine, "absent", error=absent),
        fake_contender(machine, "big", 2e-5, fails=full),
        fake_contender(machine, "odd", value=1.5),
    ]
    return fake_bench(on_processor, directory, machine, found, out=path), path


def test_a_whole_bench_has_what_was_measured_and_what_failed(
    done: tuple[dict[str, Any], Path],
) -> None:
    report, path = done
    assert json.loads(path.read_text()) == report
    assert report["complete"]
    # The model takes 64 tokens; the smallest shapes come first.
    assert list(report["columns"]) == ["8", "4x8", "32", "4x32"]
    assert "absent: left out, it is not installed; run: pip install it" in report["notes"]
    rows = report["runs"][0]["contenders"]
    assert list(rows) == list(report["contenders"]) == ["good", "big", "odd"]
    assert rows["good"]["load_ms"] == 500
    assert (rows["good"]["difference"], rows["odd"]["difference"]) == (0, 0.5)
    assert cells(report, "big")["4x32"]["error"] == "RuntimeError: CUDA out of memory"
    good = cells(report, "good")["4x32"]
    assert good["median_ms"] == pytest.approx(1.28)
    assert good["device_median_ms"] == pytest.approx(0.64)
    assert good["samples_per_s"] == pytest.approx(3125)
    assert good["memory_bytes"] == 5 * MB + 1280
    operations = report["columns"]["4x32"]["operations"]
    assert good["gops"] == pytest.approx(operations / 1.28e6)
    assert good["peak_share"] == pytest.approx(operations / 1.28e6 / 10)
    assert good["ratio_median"] == 1
    assert cells(report, "odd")["4x32"]["peer_ratio_median"] == 1


def row(text: str, title: str, name: str, table: int = 0) -> list[str]:
    """Cells of the row called so in one of the tables under a title."""
    lines = text[text.index(title) :].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    return [cells for first, *cells in rows if first == name][table]


def test_tables_and_picture_say_what_was_measured_and_what_failed(
    done: tuple[dict[str, Any], Path],
) -> None:
    report, path = done
    write_beside(path, report)
    told = path.with_suffix(".md").read_text()
    assert text(report) in told
    assert "on NVIDIA X100 80GB\n" in told
    assert "GPU, 4 interleaved rounds: median ms" in told
    assert row(told, ": median ms,", "batch 4")[3:] == ["8 tokens", "32 tokens"]
    assert row(told, ": median ms,", "good", 1)[2:] == [
        "0.0e+00",
        "0.32 (1.00x / 1.00x)",
        "1.28 (1.00x / 1.00x)",
    ]
    assert row(told, ": median ms,", "big", 1)[3:] == ["0.64 (0.50x / 0.50x)", "failed"]
    assert row(told, "on the device alone", "good", 1) == ["0.16", "0.64"]
    assert row(told, "memory on the device, MB", "good", 1) == ["5", "5"]
    assert row(told, "texts per second", "good", 1) == ["12,500", "3,125"]
    assert "failed: big, 32 tokens, batch 4: RuntimeError: CUDA out of memory" in told
    assert "it is not installed; run: pip install it" in told
    assert "peaks measured in this run, GOPS: fp16 10 (a test)" in told
    assert "after the last run: 1755 MHz, - °C" in told
    assert "Not complete" not in told
    assert "Not complete" in text(report | {"complete": False})
    drawn = path.with_suffix(".svg").read_text()
    assert drawn.startswith("<?xml")
    assert len(re.findall(r'<g id="axes_\d', drawn)) == 3
    assert "<dc:date>" not in drawn
    write_beside(path, report)
    assert path.with_suffix(".svg").read_text() == drawn


def test_memory_that_stays_with_a_contender_is_counted_on(
    on_processor: pytest.MonkeyPatch, directory: Path
) -> None:
    machine = FakeMachine()
    found = [fake_contender(machine, "arena", keeps=True), fake_contender(machine, "cache")]
    report = fake_bench(on_processor, directory, machine, found)
    held = {
        name: [cell["memory_bytes"] - 5 * MB for cell in cells(report, name).values()]
        for name in ("arena", "cache")
    }
    assert held["cache"] == [80, 320, 320, 1280]
    assert held["arena"] == [80, 400, 720, 2000]


def test_every_column_has_its_share_of_the_time(
    on_processor: pytest.MonkeyPatch, directory: Path
) -> None:
    machine = FakeMachine()
    config = BenchConfig(device="gpu", lengths=(8, 32), repeats=1000, loads=0, seconds=8.0)
    report = fake_bench(
        on_processor, directory, machine, [fake_contender(machine, "good", 1e-3)], config
    )
    rounds = [len(cell["times_ms"]) for cell in cells(report, "good").values()]
    # A pass takes 8 ms and 32 ms, each after an untimed one.
    assert rounds == [pytest.approx(4 / 0.016, rel=0.05), pytest.approx(4 / 0.064, rel=0.1)]


def test_a_run_that_was_ended_is_gone_on_with(
    on_processor: pytest.MonkeyPatch, directory: Path, tmp_path: Path
) -> None:
    machine, path = FakeMachine(), tmp_path / "x.json"

    def interrupt(shape: tuple[int, int], _: int) -> None:
        if shape == (1, 32):
            raise KeyboardInterrupt

    found = [fake_contender(machine, "good", fails=interrupt)]
    with pytest.raises(KeyboardInterrupt):
        fake_bench(on_processor, directory, machine, found, out=path)
    kept = json.loads(path.read_text())
    assert not kept["complete"]
    assert kept["under_way"] is None
    before = kept["runs"][0]["contenders"]["good"]["latency"]
    assert list(before) == ["8", "4x8"]
    machine.log.clear()
    found = [fake_contender(machine, "good")]
    report = fake_bench(on_processor, directory, machine, found, out=path)
    assert report["complete"]
    assert set(cells(report, "good")) == set(report["columns"])
    assert before.items() <= {n: cells(report, "good")[n] for n in before}.items()
    assert {run for _, run in machine.log if "x" in run} == {"1x32", "4x32"}
    # What is complete is measured anew.
    machine.log.clear()
    fake_bench(on_processor, directory, machine, found, out=path)
    assert {run for _, run in machine.log if "x" in run} == {"1x8", "4x8", "1x32", "4x32"}


def test_what_ended_the_whole_process_is_left_out_by_the_next_run(
    on_processor: pytest.MonkeyPatch, directory: Path, tmp_path: Path
) -> None:
    machine, path = FakeMachine(), tmp_path / "x.json"
    seen: list[dict[str, Any]] = []

    def look(*_: object) -> None:
        seen.append(json.loads(path.read_text()))

    found = [fake_contender(machine, "good"), fake_contender(machine, "evil", fails=look)]
    fake_bench(on_processor, directory, machine, found, out=path)
    killed = seen[0]
    assert killed["under_way"] == {"contender": "evil", "doing": "first run of 8"}
    path.write_text(json.dumps(killed))
    report = fake_bench(on_processor, directory, machine, found, out=path)
    assert list(report["contenders"]) == ["good"]
    (line,) = (note for note in report["notes"] if note.startswith("evil"))
    assert line.endswith("killed or crashed during this: first run of 8")
    # Another machine's file is no beginning of this one.
    killed["machine"]["gpu"]["name"] = "other"
    path.write_text(json.dumps(killed))
    report = fake_bench(on_processor, directory, machine, found, out=path)
    assert list(report["contenders"]) == ["good", "evil"]


@pytest.mark.parametrize("content", ["[]", '{"format": 1}', "no JSON"])
def test_a_file_of_another_kind_is_not_written_over(
    on_processor: pytest.MonkeyPatch, directory: Path, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match="remove it or choose another"):
        fake_bench(on_processor, directory, FakeMachine(), [], out=path)
    assert path.read_text() == content


def test_a_real_model_runs_in_what_there_is(
    on_processor: pytest.MonkeyPatch, directory: Path, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = BenchConfig(
        device="gpu",
        batches=(1, 2),
        lengths=(8,),
        datasets=(("sst2", None),),
        dataset_rows=8,
        repeats=3,
        warmup=0,
        loads=0,
        peak_seconds=0.001,
        contenders=("fp16@torch", "fp16@trt", "fp8-qdq@trt", "*@ort-cuda"),
    )
    report = bench(directory, config)
    assert list(report["contenders"]) == ["fp16@torch"]
    assert report["runs"][0]["contenders"]["fp16@torch"]["difference"] < 0.05
    assert list(report["columns"]) == ["8", "2x8", "sst2", "sst2-buckets"]
    for cell in cells(report, "fp16@torch").values():
        assert len(cell["times_ms"]) == 3
        assert cell["samples_per_s"] > 0
        assert cell["peak_share"] > 0
    notes = "\n".join(report["notes"])
    assert "fp8-qdq, TensorRT: left out" in notes
    assert "holds no variant fp8-qdq" in notes
    for name in ("fp16, TensorRT", "fp32, ORT CUDA", "fp16, ORT CUDA"):
        (line,) = (note for note in report["notes"] if note.startswith(f"{name}: left out"))
        assert "Error:" not in line  # One of this project's own, with its remedy.
    assert latencies(read_manifest(directory), report) == {}
    paths = record(directory, report)
    assert [path.name for path in paths] == ["bench-gpu.json", "bench-gpu.svg"]


def test_contenders_are_chosen_by_pattern(directory: Path, tmp_path: Path) -> None:
    manifest = read_manifest(directory)

    def found(*patterns: str, **how: Any) -> list[str]:
        config = BenchConfig(device="gpu", contenders=patterns, **how)
        return [c.name for c in contenders(directory, manifest, config, work=tmp_path)]

    assert found("*@trt", "fp16@torch") == ["fp16@torch", "fp16@trt"]
    assert found("fp16@torch", "fp16@trt", torch=False) == ["fp16@trt"]
    with pytest.raises(InputError, match=r"no contender is called int4\*; there are: fp16@torch"):
        found("int4*")
    assert gpu.files(list(gpu.CONTENDERS)) == ("fp32", "fp16", "int8-fp16", "fp8-qdq")
    assert set(gpu.CONTENDERS.values()) <= set(peaks.GPU_MAKERS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, on what its compiler uses.
def test_compiled_contenders_run_every_shape_without_falling_back(
    on_processor: pytest.MonkeyPatch, directory: Path
) -> None:
    manifest = read_manifest(directory)
    compiled = gpu._torch(manifest, CONFIG, "bf16@torch-compile").open()
    for batch, length in ((2, 8), (4, 16)):
        row = random_row(manifest, length, seed=0)
        feeds = {name: np.repeat(value, batch, axis=0) for name, value in row.items()}
        differ = gpu.difference_from_fp32(manifest, CONFIG, feeds)
        assert 0 < differ(compiled.run(feeds)[compiled.outputs[0]]) < 0.1
    counters: Any = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["unimplemented"]
    compiled.close()


def test_profiles_cover_every_shape_to_come(directory: Path) -> None:
    manifest = read_manifest(directory)
    single, several = gpu.profiles(
        manifest, BenchConfig(device="gpu", batches=(1, 4), lengths=(8, 16, 256))
    )
    # The model takes 64 tokens; the middle of the lengths is 16.
    assert (single.minimum, single.optimum, single.maximum) == ((1, 1), (1, 16), (1, 64))
    assert (several.minimum, several.optimum, several.maximum) == ((1, 1), (4, 16), (4, 64))
    alone = gpu.profiles(manifest, BenchConfig(device="gpu", lengths=(8,)))
    assert [p.maximum for p in alone] == [(1, 8)]
    texts = BenchConfig(device="gpu", lengths=(8,), datasets=(("sst2", None),))
    assert gpu.profiles(manifest, texts)[0].maximum == (1, 64)


def test_engines_are_built_with_these_profiles(directory: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    config = BenchConfig(device="gpu", **GPU_DEFAULTS)
    profiles = gpu.profiles(read_manifest(directory), config)
    how = BuildConfig(targets=("sm89",), variants=("fp16",), profiles=profiles)
    manifest = build(directory, how)
    record = json.loads((directory / manifest["engines"]["sm89-fp16"]["record"]).read_text())
    assert [profile["max"] for profile in record["profiles"]] == [[1, 64], [128, 64]]
