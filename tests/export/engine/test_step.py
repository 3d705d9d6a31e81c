"""Engines from a deployment directory, with records, and kits for machines that this one is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import FUSED

from albert_deploy.export.engine import build as engine
from albert_deploy.export.engine.kit import KIT_NAME, SUMS, adopt, kit_config, write_kit
from albert_deploy.export.engine.step import BuildConfig, build, default_profiles, layer_uses
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import (
    file_record,
    is_intact,
    read_manifest,
    sha256_of,
    write_manifest,
)
from albert_deploy.runtime.trt.profiles import Profile

pytestmark = pytest.mark.medium

pytest.importorskip("tensorrt_rtx", reason="needs: pip install 'albert-deploy[rtx]'")

SHAPES = (Profile(minimum=(1, 1), optimum=(2, 16), maximum=(4, 32)),)
SM89 = BuildConfig(targets=("sm89",), variants=("fp16",), profiles=SHAPES)
PLAN, RECORD = "engines/sm89-fp16.plan", "engines/sm89-fp16.json"


@pytest.fixture(scope="module")
def quantized(make_export: Callable[..., Path]) -> Path:
    """A deployment directory with fp32 and fp16; tests copy it."""
    out = make_export(**FUSED)
    quantize(out, QuantizeConfig(variants=("fp16",)))
    return out


@pytest.fixture(scope="module")
def built(quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with an engine too; tests copy it."""
    out = Path(shutil.copytree(quantized, tmp_path_factory.mktemp("built") / "out"))
    build(out, SM89)
    return out


@pytest.fixture
def directory(quantized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized, tmp_path / "out"))


@pytest.fixture
def with_engine(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "out"))


def test_an_engine_is_recorded_with_its_proofs(built: Path) -> None:
    manifest = read_manifest(built)
    assert is_intact(built, manifest, PLAN)
    assert is_intact(built, manifest, RECORD)
    record = json.loads((built / RECORD).read_text(encoding="utf-8"))
    assert record["sha256"] == sha256_of(built / PLAN) == manifest["engines"]["sm89-fp16"]["sha256"]
    assert record["onnx"]["sha256"] == sha256_of(built / VARIANTS["fp16"].file)
    assert record["profiles"] == [{"min": [1, 1], "opt": [2, 16], "max": [4, 32]}]
    assert (record["target"], record["capability"]) == ("sm89", [8, 9])
    assert record["flavour"] == "tensorrt_rtx"
    assert 0 < record["weights_bytes"] <= 1.05 * 0.51 * record["parameter_bytes"] + 2_000_000
    assert record["build_ms"] > 0
    assert record["peak_bytes"] > record["bytes"] == (built / PLAN).stat().st_size
    proofs = {proof["name"]: proof["status"] for proof in record["proofs"]}
    assert set(proofs) == {"sharing", "fused attention", "linear types"}
    assert "failed" not in proofs.values()


def test_what_is_up_to_date_is_left_and_what_is_not_is_built_again(
    with_engine: Path, monkeypatch: pytest.MonkeyPatch, progress: pytest.LogCaptureFixture
) -> None:

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("was built again")

    before = (with_engine / PLAN).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "build_plan", fail)
        build(with_engine, SM89)
        assert progress.messages == ["sm89-fp16: up to date"]
        other = (Profile(minimum=(1, 1), optimum=(1, 16), maximum=(4, 32)),)
        for config in (replace(SM89, profiles=other), replace(SM89, force=True)):
            with pytest.raises(AssertionError, match="built again"):
                build(with_engine, config)
        (with_engine / PLAN).write_bytes(before[:-1])
        with pytest.raises(AssertionError, match="built again"):
            build(with_engine, SM89)
    build(with_engine, SM89)
    assert (with_engine / PLAN).read_bytes() == before  # From build to build the same bytes.


def test_an_engine_that_is_not_what_was_asked_for_is_not_written(with_engine: Path) -> None:
    file = VARIANTS["fp16"].file
    shutil.copyfile(with_engine / VARIANTS["fp32"].file, with_engine / file)
    manifest = read_manifest(with_engine)
    manifest["files"][file] = file_record(with_engine / file)
    write_manifest(with_engine, manifest)
    before = (with_engine / PLAN).read_bytes()
    with pytest.raises(ContractError, match=r"sm89-fp16 is not what was asked for: .*linear types"):
        build(with_engine, SM89)
    assert (with_engine / PLAN).read_bytes() == before
    assert read_manifest(with_engine) == manifest


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variants": ("bf16",)}, "holds no bf16; it holds: fp32, fp16; make it with"),
        ({"variants": ("int8",)}, "no engine of int8 for sm89: int8 is for processors"),
        ({"variants": ("bf16",), "targets": ("t4",)}, "no engine of bf16 for t4: NVIDIA T4"),
        ({"targets": ()}, "no target is named"),
        ({"targets": ("sm42",)}, "unknown target 'sm42'"),
        ({"flavour": "tensorflow"}, "tensorflow"),
    ],
)
def test_what_makes_no_sense_is_refused(
    config: dict[str, Any], message: str, directory: Path
) -> None:
    with pytest.raises(InputError, match=message):
        build(directory, BuildConfig(**({"targets": ("sm89",), "profiles": SHAPES} | config)))
    assert not (directory / "engines").exists()


def test_every_variant_that_fits_is_built_when_none_is_named(
    directory: Path, progress: pytest.LogCaptureFixture
) -> None:
    made = build(directory, replace(SM89, variants=None))
    assert list(made["engines"]) == ["sm89-fp32", "sm89-fp16"]
    lines = progress.messages
    assert len(lines) == 2
    assert all("proofs: " in line and " bytes in " in line for line in lines)


def test_a_changed_file_is_not_built_from(directory: Path) -> None:
    with (directory / VARIANTS["fp16"].file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ContractError, match="not the file that the manifest recorded"):
        build(directory, SM89)


def test_a_target_of_another_machine_has_a_kit(directory: Path) -> None:
    config = replace(SM89, targets=("h100",))
    with pytest.raises(MachineError):
        build(directory, config)
    kit = write_kit(directory, "h100", config)
    assert kit == directory / "kits/h100"
    with pytest.raises(MachineError):
        build(kit, kit_config(kit))
    with pytest.raises(MachineError):  # There is no GPU that it could ask.
        build(directory, replace(config, targets=("local",)))
    with pytest.raises(InputError, match="name its GPU"):
        write_kit(directory, "local", config)


def test_a_kit_makes_the_same_engine_which_comes_home(
    built: Path, directory: Path, tmp_path: Path, progress: pytest.LogCaptureFixture
) -> None:
    kit = Path(shutil.move(write_kit(directory, "sm89", SM89), tmp_path / "elsewhere"))
    assert not (kit / VARIANTS["fp32"].file).exists()  # What is not asked for stays at home.
    build(kit, kit_config(kit))
    assert (kit / PLAN).read_bytes() == (built / PLAN).read_bytes()
    assert adopt(directory, kit) == ["sm89-fp16"]
    assert is_intact(directory, read_manifest(directory), PLAN)
    progress.clear()
    build(directory, SM89)
    assert progress.messages == ["sm89-fp16: up to date"]


def test_engines_of_other_files_or_damaged_ones_do_not_come_home(
    built: Path, directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds no engine"):
        adopt(directory, write_kit(directory, "sm89", SM89))
    kit = Path(shutil.copytree(built, tmp_path / "kit"))
    manifest = read_manifest(directory)
    record = manifest["files"][VARIANTS["fp16"].file]
    manifest["files"][VARIANTS["fp16"].file] = record | {"sha256": "0" * 64}
    write_manifest(directory, manifest)
    with pytest.raises(ContractError, match="was made from another"):
        adopt(directory, kit)
    (kit / PLAN).write_bytes(b"plan")
    with pytest.raises(ContractError, match="not the file that was built"):
        adopt(directory, kit)
    theirs = read_manifest(kit)
    theirs["engines"]["sm89-fp16"]["file"] = "../../plan"
    write_manifest(kit, theirs)
    with pytest.raises(InputError, match="outside of engines/"):
        adopt(directory, kit)
    assert not (directory / "engines").exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (VARIANTS["fp16"].file, "no model", ContractError, "not the file that was put into"),
        (SUMS, f"{'0' * 64}  ../../secret\n", InputError, "outside of the kit"),
        (SUMS, None, InputError, "cannot read"),
        (KIT_NAME, '{"format": 99}', InputError, "has format 99, this version reads 1"),
        (KIT_NAME, "[", InputError, "cannot read"),
    ],
)
def test_a_damaged_kit_is_refused(
    name: str, content: str | None, error: type[Exception], message: str, directory: Path
) -> None:
    kit = write_kit(directory, "sm89", SM89)
    if content is None:
        (kit / name).unlink()
    else:
        (kit / name).write_text(content, encoding="utf-8")
    if name == KIT_NAME:
        lines = [x for x in (kit / SUMS).read_text().splitlines() if KIT_NAME not in x]
        (kit / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(error, match=message):
        kit_config(kit)


def test_the_command_of_a_kit_goes_as_far_as_this_machine_can(directory: Path, built: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for target, code in (("h100", MachineError.exit_code), ("sm89", 0)):
        kit = write_kit(directory, target, replace(SM89, targets=(target,)))
        done = subprocess.run(
            [kit / "build.sh"],
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stderr
        if code:
            assert done.stderr.startswith("error: "), done.stderr
            assert len(done.stderr.splitlines()) == 1
        else:
            assert (kit / PLAN).read_bytes() == (built / PLAN).read_bytes()


def test_default_profiles_take_every_length_and_choices(
    make_checkpoint: Callable[..., Path], tmp_path: Path, quantized: Path
) -> None:
    assert [str(p) for p in default_profiles(read_manifest(quantized))] == ["1x1:8x64:32x64"]
    assert layer_uses(read_manifest(quantized)) == 3
    manifest = export(
        str(make_checkpoint("multiple-choice", inner_group_num=2)),
        ExportConfig(),
        out=tmp_path / "choices",
    )
    assert [str(p) for p in default_profiles(manifest)] == ["1x1x1:8x4x64:32x8x64"]
    assert layer_uses(manifest) == 6


def test_a_kit_needs_the_runtime_and_tensorrt_alone(directory: Path) -> None:
    kit = write_kit(directory, "sm89", SM89)
    program = """
import sys
for name in ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "optimum",
             "scipy", "sklearn", "matplotlib", "jinja2", "safetensors", "huggingface_hub"):
    sys.modules[name] = None
from albert_deploy.scripts.cli.main import main
main(["build", sys.argv[1]])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(kit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (kit / PLAN).is_file()
