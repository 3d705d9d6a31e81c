"""Invariants of a written ONNX file; each check reads the file, not what made it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir

from albert_deploy.export.graph.file import load, total_bytes
from albert_deploy.runtime.contract import TensorSpec, variant_named
from albert_deploy.runtime.engines.ort import open_ort
from albert_deploy.runtime.errors import ContractError

_DTYPES = {ir.DataType.INT64: "int64", ir.DataType.FLOAT: "float32"}


def check_artifact(
    path: Path,
    *,
    variant: str,
    parameter_bytes: int,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
) -> ir.Model:
    """Run every check on a written file and return the model as read back.

    Raises:
        ContractError: The file breaks an invariant; the message names it.
    """
    check_budget(path, variant=variant, parameter_bytes=parameter_bytes)
    model = load(path)
    check_heads(model, path, inputs=inputs, outputs=outputs)
    check_standard(model, path)
    if "ort" in variant_named(variant).engines:
        open_ort(path, optimize=False).close()
    else:
        check_types(path)
    return model


def check_budget(path: Path, *, variant: str, parameter_bytes: int) -> None:
    """Fail when weights are stored more than once or wider than the variant means."""
    size, limit = total_bytes(path), variant_named(variant).limit(parameter_bytes)
    if size > limit:
        raise ContractError(
            f"{path.name} has {size:,} bytes, its budget is {limit:,} for {parameter_bytes:,} "
            "bytes of unique parameters: a shared weight is stored more than once or too wide"
        )


def check_heads(
    model: ir.Model, path: Path, *, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]
) -> None:
    """Fail when inputs and outputs are not the contract's: names, dtypes, axes, all of them."""
    for kind, values, specs in (
        ("input", model.graph.inputs, inputs),
        ("output", model.graph.outputs, outputs),
    ):
        got = [_describe(v) for v in values]
        wanted = [f"{s.name}: {s.dtype} [{', '.join(str(a) for a in s.axes)}]" for s in specs]
        if got != wanted:
            raise ContractError(
                f"{path.name} has {kind}s {'; '.join(got)}; the contract says {'; '.join(wanted)}"
            )


def check_standard(model: ir.Model, path: Path) -> None:
    """Fail on operators outside the ONNX standard or a graph that ONNX's checker refuses."""
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in model.graph if n.domain})
    if foreign or model.functions:
        raise ContractError(f"{path.name} uses operators outside ONNX: {', '.join(foreign)}")
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"{path.name} is not valid ONNX: {reason}") from error


def check_types(path: Path) -> None:
    """Fail where an operator's inputs have types that ONNX does not allow or that differ.

    For variants that ONNX Runtime has no CPU kernels for: bfloat16 products.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"{path.name} mixes types or shapes: {reason}") from error


def _describe(value: ir.Value) -> str:
    dtype = _DTYPES.get(value.dtype, str(value.dtype)) if value.dtype is not None else "?"
    axes = ", ".join(str(d) for d in value.shape) if value.shape is not None else "?"
    return f"{value.name}: {dtype} [{axes}]"
