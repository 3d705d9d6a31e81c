"""The quantizers' arithmetic, their coverage, and that a shortfall fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from albert_deploy.export.onnx_file import load
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.coverage import check_coverage, coverage
from albert_deploy.quantize.float16 import Float16Config, to_float16
from albert_deploy.quantize.int8 import Int8Config, int8_exceptions, quantize_weight, to_int8
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import DEFAULT_VARIANTS, VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import sha256_of


@pytest.fixture(scope="module")
def exported(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("variants") / "out"
    export(str(make_checkpoint("pretraining", vocab_size=2000)), ExportConfig(), out=out)
    quantize(out, QuantizeConfig())
    return out


@pytest.mark.parametrize("axis", [0, 1])
def test_quantize_weight_stays_within_half_a_step(axis: int) -> None:
    weight = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    weight[3], weight[:, 5] = 0, 0
    weight[7] *= 1e4
    values, scale = quantize_weight(weight, axis)
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


def test_int8_quantizes_an_activation_once_for_query_key_and_value(exported: Path) -> None:
    nodes = list(onnx.load(exported / VARIANTS["int8"].file).graph.node)
    sources = Counter(n.input[0] for n in nodes if n.op_type == "DynamicQuantizeLinear")
    assert set(sources.values()) == {1}
    readers = Counter(n.input[0] for n in nodes if n.op_type == "MatMulInteger")
    assert sorted(readers.values())[-3:] == [3, 3, 3]


def test_int8_serves_both_uses_of_the_tied_matrix_with_one_set_of_scales(exported: Path) -> None:
    graph = onnx.load(exported / VARIANTS["int8"].file).graph
    scales = [t for t in graph.initializer if t.name.endswith("word_embeddings.weight_scale")]
    assert [list(t.dims) for t in scales] == [[2000]]
    readers = sorted(n.op_type for n in graph.node if scales[0].name in n.input)
    assert readers == ["Gather", "Mul"]


def test_int8_names_what_it_leaves(exported: Path) -> None:
    model = load(exported / VARIANTS["fp32"].file)
    reasons = int8_exceptions(model, Int8Config())
    assert all(reasons.values())
    assert "albert.embeddings.word_embeddings.weight" not in reasons
    assert not [name for name in reasons if ".encoder." in name]


def test_fp16_mixes_no_types_and_keeps_its_islands(exported: Path) -> None:
    path = exported / VARIANTS["fp16"].file
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    kinds |= {t.name: t.data_type for t in inferred.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for node in inferred.node:
        types = {kinds[n] for n in node.input if kinds.get(n) in (half, single)}
        assert len(types) <= 1, node.name
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert types == {single}
        if node.op_type == "MatMul":
            assert types == {half}
    assert {kinds[o.name] for o in inferred.output} == {single}
    lowest = [
        t
        for t in inferred.initializer
        if t.data_type == half and not np.isfinite(onnx.numpy_helper.to_array(t)).all()
    ]
    assert not lowest


def test_fp16_refuses_weights_beyond_its_range(exported: Path) -> None:
    model = load(exported / VARIANTS["fp32"].file)
    weight = model.graph.initializers["albert.pooler.weight_transposed"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1e6 + 1e5, name=weight.name)
    with pytest.raises(ContractError, match="float16 ends at"):
        to_float16(model, Float16Config())


@pytest.mark.parametrize(("variant", "dtype"), [("int8", "int8"), ("fp16", "float16")])
def test_coverage_counts_every_use(exported: Path, variant: str, dtype: str) -> None:
    rows = quantize(exported, QuantizeConfig())["variants"][variant]["coverage"]
    encoder = [row for row in rows if "albert_layers" in row["weight"]]
    assert len(encoder) == 6
    assert all(row["uses"] == row["converted"] == 3 for row in encoder)
    assert all(row["dtype"] == dtype for row in encoder)


def test_a_use_that_was_skipped_fails(exported: Path) -> None:
    source, written = (load(exported / VARIANTS[v].file) for v in ("fp32", "int8"))
    name = "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight_transposed"
    # What a quantizer does that misses one iteration: float32 weight, plain MatMul.
    tensor = source.graph.initializers[name].const_value
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(ir.DataType.FLOAT))
    written.graph.register_initializer(value)
    node = next(
        n
        for n in written.graph
        if n.op_type == "MatMulInteger" and "iteration_02" in str(n.name) and "/ffn/" in str(n.name)
    )
    node.replace_input_with(1, value)
    exceptions = int8_exceptions(source, Int8Config())
    rows = coverage(source, written, dtype=ir.DataType.INT8, exceptions=exceptions)
    with pytest.raises(ContractError, match=r"ffn\.weight_transposed: 2 of 3"):
        check_coverage(rows, "model_int8.onnx")


def test_an_unnamed_exception_fails(exported: Path) -> None:
    source, written = (load(exported / VARIANTS[v].file) for v in ("fp32", "int8"))
    rows = coverage(source, written, dtype=ir.DataType.INT8, exceptions={})
    with pytest.raises(ContractError, match="position_embeddings"):
        check_coverage(rows, "model_int8.onnx")


def test_variants_up_to_date_are_left_alone(exported: Path) -> None:
    lines: list[str] = []
    before = {v: (exported / VARIANTS[v].file).stat().st_mtime_ns for v in DEFAULT_VARIANTS}
    quantize(exported, QuantizeConfig(), note=lines.append)
    assert lines == ["fp16: up to date", "int8: up to date"]
    assert before == {v: (exported / VARIANTS[v].file).stat().st_mtime_ns for v in DEFAULT_VARIANTS}


def test_a_damaged_variant_is_made_again(exported: Path) -> None:
    path = exported / VARIANTS["int8"].file
    good = sha256_of(path)
    path.write_bytes(b"damaged")
    quantize(exported, QuantizeConfig(variants=("int8",)))
    assert sha256_of(path) == good
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "model.onnx",
        "model_fp16.onnx",
        "model_int8.onnx",
    ]


def test_converting_again_changes_nothing(exported: Path) -> None:
    model = load(exported / VARIANTS["int8"].file)
    kept = len(int8_exceptions(model, Int8Config()))
    assert kept > 0
    assert to_int8(model, Int8Config()) == 0


def test_an_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="fp32, fp16, int8"):
        QuantizeConfig(variants=("int4",))
