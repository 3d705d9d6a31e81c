"""The profile names operators as people do, whatever ONNX Runtime fused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.validation.bench.profile import (
    BETWEEN,
    ProfileConfig,
    operator_class,
    profile,
    table,
)

ALBERT = "encoder/iteration_03/group_0/layer_0"
BERT = "encoder/iteration_03/layer_3"


@pytest.mark.parametrize(
    ("op_type", "name", "wanted"),
    [
        ("DynamicQuantizeMatMul", f"{ALBERT}/ffn/MatMulInteger", "feed-forward layers"),
        ("MatMulIntegerToFloat", f"{ALBERT}/ffn_output/MatMulInteger", "feed-forward layers"),
        ("MatMul", f"{BERT}/intermediate/dense/MatMul", "feed-forward layers"),
        ("MatMul", f"{BERT}/output/dense/MatMul", "feed-forward layers"),
        ("MatMul", f"{BERT}/attention/output/dense/MatMul", "query, key, value, dense"),
        ("MatMul", f"{BERT}/attention/self/query/MatMul", "query, key, value, dense"),
        ("MatMulIntegerToFloat", f"{ALBERT}/attention/key/x", "query, key, value, dense"),
        ("DynamicQuantizeMatMul", f"{ALBERT}/attention/dense/x", "query, key, value, dense"),
        ("FusedMatMul", f"{ALBERT}/attention/MatMul/MatMulScaleFusion/", "query x key"),
        ("MatMulIntegerToFloat", f"{ALBERT}/attention/scores/MatMulInteger", "query x key"),
        ("MatMul", f"{BERT}/attention/self/MatMul", "query x key"),
        ("MatMul", f"{ALBERT}/attention/MatMul_1", "probabilities x value"),
        ("MatMulIntegerToFloat", f"{ALBERT}/attention/context/x", "probabilities x value"),
        ("Softmax", f"{ALBERT}/attention/Softmax", "softmax and mask"),
        ("Add", f"{ALBERT}/attention/Add", "softmax and mask"),
        ("QuantizeLinear", f"{ALBERT}/attention/softmax/QuantizeLinear", "softmax and mask"),
        ("Exp", f"{BERT}/attention/self/softmax/Exp", "softmax and mask"),
        ("Abs", f"{ALBERT}/attention/scores/key/Abs", "quantize"),
        ("QuantizeLinear", f"{ALBERT}/attention/context/value/QuantizeLinear", "quantize"),
        ("DynamicQuantizeLinear", f"{ALBERT}/attention/query/x", "quantize"),
        ("FastGelu", "FastGelu_token_3", "GELU"),
        ("Gelu", f"{ALBERT}/activation/Gelu", "GELU"),
        ("Mul", f"{BERT}/intermediate/intermediate_act_fn/Mul", "GELU"),
        ("LayerNormalization", f"{ALBERT}/attention/LayerNorm/x", "normalization"),
        ("Add", f"{ALBERT}/attention/Add_1", "bias and residual"),
        ("Add", f"{ALBERT}/ffn/Add", "bias and residual"),
        ("Transpose", f"{ALBERT}/attention/Transpose_2", "transposes"),
        ("MatMul", "encoder/embedding_hidden_mapping_in/MatMul", "embeddings and heads"),
        ("DynamicQuantizeMatMul", "pooler/MatMulInteger", "embeddings and heads"),
        ("Gather", "embeddings/word_embeddings/Gather_int8", "embeddings and heads"),
    ],
)
def test_operator_class(op_type: str, name: str, wanted: str) -> None:
    assert operator_class(op_type, name) == wanted


@pytest.fixture(scope="module")
def directory(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("profile") / "out"
    export(str(make_checkpoint("text-classification")), ExportConfig(), out=out)
    quantize(out, QuantizeConfig(variants=("int8",)))
    return out


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_profile_accounts_for_the_whole_run(variant: str, directory: Path) -> None:
    config = ProfileConfig(variant=variant, lengths=(4, 9, 5000), runs=2)
    report = profile(directory, config)
    assert list(report["lengths"]) == ["4", "9"]
    for column in report["lengths"].values():
        rows = column["operators"]
        assert rows["feed-forward layers"]["nodes"] == 2 * 3
        assert rows["query x key"]["nodes"] == rows["probabilities x value"]["nodes"] == 3
        assert all(row["ms"] >= 0 for row in rows.values())
        assert sum(row["ms"] for row in rows.values()) >= column["run_ms"] * (1 - 1e-9)
    lines = table(report).splitlines()
    assert lines[0].startswith(f"| {variant}, ms")
    assert "4 tokens" in lines[0]
    assert [line for line in lines if line.startswith(f"| {BETWEEN}")]
    assert lines[-1].startswith("| whole run")


def test_profile_writes_nothing(directory: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in directory.rglob("*"))
    profile(directory, ProfileConfig(lengths=(4,), runs=1))
    assert sorted((p, p.stat().st_mtime_ns) for p in directory.rglob("*")) == before


def test_a_file_that_was_changed_is_not_profiled(directory: Path) -> None:
    path = directory / "onnx" / "model_int8.onnx"
    good = path.read_bytes()
    try:
        path.write_bytes(good + b"\0")
        with pytest.raises(ContractError, match=r"model_int8\.onnx"):
            profile(directory, ProfileConfig(lengths=(4,)))
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "int4"}, "unknown variant"),
        ({"lengths": ()}, "lengths"),
        ({"lengths": (0,)}, "lengths"),
        ({"runs": 0}, "runs is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProfileConfig(**options)  # type: ignore[arg-type]
