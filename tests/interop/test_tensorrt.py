"""TensorRT-RTX builds the ONNX files as they come, on a machine without a GPU."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

# Not taken from the contract: these are the files that a user points TensorRT to.
FILES = {
    "fp32": "onnx/model.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "bf16": "onnx/model_bf16.onnx",
    "int8-qdq": "onnx/model_int8_qdq.onnx",
    "int8-fp16": "onnx/model_int8_fp16.onnx",
    "fp8-qdq": "onnx/model_fp8_qdq.onnx",
}
# Those whose attention TensorRT has fused kernels for; in float32 it has none.
FLASH = ["fp16", "bf16", "int8-fp16"]
# A trained one has other values, of which no two weights may be taken for one.
DEEP = ("albert-deep-sst2", "int8-fp16")
USES = 12
# Beside 5%: with both, less than a second copy of a feed-forward weight of the small one. Most
# of what is measured is the position table, which TensorRT folds to float32.
SPARE_BYTES = 48_000

_WEIGHTS = re.compile(r"^Total Weights Memory: (\d+) bytes", re.MULTILINE)
_SCRATCH = re.compile(r"^Max Scratch Memory: (\d+) bytes", re.MULTILINE)
_ATTENTION = re.compile(r"^Found (\S+) to be part of self-attention pattern", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the build log says about a plan.

    Attributes:
        plan_bytes: Size of the serialized engine, kernels included.
        weights_bytes: Memory that its weights take.
        scratch_bytes: Working memory at the shapes that it was built for.
        attention: Names of the nodes recognised as self-attention. That is a pattern, logged
            where no fused kernel exists too; one that exists shows in ``scratch_bytes``.
    """

    plan_bytes: int
    weights_bytes: int
    scratch_bytes: int
    attention: tuple[str, ...]


def build_plan(path: Path, *, batch: int = 8, length: int = 128, target: str = "SM89") -> Plan:
    """Parse and build an ONNX file; TensorRT's errors become the test's failure message.

    Args:
        path: The file.
        batch: Largest batch, for which the plan is tuned; the smallest is 1.
        length: Likewise the sequence length.
        target: Name of a ``ComputeCapability``.
    """
    trt: Any = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'albert-deploy[rtx]'"
    )
    lines: list[str] = []
    errors: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps every line: TensorRT's own logger only prints."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            bad = severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}
            (errors if bad else lines).append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        listed = "; ".join(f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in found)
        pytest.fail(f"TensorRT-RTX cannot parse {path.name}: {listed}; {'; '.join(errors)}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        profile.set_shape(network.get_input(i).name, (1, 1), (batch, length), (batch, length))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        pytest.fail(f"TensorRT-RTX cannot build {path.name}: {'; '.join(errors)}")
    text = "\n".join(lines)
    return Plan(
        plan_bytes=plan.nbytes,
        weights_bytes=_number(_WEIGHTS, text),
        scratch_bytes=_number(_SCRATCH, text),
        attention=tuple(_ATTENTION.findall(text)),
    )


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    if found is None:
        pytest.fail(f"the build log has no line {pattern.pattern}; has TensorRT-RTX changed it?")
    return int(found[1])


@pytest.fixture(scope="module")
def deployed(
    make_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Callable[[str], Path]:
    """A function that returns the deployment directory of a checkpoint."""
    from albert_deploy.export.step import ExportConfig, export
    from albert_deploy.quantize.calibration_data import CalibrationConfig
    from albert_deploy.quantize.step import QuantizeConfig, quantize
    from albert_deploy.validation.sample import SAMPLES

    made: dict[str, Path] = {}

    def deploy(name: str) -> Path:
        if name not in made:
            if name == "small":
                source = make_checkpoint(
                    vocab_size=2000,
                    hidden_size=128,
                    intermediate_size=512,
                    num_hidden_layers=USES,
                    max_position_embeddings=512,
                )
            else:
                source = request.getfixturevalue("shared") / "checkpoints" / name
            made[name] = tmp_path_factory.mktemp("tensorrt") / name
            export(str(source), ExportConfig(), out=made[name])
            texts = CalibrationConfig(name="sst2", path=SAMPLES["sample-sst2"].data, samples=32)
            quantize(made[name], QuantizeConfig(variants=tuple(FILES), calibration=texts))
        return made[name]

    return deploy


def _widened(graph: Any, variant: str) -> int:
    """Return the bytes that a plan of a Q/DQ graph needs beyond the stored ones, and why.

    Outside of the iterations weights alone are quantized: TensorRT makes such a matrix real once
    and for all. A kernel has the product of both scales and the bias in it, for each use.
    """
    if "qdq" not in variant and variant != "int8-fp16":
        return 0
    real = 2 if variant == "int8-fp16" else 4
    matrices = {
        t.name: len(t.raw_data) for t in graph.initializer if t.name.endswith(("_int8", "_fp8"))
    }
    outside = ("embedding_hidden_mapping_in", "pooler")
    more = sum((real - 1) * n for name, n in matrices.items() if any(o in name for o in outside))
    inside = [t for t in graph.initializer if re.search(r"layers\.\d.*_scale$", t.name)]
    return more + 2 * USES * sum(len(t.raw_data) for t in inside)


@pytest.mark.parametrize(
    ("checkpoint", "variant"),
    [*(("small", variant) for variant in FILES), pytest.param(*DEEP, marks=pytest.mark.slow)],
)
def test_a_plan_holds_one_copy_of_the_weights_and_sees_the_attention(
    checkpoint: str, variant: str, deployed: Callable[[str], Path]
) -> None:
    path = deployed(checkpoint) / FILES[variant]
    plan = build_plan(path)
    graph = onnx.load(path).graph
    stored = sum(len(t.raw_data) for t in graph.initializer)
    most = 1.05 * (stored + _widened(graph, variant)) + SPARE_BYTES
    assert 0.95 * stored - SPARE_BYTES <= plan.weights_bytes <= most
    assert plan.plan_bytes > plan.weights_bytes
    iterations = Counter(re.findall(r"iteration_\d+", " ".join(plan.attention)))
    # Two products and the softmax of each use of the layer.
    assert len(iterations) == USES
    assert set(iterations.values()) == {3}, plan.attention


@pytest.mark.parametrize("variant", FLASH)
def test_attention_runs_fused(variant: str, deployed: Callable[[str], Path]) -> None:
    """Scores that are written out take memory that is quadratic in the length."""
    path = deployed("small") / FILES[variant]
    short, long = (build_plan(path, length=n).scratch_bytes for n in (128, 512))
    assert long <= 4.2 * short
    unfused = build_plan(path.with_name("model.onnx"), length=512).scratch_bytes
    assert long <= unfused / 3
