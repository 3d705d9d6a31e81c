"""Plans are built, for each variant and target, with what was asked for and proofs of it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import FUSED, GEOMETRIES

from albert_deploy.export.engine import build as engine
from albert_deploy.export.engine.build import Built, EngineConfig, build_plan
from albert_deploy.export.engine.proofs import prove
from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.trt import flavours
from albert_deploy.runtime.trt.flavours import FLAVOURS, Flavour, load_flavour
from albert_deploy.runtime.trt.gpu import Gpu, Probe
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.runtime.trt.targets import target_named

pytestmark = pytest.mark.medium

sys.path.append(str(Path(__file__).parents[2] / "runtime"))
fake: Any = importlib.import_module("fake_trt")

Make = Callable[..., Path]
Build = Callable[..., Built]

L4 = target_named("l4")
USES = 3
TEXTS = CalibrationConfig(name="sst2", path=SAMPLES["sample-sst2"].data, samples=32)
QUICK = ["fp32", "fp16", "int8-fp16"]
# Those with a kernel for a whole attention.
WHOLE = {"fp16", "bf16", "int8-fp16"}


def _profile(batch: int = 4, length: int = 16, rank: int = 2) -> Profile:
    inner = (2,) * (rank - 2)
    most = (batch, *inner, length)
    return Profile(minimum=(1,) * rank, optimum=most, maximum=most)


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    """TensorRT for RTX, which builds without a GPU."""
    pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'albert-deploy[rtx]'"
    )
    return load_flavour("tensorrt_rtx")


@pytest.fixture(scope="module")
def deployed(make_export: Make) -> Path:
    """A tiny classifier with heads of 16, the least that are fused, in the quick variants."""
    out = make_export(**FUSED)
    quantize(out, QuantizeConfig(variants=("fp16", "int8", "int8-fp16"), calibration=TEXTS))
    return out


@pytest.fixture(scope="module")
def built(deployed: Path, rtx: Flavour) -> Build:
    """A function that builds a variant's plan for a target once."""
    made: dict[tuple[str, str], Built] = {}

    def build(variant: str, target: str = "l4") -> Built:
        if (variant, target) not in made:
            path = deployed / VARIANTS[variant].file
            if not path.is_file():
                quantize(deployed, QuantizeConfig(variants=(variant,), calibration=TEXTS))
            config = EngineConfig(profiles=(_profile(),))
            made[variant, target] = build_plan(path, target_named(target), config, flavour=rtx)
        return made[variant, target]

    return build


@pytest.mark.parametrize("variant", [*QUICK, "bf16", "int8-qdq", "fp8-qdq"])
def test_a_variant_is_proven(variant: str, deployed: Path, built: Build) -> None:
    found = built(variant)
    path = deployed / VARIANTS[variant].file
    proofs = {p.name: p for p in prove(path, variant, USES, found)}
    assert {p.status for p in proofs.values()} == {"passed"}, proofs
    kernels = USES if variant in WHOLE else 0
    assert proofs["fused attention"].found == (
        f"{3 * USES} nodes recognised, {kernels} uses in one kernel"
    )
    # Six of each use, the mapping in, the pooler and the classifier.
    assert len(found.network.linears) == 6 * USES + 3
    assert found.capability == (8, 9)
    assert found.flavour == "tensorrt_rtx"
    assert found.build_ms > 0
    assert found.peak_bytes is not None
    assert found.peak_bytes > 2**20
    assert found.inspector is found.timing_cache is None
    assert found.log.scratch_bytes is not None
    assert found.log.errors == ()


def test_float32_passed_off_as_float16_fails(deployed: Path, built: Build) -> None:
    proofs = {p.name: p for p in prove(deployed / "onnx/model.onnx", "fp16", USES, built("fp32"))}
    assert proofs["linear types"].status == "failed"
    assert f"{6 * USES + 3} in fp32" in proofs["linear types"].found


def test_float16_that_computes_in_float32_fails(
    deployed: Path, rtx: Flavour, tmp_path: Path
) -> None:
    """Weights of half the size, every product wide: what a file's size does not show."""
    import onnx

    model = onnx.load(deployed / VARIANTS["fp16"].file)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT16:
                attribute.i = onnx.TensorProto.FLOAT
    casts = []
    halves = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name in halves and node.op_type != "Cast":
                cast = onnx.helper.make_node(
                    "Cast", [name], [f"{name}/{node.name}"], to=onnx.TensorProto.FLOAT
                )
                node.input[i] = cast.output[0]
                casts.append(cast)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tmp_path / "model_fp16.onnx"
    onnx.save(model, path)
    found = build_plan(path, L4, EngineConfig(profiles=(_profile(),)), flavour=rtx)
    proofs = {p.name: p for p in prove(path, "fp16", USES, found)}
    assert proofs["linear types"].status == "failed"


def test_two_builds_are_byte_identical(deployed: Path, rtx: Flavour, built: Build) -> None:
    config = EngineConfig(profiles=(_profile(),))
    again = build_plan(deployed / VARIANTS["fp16"].file, L4, config, flavour=rtx)
    assert again.plan == built("fp16").plan


def test_a_build_that_failed_changes_nothing_of_the_next(
    deployed: Path, rtx: Flavour, built: Build
) -> None:
    config = EngineConfig(profiles=(_profile(),))
    with pytest.raises(ContractError, match="FP32 GEMM is not supported"):
        build_plan(deployed / "onnx/model.onnx", target_named("t4"), config, flavour=rtx)
    again = build_plan(deployed / VARIANTS["fp16"].file, L4, config, flavour=rtx)
    assert again.plan == built("fp16").plan


def test_float32_is_not_rounded_to_tf32_unless_asked(
    deployed: Path, rtx: Flavour, built: Build
) -> None:
    config = EngineConfig(profiles=(_profile(),), tf32=True)
    rounded = build_plan(deployed / "onnx/model.onnx", L4, config, flavour=rtx)
    assert rounded.plan != built("fp32").plan


def test_several_profiles_share_the_weights(deployed: Path, rtx: Flavour, built: Build) -> None:
    config = EngineConfig(profiles=(_profile(4, 16), _profile(1, 64)))
    path = deployed / VARIANTS["fp16"].file
    both = build_plan(path, L4, config, flavour=rtx)
    one = built("fp16").log.weights_bytes
    assert both.log.weights_bytes is not None
    assert one is not None
    # At base geometry they are equal.
    assert one <= both.log.weights_bytes <= 1.1 * one
    assert len(both.log.layers) > len(built("fp16").log.layers)
    assert {p.status for p in prove(path, "fp16", USES, both)} == {"passed"}


@pytest.mark.parametrize("target", ["sm86", "sm120"])
@pytest.mark.parametrize("variant", QUICK)
def test_other_targets_are_proven(variant: str, target: str, deployed: Path, built: Build) -> None:
    found = built(variant, target)
    assert {p.status for p in prove(deployed / "x", variant, USES, found)} == {"passed"}
    assert found.plan != built(variant).plan


def test_a_file_with_operators_for_processors_is_refused(deployed: Path, rtx: Flavour) -> None:
    config = EngineConfig(profiles=(_profile(),))
    with pytest.raises(ContractError, match="DynamicQuantizeLinear") as error:
        build_plan(deployed / VARIANTS["int8"].file, L4, config, flavour=rtx)
    assert "embedding_hidden_mapping_in" in str(error.value)


def test_what_cannot_be_built_here_is_told(deployed: Path, rtx: Flavour) -> None:
    path = deployed / "onnx/model.onnx"
    config = EngineConfig(profiles=(_profile(),))
    with pytest.raises(MachineError, match=r"does not build for NVIDIA H100.*`kit=True`"):
        build_plan(path, target_named("h100"), config, flavour=rtx)
    with pytest.raises(InputError, match=r"there is no ONNX file .*none\.onnx"):
        build_plan(deployed / "none.onnx", L4, config, flavour=rtx)
    with pytest.raises(InputError, match=r"profile of rank 3, but input_ids of model\.onnx"):
        build_plan(path, L4, EngineConfig(profiles=(_profile(rank=3),)), flavour=rtx)
    with pytest.raises(InputError, match="has no setting level"):
        build_plan(path, L4, EngineConfig(profiles=(_profile(),), level=5), flavour=rtx)
    # Turing's own refusals come from TensorRT.
    with pytest.raises(ContractError, match="FP32 GEMM is not supported"):
        build_plan(path, target_named("t4"), config, flavour=rtx)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"profiles": ()}, "wanted one rank, at least one"),
        ({"profiles": (_profile(), _profile(rank=3))}, r"ranks \[2, 3\]"),
        ({"level": 6}, "wanted 0 to 5"),
        ({"workspace_bytes": 0}, "wanted more than 0"),
        ({"require_cache_hit": True}, "no timing cache is given"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EngineConfig(**({"profiles": (_profile(),)} | values))


@pytest.fixture
def on_l4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an L4, as far as is asked."""
    gpu = Gpu(index=0, name="NVIDIA L4", capability=(8, 9), total_bytes=2**34)
    for module in (flavours, engine):
        monkeypatch.setattr(module, "probe", lambda: Probe(devices=(gpu,)))


def _faked(version: str = "11.4.0.106", **settings: Any) -> Flavour:
    module = fake.fake_trt("tensorrt", version, **settings)
    return Flavour(name="tensorrt", version=version, module=module, ahead_of_time=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that the fake parser takes."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"onnx")
    return path


@pytest.mark.usefixtures("on_l4")
@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_settings_reach_tensorrt(version: str, file: Path) -> None:
    flavour = _faked(version, lines=["Total Weights Memory: 12 bytes"], inspector='{"Layers": []}')
    plain = build_plan(file, L4, EngineConfig(profiles=(_profile(),)), flavour=flavour)
    assert (plain.plan, plain.log.weights_bytes) == (b"a plan", 12)
    assert plain.inspector == {"Layers": []}
    seen = flavour.module.seen
    # No precision, and no TF32 either, which TensorRT turns on by itself.
    assert seen.config.flags == set()
    assert seen.config.builder_optimization_level == 3
    assert seen.config.profiling_verbosity == flavour.module.ProfilingVerbosity.DETAILED
    config = EngineConfig(
        profiles=(_profile(), _profile(1, 64)),
        workspace_bytes=2**30,
        level=5,
        version_compatible=True,
        hardware_compatible=True,
        strip=True,
        weight_streaming=True,
        tf32=True,
        detailed=False,
    )
    assert build_plan(file, L4, config, flavour=flavour).inspector is None
    assert seen.config.flags == {
        "VERSION_COMPATIBLE",
        "STRIP_PLAN",
        "REFIT_IDENTICAL",
        "WEIGHT_STREAMING",
        "TF32",
    }
    assert seen.config.pools == {"WORKSPACE": 2**30}
    assert seen.config.builder_optimization_level == 5
    level = flavour.module.HardwareCompatibilityLevel.AMPERE_PLUS
    assert seen.config.hardware_compatibility_level == level
    assert seen.config.profiling_verbosity is None
    assert [p.shapes["input_ids"] for p in seen.config.profiles] == [
        ((1, 1), (4, 16), (4, 16)),
        ((1, 1), (1, 64), (1, 64)),
    ]


@pytest.mark.usefixtures("on_l4")
def test_timings_are_kept_and_required(file: Path, tmp_path: Path) -> None:
    config = EngineConfig(profiles=(_profile(),), timing_cache=tmp_path / "caches")
    required = EngineConfig(
        profiles=(_profile(),), timing_cache=tmp_path / "caches", require_cache_hit=True
    )
    with pytest.raises(ContractError, match="there is no timing cache"):
        build_plan(file, L4, required, flavour=_faked())
    first = build_plan(file, L4, config, flavour=_faked()).timing_cache
    assert first is not None
    assert first["file"] == "sm89-nvidia-l4-tensorrt-11.4.0.106.timing"
    assert first["hit"] is False
    again = build_plan(file, L4, required, flavour=_faked()).timing_cache
    assert again == {**first, "hit": True}
    with pytest.raises(ContractError, match="this is a miss"):
        build_plan(file, L4, required, flavour=_faked(needs=[b"gemm", b"softmax"]))


def test_ahead_of_time_nothing_is_timed(file: Path, tmp_path: Path) -> None:
    module = fake.fake_trt("tensorrt_rtx", "1.7.1.116")
    flavour = Flavour(name="tensorrt_rtx", version="1.7.1.116", module=module, ahead_of_time=True)
    config = EngineConfig(profiles=(_profile(),), timing_cache=tmp_path / "caches")
    assert build_plan(file, L4, config, flavour=flavour).timing_cache is None
    assert module.seen.config.cache is None
    assert not (tmp_path / "caches").exists()
    required = replace(config, require_cache_hit=True)
    with pytest.raises(InputError, match="has no setting require_cache_hit"):
        build_plan(file, L4, required, flavour=flavour)


@pytest.mark.usefixtures("on_l4")
@pytest.mark.parametrize(
    ("said", "error", "remedy"),
    [
        ("no tactics to implement the operation within workspace limit", InputError, "workspace"),
        ("Error Code 2: OutOfMemory (Requested size was 4)", MachineError, "free memory"),
        ("Cuda Runtime (cudaError 35: CUDA driver version)", MachineError, "needs a GPU"),
        ("Could not find any implementation for node", ContractError, "implementation"),
    ],
)
def test_a_failed_build_is_told_by_its_cause(
    said: str, error: type[Exception], remedy: str, file: Path
) -> None:
    with pytest.raises(error, match=remedy) as raised:
        build_plan(file, L4, EngineConfig(profiles=(_profile(),)), flavour=_faked(fails=said))
    assert type(raised.value) is error
    assert said in str(raised.value)


@pytest.mark.usefixtures("on_l4")
def test_a_refused_file_is_told_with_its_node(file: Path) -> None:
    flavour = _faked(refuses="not supported")
    with pytest.raises(ContractError, match=r"encoder/MatMul \(MatMulInteger\): not supported"):
        build_plan(file, L4, EngineConfig(profiles=(_profile(),)), flavour=flavour)


def test_a_plan_for_a_gpu_that_is_not_here_is_never_loaded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flavour = _faked(inspector="not JSON: fails where it is read")
    gpu = Gpu(index=0, name="NVIDIA H100", capability=(9, 0), total_bytes=1)
    for devices in ((), (gpu,)):
        monkeypatch.setattr(engine, "probe", lambda found=devices: Probe(devices=found))
        assert engine.inspect_plan(b"plan", L4, flavour) is None
    monkeypatch.setattr(flavours, "probe", lambda: Probe(why="there is no GPU here"))
    with pytest.raises(MachineError, match=r"there is no GPU here.*`kit=True`"):
        build_plan(file, L4, EngineConfig(profiles=(_profile(),)), flavour=flavour)
    gpu = Gpu(index=0, name="NVIDIA L4", capability=(8, 9), total_bytes=1)
    monkeypatch.setattr(engine, "probe", lambda: Probe(devices=(gpu,)))
    with pytest.raises(json.JSONDecodeError):
        engine.inspect_plan(b"plan", L4, flavour)


@pytest.mark.usefixtures("on_l4")
def test_a_log_holds_the_lines_of_its_own_build(file: Path) -> None:
    config = EngineConfig(profiles=(_profile(),))
    one = build_plan(file, L4, config, flavour=_faked(lines=["Total Weights Memory: 1 bytes"]))
    two = build_plan(file, L4, config, flavour=_faked(lines=["Max Scratch Memory: 2 bytes"]))
    assert (one.log.weights_bytes, two.log.weights_bytes) == (1, None)


def test_every_setting_is_known_to_some_flavour() -> None:
    known = {setting for row in FLAVOURS.values() for setting in (*row.settings, *row.lacks)}
    config = EngineConfig(profiles=(_profile(),))
    assert known == {name for name in vars(config) if name != "profiles"}


@pytest.mark.parametrize("family", ["albert", "bert"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_builds(task: str, family: str, make_export: Make, rtx: Flavour) -> None:
    out = make_export(task, family, **FUSED)
    quantize(out, QuantizeConfig(variants=("fp16",)))
    config = EngineConfig(profiles=(_profile(rank=len(TASKS[task].input_axes)),))
    for variant in ("fp32", "fp16") if family == "albert" else ("fp16",):
        path = out / VARIANTS[variant].file
        found = build_plan(path, L4, config, flavour=rtx)
        proofs = {p.name: p for p in prove(path, variant, USES, found)}
        assert {p.status for p in proofs.values()} == {"passed"}, proofs


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_geometry_builds(name: str, make_export: Make, rtx: Flavour) -> None:
    sizes = FUSED | GEOMETRIES[name]
    out = make_export(**sizes)
    quantize(out, QuantizeConfig(variants=("fp16",)))
    uses = sizes.get("num_hidden_layers", 3) * sizes.get("inner_group_num", 1)
    config = EngineConfig(profiles=(_profile(),))
    for variant in ("fp32", "fp16"):
        path = out / VARIANTS[variant].file
        found = build_plan(path, L4, config, flavour=rtx)
        proofs = {p.name: p for p in prove(path, variant, uses, found)}
        assert {p.status for p in proofs.values()} == {"passed"}, proofs


def _targets(number: int) -> tuple[str, ...]:
    """Targets of the three quick variants: of three models, each variant meets each target."""
    targets = ("sm86", "sm89", "sm120")
    return targets[number:] + targets[:number]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_are_proven_for_three_targets(name: str, rtx: Flavour, tmp_path: Path) -> None:
    """Every target for every variant is proven of the tiny model; here each is met once."""
    sample = SAMPLES[name]
    manifest = export(name, ExportConfig(), out=tmp_path)
    texts = CalibrationConfig(name=sample.dataset, path=sample.data, samples=32)
    variants = ("fp32", "fp16", "int8-fp16")
    static = {"rounding": "nearest"}  # It takes seconds; which bytes they are does not matter.
    quantize(tmp_path, QuantizeConfig(variants=variants, calibration=texts, static=static))
    layers = manifest["source"]["config"]["num_hidden_layers"]
    config = EngineConfig(profiles=(_profile(8, 64),))
    for variant, target in zip(variants, _targets(list(SAMPLES).index(name)), strict=True):
        path = tmp_path / VARIANTS[variant].file
        found = build_plan(path, target_named(target), config, flavour=rtx)
        proofs = prove(path, variant, layers, found, parameter_bytes=manifest["parameter_bytes"])
        assert {p.status for p in proofs} == {"passed"}, proofs
        assert len(found.log.attention) == 3 * layers


@pytest.mark.slow
def test_base_geometry_is_proven_for_three_targets(
    base_checkpoint: Path, rtx: Flavour, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = export(str(base_checkpoint), ExportConfig(), out=out)
    variants, static = ("fp16", "int8-fp16"), {"rounding": "nearest"}
    quantize(out, QuantizeConfig(variants=variants, calibration=TEXTS, static=static))
    config = EngineConfig(profiles=(_profile(8, 128),))
    limits = {"fp32": 48_700_000, "fp16": 24_700_000, "int8-fp16": 15_000_000}
    for (variant, limit), target in zip(limits.items(), _targets(len(SAMPLES)), strict=True):
        path = out / VARIANTS[variant].file
        found = build_plan(path, target_named(target), config, flavour=rtx)
        proofs = prove(path, variant, 12, found, parameter_bytes=manifest["parameter_bytes"])
        assert {p.status for p in proofs} == {"passed"}, proofs
        assert len(found.log.attention) == 36
        assert found.log.weights_bytes is not None
        assert found.log.weights_bytes < limit
