"""The GPU benchmark's parts that need no GPU: lengths, peaks, readings, contenders, operations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from albert_deploy.export.engine.step import BuildConfig, build
from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.validation.bench import gpu_contenders, gpu_machine, gpu_peaks
from albert_deploy.validation.bench.gpu_contenders import (
    CHECKPOINT,
    DEPLOYMENT,
    ENTRANTS,
    GpuModel,
    ModelConfig,
    SessionRunner,
    names,
)
from albert_deploy.validation.bench.gpu_counts import COUNTS, count_operations, through
from albert_deploy.validation.bench.gpu_lengths import (
    ARRIVAL,
    BUCKETS,
    FIXED,
    Batch,
    Distribution,
    LengthsConfig,
    batches,
    padded_batch,
    padding,
    run_lengths,
)
from albert_deploy.validation.bench.gpu_shape import random_batch
from albert_deploy.validation.bench.gpu_sources import distribution
from albert_deploy.validation.bench.gpu_turns import Device, open_runner, relative_error
from albert_deploy.validation.bench.workload import operations, random_row

CONFIG = ModelConfig(batches=(1, 4), lengths=(8, 16, 256), device="cpu")


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    make_checkpoint(inner_group_num=2).rename(place / CHECKPOINT)
    export(str(place / CHECKPOINT), ExportConfig(), out=place / DEPLOYMENT)
    quantize(place / DEPLOYMENT, QuantizeConfig(variants=("fp16",)))
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> GpuModel:
    return GpuModel("tiny", folder, CONFIG)


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=40),
    edges=st.sets(st.integers(1, 63), max_size=4),
    size=st.integers(1, 9),
)
def test_every_row_is_in_one_batch_that_holds_it(
    lengths: list[int], edges: set[int], size: int
) -> None:
    found = Distribution(name="x", lengths=tuple(lengths), edges=(*sorted(edges), 64))
    work = padding(found, size)
    for policy in (ARRIVAL, BUCKETS, FIXED):
        made = batches(found, policy, size)
        assert sorted(n for batch in made for n in batch.lengths) == sorted(lengths)
        assert all(0 < len(batch.lengths) <= size for batch in made)
        assert all(max(batch.lengths) <= batch.width <= 64 for batch in made)
        assert work[policy]["tokens"] == sum(batch.tokens for batch in made) >= sum(lengths)
    assert work[BUCKETS]["tokens"] <= work[FIXED]["tokens"] >= work[ARRIVAL]["tokens"]
    widths = [batch.width for batch in batches(found, BUCKETS, size)]
    assert widths == sorted(widths)
    assert set(widths) <= set(found.edges)


def test_padding_is_masked(model: GpuModel) -> None:
    feeds = padded_batch(model.manifest, Batch(lengths=(3, 5), width=6), seed=1)
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert feeds["input_ids"][0, 3:].tolist() == [0, 0, 0]
    assert {value.dtype for value in feeds.values()} == {np.dtype(np.int64)}
    again = random_batch(model.manifest, 3, 7, seed=0)
    assert again["input_ids"].shape == (3, 7)
    assert len({row.tobytes() for row in again["input_ids"]}) == 3


def test_one_that_fails_on_real_lengths_is_a_row_and_the_others_go_on(model: GpuModel) -> None:
    class Bad(SessionRunner):
        def __init__(self, after: int) -> None:
            self.left = after

        def prepare(self, feeds: Any) -> Any:
            def run() -> Any:
                self.left -= 1
                if self.left < 0:
                    raise RuntimeError("out of memory")

            return run

    good = model.entrants()[0].open()
    runners = {"first": Bad(0), "good": good, "later": Bad(5)}
    lengths = Distribution(name="x", lengths=(3, 8, 5), edges=(4, 8))
    how = LengthsConfig(batch=2, passes=4)
    found = run_lengths(lengths, runners, model.manifest, how, Device(), 1e9)
    assert list(found["cells"]) == ["first", "good", "later"]
    assert found["cells"]["first"] == {"error": "RuntimeError: out of memory"}
    assert found["cells"]["later"] == {"error": "RuntimeError: out of memory"}
    assert found["cells"]["good"]["buckets"]["passes"] == 4
    assert found["cells"]["good"]["error"] is None
    hurried = run_lengths(lengths, {"good": good}, model.manifest, how, Device(), 0.0)
    assert hurried["cells"]["good"]["arrival"]["passes"] == 1
    good.close()


@pytest.mark.parametrize(("name", "longest"), [("sst2", 128), ("squad", 128)])
def test_the_bundled_samples_give_lengths_and_buckets(name: str, longest: int) -> None:
    tokenizer = SAMPLES["sample-sst2"].checkpoint
    found = distribution(name, None, tokenizer=tokenizer, limit=longest, rows=50)
    assert found.rows == 50
    assert max(found.lengths) <= longest
    assert 1 < len(found.edges) <= 4
    work = padding(found, 16)
    assert work[BUCKETS]["work"] < work[FIXED]["work"]
    assert distribution(name, None, tokenizer=tokenizer, limit=longest, rows=50) == found


def test_lengths_of_data_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        distribution("sst2", tmp_path / "no", tokenizer=tmp_path, limit=8)


def test_operations_at_any_shape_follow_from_three_lengths(folder: Path, model: GpuModel) -> None:
    file = folder / DEPLOYMENT / VARIANTS["fp32"].file
    (counted,) = operations(file, [random_row(model.manifest, 61, seed=3)])
    assert model.operations(5, 61) == pytest.approx(5 * counted, rel=1e-12)
    kept = (folder / COUNTS).read_text()
    (folder / COUNTS).write_text(kept.replace('"8":', '"7":'))
    assert 7 in count_operations(folder / DEPLOYMENT, folder / COUNTS)
    (folder / COUNTS).write_text(kept.replace('"sha256": "', '"sha256": "0'))
    assert 7 not in count_operations(folder / DEPLOYMENT, folder / COUNTS)
    assert (folder / COUNTS).read_text() == kept
    assert through({1: 1, 2: 4, 5: 25}, 9) == pytest.approx(81)


def test_operations_that_cannot_be_counted_are_left_out(
    model: GpuModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MachineError("no onnx")

    monkeypatch.setattr(gpu_contenders, "count_operations", fail)
    lacking = GpuModel("tiny", model.directory.parent, CONFIG)
    assert lacking.operations(1, 8) is None


def test_torch_contenders_compute_what_the_reference_does(model: GpuModel) -> None:
    feeds = random_batch(model.manifest, 2, 8, seed=0)
    wanted = model.reference(feeds)
    with open_session(model.directory) as session:
        runner = SessionRunner(session)
        assert relative_error(runner.prepare(feeds)(), wanted) < 1e-4
        assert runner.device_ms is None
    half = next(e for e in model.entrants() if e.name == "fp16@torch").open()
    error = relative_error(half.prepare(feeds)(), wanted)
    assert 1e-6 < error < 0.02
    half.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, on what its compiler uses.
def test_compiled_contenders_run_every_shape_without_falling_back(model: GpuModel) -> None:
    compiled = next(e for e in model.entrants() if e.name == "bf16@torch-compile").open()
    for shape in ((2, 8), (4, 16)):
        feeds = random_batch(model.manifest, *shape, seed=0)
        assert relative_error(compiled.prepare(feeds)(), model.reference(feeds)) < 0.1
    counters: Any = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["unimplemented"]
    compiled.close()


@pytest.mark.parametrize("name", [n for n in ENTRANTS if "torch" not in n])
def test_engines_that_need_a_gpu_are_rows_with_a_reason_here(model: GpuModel, name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    entrant = next(e for e in model.entrants() if e.name == name)
    runner, record = open_runner(entrant, Device())
    assert runner is None
    assert record["error"]
    assert "Error:" not in record["error"]  # One of this project's own, with its remedy.


def test_contenders_are_chosen_by_pattern(model: GpuModel) -> None:
    assert names(None) == list(ENTRANTS)
    assert names(["*@trt", "fp16@torch"]) == [
        "fp16@torch", "fp16@trt", "int8-fp16@trt", "fp8-qdq@trt"
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"no contender is called int4\*"):
        names(["int4*"])
    assert [e.name for e in model.entrants()] == list(ENTRANTS)
    assert {e.data_type for e in model.entrants()} <= set(gpu_peaks.MAKERS)


def test_profiles_cover_every_shape_to_come(model: GpuModel) -> None:
    single, several = model.profiles()
    # The model takes 64 tokens; the middle of the lengths is 16.
    assert (single.minimum, single.optimum, single.maximum) == ((1, 1), (1, 16), (1, 64))
    assert (several.minimum, several.optimum, several.maximum) == ((1, 1), (4, 16), (4, 64))
    alone = GpuModel("x", model.directory.parent, ModelConfig(batches=(1,), lengths=(8,)))
    assert [p.maximum for p in alone.profiles()] == [(1, 8)]


def test_engines_are_built_with_these_profiles(model: GpuModel) -> None:
    pytest.importorskip("tensorrt_rtx")
    how = BuildConfig(targets=("sm89",), variants=("fp16",), profiles=model.profiles())
    manifest = build(model.directory, how)
    record = json.loads((model.directory / manifest["engines"]["sm89-fp16"]["record"]).read_text())
    assert [profile["max"] for profile in record["profiles"]] == [[1, 64], [4, 64]]


def test_peaks_are_measured_for_each_type_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> Any:
        raise NotImplementedError("no such product\nhere")

    monkeypatch.setitem(gpu_peaks.MAKERS, "fp8", absent)
    sizes = ((16, 32, 16), (32, 64, 32))
    found, notes = gpu_peaks.gpu_peaks("cpu", seconds=0.001, sizes=sizes)
    assert list(found) == ["fp32", "tf32", "fp16", "bf16", "int8"]
    assert all(peak["gops"] > 0 and peak["by"].startswith("PyTorch, ") for peak in found.values())
    assert notes == ["no peak of fp8: NotImplementedError: no such product"]


@pytest.mark.parametrize("data_type", list(gpu_peaks.MAKERS))
def test_the_measured_product_is_a_matrix_product(data_type: str) -> None:
    generator = torch.Generator("cpu").manual_seed(0)
    out: Any = gpu_peaks.MAKERS[data_type]((32, 64, 16), generator)()
    assert out.shape == (32, 16)
    # Sums of 64 products of two normal values, of 40 as large for int8.
    scale = 1600 if data_type == "int8" else 1
    assert out.float().std().item() == pytest.approx(8 * scale, rel=0.2)


def test_float32_products_are_put_back_as_they_were() -> None:
    before = torch.get_float32_matmul_precision()
    with gpu_peaks.tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_readings_of_the_gpu_are_read_and_left_out_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = gpu_machine.read_smi("580.159.04, 345, 1980, 2619, [N/A], 71.30, 31\n")
    assert told["driver"] == "580.159.04"
    assert (told["sm_clock_mhz"], told["power_limit_w"], told["power_draw_w"]) == (345, None, 71.3)
    assert gpu_machine.read_smi("") == {}
    tool, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    tool.write_text(f'#!/bin/sh\necho "$@" > {asked}\necho "1.2, 3, 4, 5, 6, 7, N/A"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12-34")
    )
    found = gpu_machine.readings()
    assert found["driver"] == "1.2"
    assert found["temperature_c"] is None
    assert asked.read_text().endswith("-i GPU-12-34\n")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert set(gpu_machine.readings().values()) == {None}
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert set(gpu_machine.readings().values()) == {None}


def test_names_of_gpus_make_names_of_files() -> None:
    assert gpu_machine.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert gpu_machine.slug("NVIDIA RTX A6000 / x") == "nvidia-rtx-a6000-x"
    assert gpu_machine.slug("!") == "gpu"


def test_a_machine_without_a_gpu_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MachineError, match="built without CUDA; the benchmark needs an NVIDIA GPU"):
        gpu_machine.require_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(MachineError, match="sees no CUDA device"):
        gpu_machine.require_gpu()
