"""The GPU benchmark's command, tried on the CPU with a tiny model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.scripts import gpu_run
from albert_deploy.scripts.cli.gpu_bench import OUT, command
from albert_deploy.scripts.gpu_run import CommandConfig, make_model, measure, measure_on, smoked
from albert_deploy.validation.bench import gpu_peaks
from albert_deploy.validation.bench.gpu_bench import GpuBenchConfig
from albert_deploy.validation.bench.gpu_lengths import LengthsConfig
from albert_deploy.validation.bench.gpu_turns import Pace

DOCUMENT = Path(__file__).resolve().parents[3] / OUT / "README.md"
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
MACHINE: dict[str, Any] = {
    "cpu": "a processor",
    "cores": 2,
    "instructions": [],
    "system": "Linux x86_64",
    "load_average": 0.5,
    "versions": {"torch": torch.__version__},
    "gpu": {
        "name": "none, a processor",
        "capability": [0, 0],
        "memory_bytes": 0,
        "cuda": None,
        "driver": None,
    },
}
CONFIG = CommandConfig(
    bench=GpuBenchConfig(
        batches=(1, 2),
        lengths=(8, 16),
        pace=Pace(rounds=3, turn=1, warmup=0),
        real=LengthsConfig(batch=4, passes=1),
    ),
    geometries=("small",),
    contenders=("fp16@torch", "fp16@trt"),
    data=(("sst2", None),),
    rows=8,
    command="make gpu-bench",
)


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small geometry is smaller still, and so are the products that tell the peaks."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = gpu_run.SMALL | {"hidden_size": 32, "intermediate_size": 64}
        patch.setitem(gpu_run.ALL_GEOMETRIES, "small", sizes)
        quick = partial(gpu_peaks.gpu_peaks, sizes=((32, 32, 32),))
        patch.setattr(gpu_run, "gpu_peaks", quick)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def run(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("out") / "none.json"
    config = replace(CONFIG, models=models)
    begin = time.perf_counter()
    return measure_on(MACHINE, config, path, begin=begin, torch_device="cpu")


def test_a_run_measures_what_runs_and_names_what_does_not(run: tuple[Path, dict[str, Any]]) -> None:
    path, report = run
    assert json.loads(path.read_text()) == report
    assert report["complete"]
    part = report["geometries"]["small"]
    assert part["entrants"]["fp16@torch"]["relative_error"] < 0.05
    assert part["model"]["hidden_size"] == 32
    for shape in part["shapes"].values():
        cell = shape["cells"]["fp16@torch"]
        assert cell["runs"] == 3
        assert cell["samples_per_s"] > 0
        assert cell["peak_share"] > 0
    assert list(part["shapes"]) == ["1x8", "2x8", "1x16", "2x16"]
    assert part["lengths"]["sst2"]["rows"] == 8
    if not torch.cuda.is_available():
        assert "GPU" in part["entrants"]["fp16@trt"]["error"]
    told = path.with_suffix(".md").read_text()
    assert "torch eager fp16" in told
    assert "make gpu-bench" in told
    assert path.with_suffix(".svg").read_text().startswith("<?xml")


def test_the_same_command_goes_on_and_fresh_begins_anew(
    run: tuple[Path, dict[str, Any]], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run[1]
    path = shutil.copy(run[0], tmp_path / "none.json")
    notes: list[str] = []
    again = replace(CONFIG, models=models)
    begin = time.perf_counter()
    _, same = measure_on(MACHINE, again, path, begin=begin, torch_device="cpu", note=notes.append)
    assert same == report
    assert "small: measured already" in notes
    assert any(note.startswith("going on with") for note in notes)
    fresh = replace(again, fresh=True, bench=replace(again.bench, batches=(1,), lengths=(8,)))
    monkeypatch.setattr(gpu_run, "gpu_bench", lambda *_, **__: None)
    assert measure_on(MACHINE, fresh, path, begin=begin, torch_device="cpu")[1]["geometries"] == {}


def test_models_are_made_once(run: tuple[Path, dict[str, Any]], models: Path) -> None:
    folder = models / "small"
    manifest = read_manifest(folder / "deployment")
    assert set(manifest["variants"]) >= {"fp32", "fp16"}
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    notes: list[str] = []
    make_model("small", folder, CONFIG.contenders, note=notes.append)
    assert notes == ["fp16: up to date"]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == files


@NO_GPU
def test_without_a_gpu_the_command_says_what_is_needed_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no GPU to measure on"):
        measure(CONFIG, tmp_path, begin=0.0)
    done = subprocess.run(
        [sys.executable, "-m", "albert_deploy.scripts.cli.gpu_bench", "--smoke", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == MachineError.exit_code == 9
    assert done.stdout == ""
    assert re.fullmatch(r"error: no GPU to measure on: .* needs an NVIDIA GPU .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_smoke_run_is_small_and_keeps_out_of_the_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = smoked(CommandConfig())
    assert config.geometries == ("small",)
    assert len(config.bench.shapes) == 4
    monkeypatch.setattr(gpu_run, "require_gpu", lambda: None)
    machine = MACHINE | {"gpu": MACHINE["gpu"] | {"name": "NVIDIA X100"}}
    monkeypatch.setattr(gpu_run, "gpu_machine", lambda: machine)
    seen: list[Path] = []
    monkeypatch.setattr(gpu_run, "measure_on", lambda _, __, path, **___: seen.append(path))
    measure(config, tmp_path, begin=0.0)
    measure(CommandConfig(), tmp_path, begin=0.0)
    assert [path.name for path in seen] == ["nvidia-x100-smoke.json", "nvidia-x100.json"]


def test_the_command_prepares_models_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[tuple[str, Path]] = []
    monkeypatch.setattr(
        "albert_deploy.scripts.cli.gpu_bench.make_model",
        lambda name, folder, *_, **__: made.append((name, folder)),
    )
    done = CliRunner().invoke(command, ["--prepare", "--models", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert made == [("base", tmp_path / "base"), ("xxlarge", tmp_path / "xxlarge")]
    done = CliRunner().invoke(command, ["--prepare"])
    assert done.exit_code == 2
    assert "--prepare needs --models" in done.output


def test_the_command_hands_its_options_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[CommandConfig, Path]] = []

    def fake(config: CommandConfig, out: Path, **_: Any) -> Any:
        seen.append((config, out))
        raise InputError("enough")

    monkeypatch.setattr("albert_deploy.scripts.cli.gpu_bench.measure", fake)
    arguments = ["--geometries", "large", "--batches", "2,4", "--lengths", "8", "--seconds", "9"]
    arguments += ["--contenders", "*@trt", "--data", "squad=/data", "--fresh", "--out", "there"]
    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, InputError)
    config, out = seen[0]
    assert out == Path("there")
    assert (config.bench.batches, config.bench.lengths, config.bench.seconds) == ((2, 4), (8,), 9)
    assert (config.geometries, config.contenders, config.fresh) == (("large",), ("*@trt",), True)
    assert config.data == (("squad", Path("/data")),)
    CliRunner().invoke(command, ["--data", ""])
    assert seen[1][0].data == ()
    assert seen[1][0].geometries == ("base", "xxlarge")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown geometry 'huge'; use some of: base, large"):
        CommandConfig(geometries=("huge",))
    with pytest.raises(InputError, match="no contender is called tpu"):
        CommandConfig(contenders=("tpu",))


def test_the_document_explains_every_option_and_no_other() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    known = {option for parameter in command.params for option in parameter.opts}
    listed = set(re.findall(r"^\| `(--[a-z-]+)", text, flags=re.MULTILINE))
    assert listed == known
