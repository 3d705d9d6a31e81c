"""fp16 and bf16: one type per operator, one copy per weight, and the source's answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from feeds import run_each
from models import PRETRAINING

from albert_deploy.export.graph.edit import named_node, values_of
from albert_deploy.export.graph.file import load
from albert_deploy.quantize.calibration.observe import Row, calibrate
from albert_deploy.quantize.schemes.fp32_regions import HalfConfig
from albert_deploy.quantize.schemes.half import KEPT_KEY, float32_weights, to_half, watched
from albert_deploy.quantize.schemes.table import SCHEMES
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import INPUT_NAMES, VARIANTS
from albert_deploy.runtime.engines.ov import open_ov
from albert_deploy.validation.parity.coverage import check_coverage, coverage

Floats = npt.NDArray[np.float32]
HALF = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
# Value channels that the hard checkpoint amplifies.
CHANNELS = [3, 9, 17, 30]


@pytest.fixture(scope="module")
def exported(make_export: Callable[..., Path]) -> Path:
    out = make_export("pretraining", **PRETRAINING)
    quantize(out, QuantizeConfig(variants=tuple(HALF)))
    return out


def texts(count: int = 40) -> Iterator[Row]:
    random = np.random.default_rng(0)
    for i in range(count):
        ids = random.integers(0, PRETRAINING["vocab_size"], (1, int(random.integers(2, 40))))
        feeds = dict(zip(INPUT_NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
        yield Row(id=str(i), feeds=feeds)


def sqnr_db(wanted: list[dict[str, Floats]], got: list[dict[str, Floats]]) -> float:
    """The worst output's, over all rows."""
    ratios = []
    for name in wanted[0]:
        a, b = (
            np.concatenate([o[name].ravel().astype(np.float64) for o in s]) for s in (wanted, got)
        )
        ratios.append(10 * math.log10(np.square(a).sum() / max(np.square(a - b).sum(), 1e-30)))
    return min(ratios)


def rounded_in_float32(model: ir.Model) -> ir.Model:
    """Turn a bf16 graph into a float32 one that rounds wherever the bf16 one does, in place.

    ONNX Runtime's CPU has no bfloat16 products. Each is computed in float32 from rounded
    inputs and rounded once, as GPUs do.
    """
    half: set[ir.Value] = set()

    def add_rounding(node: ir.Node) -> None:
        value = node.outputs[0]
        readers = list(value.uses())
        down = named_node("Cast", [value], f"{value.name}/down", to=int(ir.DataType.BFLOAT16))
        up = named_node("Cast", down.outputs, f"{value.name}/up", to=int(ir.DataType.FLOAT))
        for reader, index in readers:
            reader.replace_input_with(index, up.outputs[0])
        model.graph.insert_after(node, [down, up])
        half.add(up.outputs[0])

    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.BFLOAT16:
            array = values_of(value).numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
            half.add(value)
    for node in list(model.graph):
        if node.op_type == "Cast":
            if node.attributes["to"].as_int() == ir.DataType.BFLOAT16:
                node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
                add_rounding(node)
        elif node.op_type != "Shape" and any(v in half for v in node.inputs):
            add_rounding(node)
    return model


def harden(model: ir.Model, factor: float) -> ir.Model:
    """Amplify value channels and undo it in the output projection: the same function."""
    for name, value in model.graph.initializers.items():
        array = values_of(value).numpy().copy()
        if ".attention.value." in name:
            array[..., CHANNELS] *= factor
        elif ".attention.dense.weight" in name:
            array[CHANNELS] /= factor
        else:
            continue
        value.const_value = ir.tensor(array, name=name)
    return model


@pytest.mark.parametrize("variant", HALF)
def test_no_operator_mixes_types_and_the_islands_are_float32(variant: str, exported: Path) -> None:
    path = exported / VARIANTS[variant].file
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    kinds |= {t.name: t.data_type for t in inferred.initializer}
    half, single = HALF[variant], onnx.TensorProto.FLOAT
    for node in inferred.node:
        types = {kinds[n] for n in node.input if kinds.get(n) in {half, single}}
        assert len(types) <= 1, node.name
        if node.op_type in {"LayerNormalization", "Softmax"}:
            assert types == {single}
        if node.op_type == "MatMul" and "encoder" in node.name:
            assert types == {half}
    assert {kinds[o.name] for o in inferred.output} == {single}
    stored = [t for t in inferred.initializer if t.data_type == half]
    assert all(t.name.endswith(f"_{variant}") for t in stored)
    assert all(np.isfinite(onnx.numpy_helper.to_array(t).astype(np.float32)).all() for t in stored)


@pytest.mark.parametrize("variant", HALF)
def test_the_residual_sum_is_float32_from_end_to_end(variant: str, exported: Path) -> None:
    """Nothing but products' results is rounded on the way from normalization to normalization."""
    model = load(exported / VARIANTS[variant].file)
    norms = [n for n in model.graph if n.op_type == "LayerNormalization" and "encoder" in n.name]
    assert norms
    for norm in norms:
        pending, leaves = [norm.inputs[0]], []
        while pending:
            value = pending.pop()
            node = value.producer() if value is not None else None
            if node is not None and node.op_type in {"Add", "Cast"}:
                pending.append(node.inputs[0])
                pending += node.inputs[1:] if node.op_type == "Add" else []
            elif node is not None:
                leaves.append(node.op_type)
        assert set(leaves) <= {"MatMul", "LayerNormalization"}


@pytest.mark.parametrize(("variant", "least_db"), [("fp16", 60.0), ("bf16", 38.0)])
def test_answers_are_the_sources(
    variant: str, least_db: float, exported: Path, tmp_path: Path
) -> None:
    rows = [row.feeds for row in texts()]
    wanted = run_each(load(exported / VARIANTS["fp32"].file), rows, tmp_path)
    model = load(exported / VARIANTS[variant].file)
    if variant == "bf16":
        model = rounded_in_float32(model)
    assert sqnr_db(wanted, run_each(model, rows, tmp_path)) >= least_db


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_bf16_runs_in_openvino(precision: str, exported: Path, tmp_path: Path) -> None:
    """In f32, OpenVINO's own Cast to bfloat16 rounds half of the values toward zero."""
    pytest.importorskip("openvino")
    rows = [row.feeds for row in texts()]
    wanted = run_each(load(exported / VARIANTS["fp32"].file), rows, tmp_path)
    with open_ov(exported / VARIANTS["bf16"].file, threads=1, precision=precision) as session:
        assert sqnr_db(wanted, [session.run(feeds) for feeds in rows]) >= 30


def test_bf16_keeps_the_answer_itself_in_float32(exported: Path) -> None:
    model = load(exported / VARIANTS["fp32"].file)
    reason = "output layer of 2 columns outside the encoder"
    kept = float32_weights(model, SCHEMES["bf16"].config)
    assert kept["sop_classifier.classifier.weight_transposed"] == reason
    assert not [name for name in kept if "albert_layers" in name or "embeddings" in name]
    assert float32_weights(model, SCHEMES["fp16"].config) == {}


@pytest.mark.medium
@pytest.mark.parametrize("factor", [1e5, 1e6, 1e8])
def test_fp16_keeps_what_overflows_in_float32(
    factor: float, exported: Path, tmp_path: Path
) -> None:
    def hard() -> ir.Model:
        return harden(load(exported / VARIANTS["fp32"].file), factor)

    config = HalfConfig()
    rows = [row.feeds for row in texts()]
    wanted = run_each(hard(), rows, tmp_path)
    naive = hard()
    to_half(naive, config)
    got = run_each(naive, rows, tmp_path)
    assert not all(np.isfinite(v).all() for outputs in got for v in outputs.values())

    seen = calibrate(hard(), watched(hard(), config), texts())
    model = hard()
    to_half(model, config, {name: statistics.peak for name, statistics in seen.items()})
    assert sqnr_db(wanted, run_each(model, rows, tmp_path)) >= 60
    kept = json.loads(model.metadata_props[KEPT_KEY])
    assert any("reaches" in reason and "attention" in node for node, reason in kept.items())
    assert not [node for node in kept if "ffn" in node or "query" in node]

    written = load(tmp_path / "model.onnx")
    exceptions = float32_weights(hard(), config)
    assert not [name for name in exceptions if "value" not in name and "dense" not in name]
    table = coverage(hard(), written, dtype=ir.DataType.FLOAT16, exceptions=exceptions)
    check_coverage(table, "model_fp16.onnx")
    names = list(written.graph.initializers)
    assert not [name for name in names if f"{name}_fp16" in names and name.endswith("transposed")]


def test_ranges_that_fit_change_nothing(exported: Path, tmp_path: Path) -> None:
    model = load(exported / VARIANTS["fp32"].file)
    seen = calibrate(model, watched(model, HalfConfig()), texts())
    to_half(model, HalfConfig(), {name: statistics.peak for name, statistics in seen.items()})
    assert KEPT_KEY not in model.metadata_props
    plain = load(exported / VARIANTS["fp32"].file)
    to_half(plain, HalfConfig())
    assert [n.name for n in model.graph] == [n.name for n in plain.graph]


def test_a_value_that_is_not_finite_on_real_texts_counts_as_overflow(exported: Path) -> None:
    model = load(exported / VARIANTS["fp32"].file)
    name = next(v for v in watched(model, HalfConfig()) if "iteration_01" in v and "ffn/" in v)
    to_half(model, HalfConfig(), {name: math.nan})
    assert all("iteration_01" in node for node in json.loads(model.metadata_props[KEPT_KEY]))


def test_a_weight_beyond_float16_stays_float32(exported: Path) -> None:
    model = load(exported / VARIANTS["fp32"].file)
    name = "albert.pooler.weight_transposed"
    weight = model.graph.initializers[name]
    weight.const_value = ir.tensor(values_of(weight).numpy() * 1e6 + 1e5, name=name)
    assert "float16 ends at 6.55e+04" in float32_weights(model, HalfConfig())[name]
    assert float32_weights(model, HalfConfig(dtype="bfloat16")) == {}
    to_half(model, HalfConfig())
    assert name in model.graph.initializers
    assert f"{name}_fp16" not in model.graph.initializers


@pytest.mark.parametrize(
    ("field", "value"), [("dtype", "float8"), ("min_columns", 0), ("margin", 0.5)]
)
def test_config_refuses_nonsense(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        HalfConfig(**{field: value})  # type: ignore[arg-type]
