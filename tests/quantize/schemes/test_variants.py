"""The quantizers' arithmetic, their coverage, and that a shortfall fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from models import PRETRAINING

from albert_deploy.export.graph.file import load
from albert_deploy.quantize.schemes.dynamic import Int8Config, int8_exceptions
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import DEFAULT_VARIANTS, VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import sha256_of
from albert_deploy.validation.parity.coverage import check_coverage, coverage


@pytest.fixture(scope="module")
def exported(make_export: Callable[..., Path]) -> Path:
    out = make_export("pretraining", **PRETRAINING)
    quantize(out, QuantizeConfig())
    return out


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


def test_variants_up_to_date_are_left_alone(
    exported: Path, progress: pytest.LogCaptureFixture
) -> None:
    before = {v: (exported / VARIANTS[v].file).stat().st_mtime_ns for v in DEFAULT_VARIANTS}
    quantize(exported, QuantizeConfig())
    assert progress.messages == ["fp16: up to date", "int8: up to date"]
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


def test_an_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="fp32, fp16, bf16, int8"):
        QuantizeConfig(variants=("int4",))
