"""The options of ``bench``: what they hand over, and what the document says of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from albert_deploy.export.samples.random import GEOMETRIES
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.scripts import bench as module
from albert_deploy.scripts.bench import make_model
from albert_deploy.scripts.cli.bench import Measured, bench
from albert_deploy.validation.bench.config import GPU_DEFAULTS, BenchConfig

pytestmark = pytest.mark.medium

REPOSITORY = Path(__file__).resolve().parents[3]
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def test_what_is_not_given_is_left_to_the_defaults() -> None:
    assert Measured().config() == BenchConfig()
    assert Measured(gpu=True).config() == BenchConfig(device="gpu", **GPU_DEFAULTS)


def test_the_command_hands_its_options_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, BenchConfig, dict[str, Any]]] = []
    monkeypatch.setattr(module, "bench_random", lambda name, c, **how: seen.append((name, c, how)))
    arguments = [
        "--gpu",
        "--random",
        "large",
        "--batches",
        "2,4",
        "--lengths",
        "8",
        "--seconds",
        "9",
    ]
    arguments += [
        "--contenders",
        "*@trt,fp16@torch",
        "--dataset",
        "squad=/data",
        "--dataset",
        "sst2",
    ]
    arguments += ["--compile-mode", "reduce-overhead", "--models", "m", "--out", "there"]
    done = CliRunner().invoke(bench, arguments)
    assert done.exit_code == 0, done.output
    name, config, how = seen[0]
    assert (name, how["models"], how["out"]) == ("large", Path("m"), Path("there"))
    assert (config.device, config.batches, config.lengths, config.seconds) == (
        "gpu",
        (2, 4),
        (8,),
        9,
    )
    assert config.contenders == ("*@trt", "fp16@torch")
    assert config.datasets == (("squad", Path("/data")), ("sst2", None))
    assert config.compile_mode == "reduce-overhead"
    assert config.repeats == GPU_DEFAULTS["repeats"]


def test_a_model_is_prepared_without_a_gpu_and_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, progress: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(GEOMETRIES, "tiny", TINY)
    arguments = ["--gpu", "--random", "tiny", "--contenders", "fp16*", "--prepare"]
    done = CliRunner().invoke(bench, [*arguments, "--models", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'tiny'}\n"
    assert set(read_manifest(tmp_path / "tiny")["variants"]) == {"fp32", "fp16"}
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    progress.clear()
    config = BenchConfig(device="gpu", contenders=("fp16*",))
    make_model("tiny", config, tmp_path)
    assert progress.messages == ["fp16: up to date"]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == files
    with pytest.raises(InputError, match="unknown geometry 'huge'; use one of: base, large"):
        make_model("huge", config, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_command_says_what_is_needed_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "albert_deploy.scripts.cli"]
    done = subprocess.run(
        [*command, "bench", "--gpu", "--random", "base", "--out", "out"],
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


def test_files_in_a_folder_are_named_after_the_machine_and_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "gpu_machine", lambda: {"gpu": {"name": "NVIDIA X100"}})
    out, gpu = Path("docs"), BenchConfig(device="gpu")
    assert module._place(out, gpu, "base") == out / "nvidia-x100-base.json"
    assert module._place(out, BenchConfig(), "base") == out / "cpu-base.json"
    assert module._place(out / "mine.json", gpu, "base") == out / "mine.json"
    assert module._place(None, gpu, "base") is None


def test_the_document_speaks_of_options_that_there_are() -> None:
    text = (REPOSITORY / "docs/performance/README.md").read_text(encoding="utf-8")
    known = {option for parameter in bench.params for option in parameter.opts}
    listed = set(re.findall(r"^\| `(--[a-z-]+)", text, flags=re.MULTILINE))
    assert listed
    assert listed <= known
