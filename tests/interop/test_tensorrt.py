"""TensorRT-RTX builds the ONNX files as they come, on a machine without a GPU."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest

from albert_deploy.export.engine.build import Built, EngineConfig, build_plan
from albert_deploy.export.engine.proofs import widened_bytes
from albert_deploy.runtime.trt.flavours import load_flavour
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.runtime.trt.targets import target_named

pytestmark = pytest.mark.medium

pytest.importorskip("tensorrt_rtx", reason="needs: pip install 'albert-deploy[rtx]'")

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


def build(path: Path, length: int = 128) -> Built:
    """Build a plan for up to 8 rows of a length.

    Args:
        path: The file.
        length: Largest sequence, for which the plan is tuned.
    """
    flavour = load_flavour("tensorrt_rtx")
    most = (8, length)
    config = EngineConfig(profiles=(Profile(minimum=(1, 1), optimum=most, maximum=most),))
    return build_plan(path, target_named("sm89"), config, flavour=flavour)


@pytest.fixture(scope="module")
def deployed(
    make_checkpoint: Callable[..., Path],
    made_once: Callable[..., Path],
    request: pytest.FixtureRequest,
) -> Callable[[str], Path]:
    """A function that returns the deployment directory of a checkpoint."""
    from albert_deploy.export.samples import SAMPLES
    from albert_deploy.export.step import ExportConfig, export
    from albert_deploy.quantize.calibration.texts import CalibrationConfig
    from albert_deploy.quantize.step import QuantizeConfig, quantize

    def deploy(name: str, out: Path) -> None:
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
        export(str(source), ExportConfig(), out=out)
        texts = CalibrationConfig(name="sst2", path=SAMPLES["sample-sst2"].data, samples=32)
        quantize(out, QuantizeConfig(variants=tuple(FILES), calibration=texts))

    return lambda name: made_once(f"tensorrt-{name}", partial(deploy, name))


@pytest.mark.parametrize(
    ("checkpoint", "variant"),
    [*(("small", variant) for variant in FILES), pytest.param(*DEEP, marks=pytest.mark.slow)],
)
def test_a_plan_holds_one_copy_of_the_weights_and_sees_the_attention(
    checkpoint: str, variant: str, deployed: Callable[[str], Path]
) -> None:
    path = deployed(checkpoint) / FILES[variant]
    found = build(path)
    stored = sum(len(t.raw_data) for t in onnx.load(path).graph.initializer)
    weights = found.log.weights_bytes
    assert weights is not None
    most = 1.05 * (stored + widened_bytes(found.network)) + SPARE_BYTES
    assert 0.95 * stored - SPARE_BYTES <= weights <= most
    assert len(found.plan) > weights
    iterations = Counter(re.findall(r"iteration_\d+", " ".join(found.log.attention)))
    # Two products and the softmax of each use of the layer.
    assert len(iterations) == USES
    assert set(iterations.values()) == {3}, found.log.attention


@pytest.mark.parametrize("variant", FLASH)
def test_attention_runs_fused(variant: str, deployed: Callable[[str], Path]) -> None:
    """Scores that are written out take memory that is quadratic in the length."""
    path = deployed("small") / FILES[variant]
    short, long, unfused = (
        build(file, length).log.scratch_bytes or 0
        for file, length in ((path, 128), (path, 512), (path.with_name("model.onnx"), 512))
    )
    assert 0 < long <= 4.2 * short
    assert long <= unfused / 3
