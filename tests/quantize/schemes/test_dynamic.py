"""Dynamic INT8: its arithmetic, attention's products for every mask, and what it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from feeds import masked, run_one

from albert_deploy.export.graph.file import load
from albert_deploy.quantize.schemes.dynamic import (
    Int8Config,
    int8_exceptions,
    quantize_weight,
    to_int8,
)
from albert_deploy.quantize.schemes.dynamic_attention import find_attentions, quantize_attention
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError

Export = Callable[..., Path]
LAYERS = 3
# Random weights are the hard case; the worst measured is 0.013.
MAX_ERROR = 0.02


@pytest.fixture(scope="module")
def exported(make_export: Callable[..., Path]) -> Export:
    """A function that exports a tiny checkpoint and returns the path of its fp32 file."""

    @cache
    def make(task: str = "text-classification", family: str = "albert", **config: int) -> Path:
        out = make_export(task, family, **config)
        return out / VARIANTS["fp32"].file

    return make


def _error(
    wanted: dict[str, npt.NDArray[np.float32]], got: dict[str, npt.NDArray[np.float32]]
) -> float:
    """Largest difference over the largest magnitude of its output, whatever the row."""
    assert list(got) == list(wanted)
    assert all(np.isfinite(array).all() for array in got.values())
    return max(float(np.abs(got[n] - a).max() / np.abs(a).max()) for n, a in wanted.items())


def _set(model: ir.Model, name: str, change: Callable[[npt.NDArray[np.float32]], object]) -> None:
    found = [v for n, v in model.graph.initializers.items() if n.endswith(name)]
    assert found
    for value in found:
        assert value.const_value is not None
        array = np.asarray(change(value.const_value.numpy()), np.float32)
        value.const_value = ir.tensor(array, name=value.name)


def _sharpen(model: ir.Model) -> None:
    """Make attention choose between tokens: while it averages them all, masks hardly matter."""
    for name in ("query.weight_transposed", "key.weight_transposed"):
        _set(model, name, lambda weight: weight * 3)


@pytest.mark.parametrize("axis", [0, 1])
def test_quantize_weight_stays_within_half_a_step(axis: int) -> None:
    weight = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    weight[3], weight[:, 5] = 0, 0
    weight[7] *= 1e4
    values, scale = quantize_weight(weight, axis, multiplied=False)
    assert values.dtype == np.int8
    assert scale.shape == (weight.shape[axis],)
    assert (scale > 0).all()
    step = scale[:, None] if axis == 0 else scale[None, :]
    assert (np.abs(values * step - weight) <= step / 2 * (1 + 1e-5)).all()
    assert np.abs(values).max() == 127


def test_quantize_weight_of_denormals_is_finite() -> None:
    values, scale = quantize_weight(np.full((2, 2), 1e-44, np.float32), 0)
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert np.isfinite(values * scale[:, None]).all()


def test_int8_config_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="min_columns"):
        Int8Config(min_columns=0)


def test_int8_quantizes_an_activation_once_for_query_key_and_value(exported: Export) -> None:
    model = load(exported())
    to_int8(model, Int8Config(first_token=False))
    nodes = list(ir.to_proto(model).graph.node)
    sources = Counter(n.input[0] for n in nodes if n.op_type == "DynamicQuantizeLinear")
    assert set(sources.values()) == {1}
    readers = Counter(n.input[0] for n in nodes if n.op_type == "MatMulInteger")
    assert sorted(readers.values())[-3:] == [3, 3, 3]


@pytest.mark.medium
def test_int8_serves_both_uses_of_the_tied_matrix_with_one_set_of_scales(exported: Export) -> None:
    model = load(exported("pretraining", vocab_size=2000))
    to_int8(model, Int8Config())
    graph = ir.to_proto(model).graph
    scales = [t for t in graph.initializer if t.name.endswith("word_embeddings.weight_scale")]
    assert [list(t.dims) for t in scales] == [[2000]]
    readers = sorted(n.op_type for n in graph.node if scales[0].name in n.input)
    assert readers == ["Gather", "Mul"]


@pytest.mark.medium
def test_int8_names_what_it_leaves(exported: Export) -> None:
    model = load(exported("pretraining", vocab_size=2000))
    reasons = int8_exceptions(model, Int8Config())
    assert all(reasons.values())
    assert "albert.embeddings.word_embeddings.weight" not in reasons
    assert not [name for name in reasons if ".encoder." in name]


def test_converting_again_changes_nothing(exported: Export) -> None:
    model = load(exported())
    assert to_int8(model, Int8Config()) > 0
    kept = len(int8_exceptions(model, Int8Config()))
    assert kept > 0
    assert to_int8(model, Int8Config()) == 0


@pytest.mark.medium
@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("text-classification", "albert"),
        ("text-classification", "bert"),
        ("feature-extraction", "albert"),
        ("multiple-choice", "albert"),
        ("question-answering", "bert"),
    ],
)
def test_attention_products_honour_every_mask(
    task: str, family: str, exported: Export, tmp_path: Path
) -> None:
    path = exported(task, family)
    feeds = masked(choices=2 if task == "multiple-choice" else 0)
    model = load(path)
    _sharpen(model)
    wanted = run_one(model, feeds, tmp_path)
    for output in wanted.values():
        # Otherwise the comparison could not see that a mask is ignored.
        others = np.abs(output[:1] - output[1:]).reshape(5, -1).max(axis=1)
        assert others.min() > 2 * MAX_ERROR * np.abs(output).max()
    assert quantize_attention(model) == 2 * LAYERS
    assert not [n for n in model.graph if n.op_type == "Softmax"]
    together = run_one(model, feeds, tmp_path)
    assert _error(wanted, together) < MAX_ERROR
    for row in range(6):
        one = {name: array[row : row + 1] for name, array in feeds.items()}
        alone = run_one(model, one, tmp_path)
        for name, output in wanted.items():
            error = np.abs(alone[name][0] - output[row]).max()
            assert error < MAX_ERROR * np.abs(output).max()


@pytest.mark.medium
@pytest.mark.parametrize("task", ["pretraining", "fill-mask", "token-classification"])
def test_attention_products_in_the_other_tasks(task: str, exported: Export, tmp_path: Path) -> None:
    model = load(exported(task))
    wanted = run_one(model, masked(), tmp_path)
    assert quantize_attention(model) == 2 * LAYERS
    assert _error(wanted, run_one(model, masked(), tmp_path)) < MAX_ERROR


@pytest.mark.medium
def test_probabilities_keep_their_digits_where_a_row_looks_at_many_tokens_alike(
    exported: Export, tmp_path: Path
) -> None:
    """One scale for all rows would round 1/400 to a step of 1/255: 0.4 of it to 0, or to 1."""
    model = load(exported("feature-extraction", max_position_embeddings=512))
    # One head looks at single tokens, the others at all alike.
    _set(model, "query.weight_transposed", lambda w: w * np.where(np.arange(32) < 8, 30, 1e-3))
    feeds = masked(400)
    wanted = run_one(model, feeds, tmp_path)
    quantize_attention(model)
    assert _error(wanted, run_one(model, feeds, tmp_path)) < MAX_ERROR


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_an_attention_of_zeros_stays_finite(part: str, exported: Export, tmp_path: Path) -> None:
    model = load(exported())
    _set(model, f"attention.{part}.weight_transposed", np.zeros_like)
    _set(model, f"attention.{part}.bias", np.zeros_like)
    wanted = run_one(model, masked(), tmp_path)
    quantize_attention(model)
    assert _error(wanted, run_one(model, masked(), tmp_path)) < MAX_ERROR


def test_keys_and_values_are_signed_and_weights_too(exported: Export) -> None:
    model = load(exported())
    to_int8(model, Int8Config())
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in proto.graph.value_info}
    kinds |= {t.name: t.data_type for t in proto.graph.initializer}
    products = [n for n in proto.graph.node if n.op_type == "MatMulInteger"]
    assert len(products) == LAYERS * 8 + 1
    for node in products:
        assert kinds[node.input[0]] == onnx.TensorProto.UINT8
        assert kinds[node.input[1]] == onnx.TensorProto.INT8


def test_the_keys_bias_is_left_out_because_softmax_does_not_see_it(
    exported: Export, tmp_path: Path
) -> None:
    model = load(exported())
    wanted = run_one(model, masked(), tmp_path)
    _set(model, "attention.key.bias", lambda bias: bias * 300)
    quantize_attention(model)
    assert not [n for n in model.graph.initializers if n.endswith("attention.key.bias")]
    assert _error(wanted, run_one(model, masked(), tmp_path)) < MAX_ERROR


def test_attention_may_stay_float32(exported: Export) -> None:
    model = load(exported())
    to_int8(model, Int8Config(attention=False))
    assert len(find_attentions(model)) == LAYERS
    assert [n for n in model.graph.initializers if n.endswith("attention.key.bias")]


@pytest.mark.parametrize("lost", ["Mul", "Add"])
def test_an_attention_in_another_form_fails(lost: str, exported: Export) -> None:
    model = load(exported())
    node = next(n for n in model.graph if n.name.endswith(f"attention/{lost}"))
    source = next(v for v in node.inputs if v is not None and v.producer() is not None)
    node.outputs[0].replace_all_uses_with(source)
    with pytest.raises(ContractError, match=r"iteration_00/.*attention is not softmax"):
        quantize_attention(model)
