"""Bounded pairs: what kernels with 16-bit sums compute of them is exact, and costs little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from models import SHALLOW
from onnx import TensorProto, helper

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.schemes.dynamic import quantize_weight
from albert_deploy.quantize.schemes.rounding import (
    LARGEST_PAIR,
    bound_pairs,
    round_compensated,
    scales_for_pairs,
)
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS

_INT16 = np.iinfo(np.int16)


def _pair_sums(values: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    even = len(values) // 2 * 2
    return np.abs(values[0:even:2].astype(np.int64) + values[1:even:2])


def _sums_in_16_bits(
    activations: npt.NDArray[np.uint8], weight: npt.NDArray[np.int8]
) -> npt.NDArray[np.int64]:
    """What ``vpmaddubsw`` and its like make of a product: pairs saturate, their sum does not."""
    products = activations[:, :, None].astype(np.int64) * weight[None].astype(np.int64)
    even = len(weight) // 2 * 2
    pairs = products[:, 0:even:2] + products[:, 1:even:2]
    return np.asarray(pairs.clip(_INT16.min, _INT16.max).sum(axis=1) + products[:, even:].sum(1))


@given(
    arrays(
        np.int8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-127, 127)
    )
)
def test_no_pair_is_too_large_and_none_changes_sign(values: npt.NDArray[np.int8]) -> None:
    bounded = values.copy()
    bound_pairs(bounded)
    assert _pair_sums(bounded).max(initial=0) <= LARGEST_PAIR
    assert (np.abs(bounded.astype(int)) <= np.abs(values.astype(int))).all()
    assert (bounded.astype(int) * values >= 0).all()
    fine = np.repeat(_pair_sums(values) <= LARGEST_PAIR, 2, axis=0)
    assert (bounded[: len(fine)][fine] == values[: len(fine)][fine]).all()


@given(st.integers(1, 40), st.integers(0, 99))
def test_the_worst_activations_are_multiplied_exactly(inputs: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(inputs, 5)).astype(np.float32)
    values, _ = quantize_weight(weight, axis=1)
    activations = random.choice(np.array([0, 1, 254, 255], np.uint8), (6, inputs))
    exact = activations.astype(np.int64) @ values.astype(np.int64)
    assert (_sums_in_16_bits(activations, values) == exact).all()


def test_unbounded_weights_saturate() -> None:
    weight = np.full((2, 1), 127, np.int8)
    activations = np.full((1, 2), 255, np.uint8)
    assert _sums_in_16_bits(activations, weight)[0, 0] == _INT16.max < 2 * 127 * 255


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("inputs", [191, 312])
def test_onnx_runtime_multiplies_exactly_on_this_processor(rows: int, inputs: int) -> None:
    random = np.random.default_rng(rows)
    values = random.integers(-127, 128, (inputs, 48)).astype(np.int8)
    bound_pairs(values)
    activations = np.where(random.random((rows, inputs)) < 0.5, 255, 3).astype(np.uint8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, activations.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (rows, 48))],
        [onnx.numpy_helper.from_array(values, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"a": activations})
    assert (got == activations.astype(np.int32) @ values.astype(np.int32)).all()


def test_scales_weigh_the_pairs_against_all_others() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(768, 64)).astype(np.float32)
    peaks = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    scales = scales_for_pairs(weight, peaks)
    assert (scales >= peaks).all()
    assert (scales <= 2 * peaks).all()

    def error(scale: npt.NDArray[np.float32]) -> float:
        values = np.rint(weight / scale).clip(-127, 127)
        bound_pairs(values)
        return float(np.square(weight - values * scale).sum())

    # Better than leaving the scales, and than the usual remedy of 7 bits.
    assert error(scales) < error(peaks)
    assert error(scales) < error(2 * peaks)


def test_compensated_rounding_bounds_pairs_too() -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(400, 31))
    weight = random.normal(size=(31, 7)).astype(np.float32)
    weight[4:6] = 3.0
    scale = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    moments = inputs.T @ inputs
    assert _pair_sums(round_compensated(weight, scale, moments)).max() > LARGEST_PAIR
    values = round_compensated(weight, scale, moments, pairs=True)
    assert _pair_sums(values).max() <= LARGEST_PAIR
    clipped = np.rint(weight / scale).clip(-127, 127)
    bound_pairs(clipped)
    ours, theirs = (np.square(inputs @ (weight - v * scale)).sum() for v in (values, clipped))
    assert ours < theirs


@pytest.mark.medium
@pytest.mark.parametrize("variant", ["int8", "int8-qdq"])
def test_every_multiplied_weight_of_the_written_file_is_bounded(
    variant: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    task, family, sizes = SHALLOW["fill-mask"]
    export(str(make_checkpoint(task, family, **sizes)), ExportConfig(), out=tmp_path / "out")
    text = tmp_path / "texts.txt"
    text.write_text("a long warm river\nthe film was long\n" * 20, encoding="utf-8")
    texts = CalibrationConfig(name="text", path=text, samples=32)
    quantize(tmp_path / "out", QuantizeConfig(variants=(variant,), calibration=texts))
    graph = onnx.load(tmp_path / "out" / VARIANTS[variant].file).graph
    weights = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) == 2
    }
    assert len(weights) >= 7
    for name, values in weights.items():
        # The tied table is multiplied transposed.
        turned = values.T if "word_embeddings" in name else values
        assert _pair_sums(turned).max() <= LARGEST_PAIR, name
