"""Dynamic INT8: int8 weights per output channel, uint8 activations measured at run time.

Standard ONNX only: ``DynamicQuantizeLinear`` and ``MatMulInteger``, in the pattern that ONNX
Runtime fuses into one kernel, bias included. Weights are signed: ONNX Runtime multiplies uint8 by
uint8 2.5 times as slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from albert_deploy.export.graph.edit import (
    add_initializer,
    named_node,
    remove_initializer,
    replace_node,
    sizes,
    values_of,
)
from albert_deploy.export.graph.uses import weight_uses
from albert_deploy.quantize.schemes.dynamic_attention import quantize_attention
from albert_deploy.quantize.schemes.formats import FORMATS
from albert_deploy.quantize.schemes.pruning import keep_first_token
from albert_deploy.quantize.schemes.rounding import bound_pairs, scales_for_pairs


@dataclass(frozen=True, kw_only=True)
class Int8Config:
    """Dynamic INT8.

    Args:
        min_columns: A matrix outside the encoder with fewer output columns stays float32: a
            classifier of two columns gains nothing and is the last to round the answer.
        attention: Convert attention's own products too; without it they stay float32.
        first_token: Compute the last iteration for the first token alone where no other is read.
    """

    min_columns: int = 64
    attention: bool = True
    first_token: bool = True

    def __post_init__(self) -> None:
        if self.min_columns < 1:
            raise ValueError(f"min_columns is {self.min_columns}; it must be at least 1")


def int8_exceptions(model: ir.Model, config: Int8Config) -> dict[str, str]:
    """Return the weights that stay float32, each with its reason."""
    reasons = {}
    for name, nodes in weight_uses(model).items():
        rows, columns = sizes(values_of(model.graph.initializers[name]))[-2:]
        if all(n.op_type == "Gather" for n in nodes) and ".word_embeddings." not in f".{name}":
            reasons[name] = f"table of {rows} rows, small and added to every token"
        elif (
            all(n.op_type == "MatMul" for n in nodes)
            and ".encoder." not in f".{name}"
            and columns < config.min_columns
        ):
            reasons[name] = f"output layer of {columns} columns outside the encoder"
    return reasons


def quantize_weight(
    weight: npt.NDArray[np.float32], axis: int, *, multiplied: bool = True
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32]]:
    """Quantize symmetrically, one scale for each index of ``axis``.

    Args:
        weight: float32 [rows, columns].
        axis: Axis that keeps its scale: 1 for a multiplied matrix, 0 for a looked-up table.
        multiplied: Bound pairs of neighbours along the other axis, see ``saturation``.

    Returns:
        int8 values of the same shape in -127..127 and float32 scales [size of axis], with
        ``weight ≈ values * scales``, within half a scale where no pair had to be bounded. An
        all-zero channel gets scale 1.
    """
    form = FORMATS["int8"]
    scale = form.scales(weight, axis)
    columns = weight if axis == 1 else weight.T
    if multiplied:
        scale = scales_for_pairs(columns, scale)
    values = form.cast(columns / scale)
    if multiplied:
        bound_pairs(values)
    return np.ascontiguousarray(values if axis == 1 else values.T), scale


def to_int8(model: ir.Model, config: Int8Config) -> int:
    """Convert a normalized float32 graph in place.

    Each weight is stored once, whatever its number of uses; activations that feed several
    products are quantized once.

    Returns:
        Number of nodes converted.

    Raises:
        ContractError: An attention is not in the form that the export gives it.
    """
    kept = int8_exceptions(model, config)
    activations: dict[ir.Value, ir.Node] = {}
    if config.first_token:
        keep_first_token(model)
    count = quantize_attention(model) if config.attention else 0
    for name, nodes in weight_uses(model).items():
        if name in kept:
            continue
        source = model.graph.initializers[name]
        # A tied matrix is looked up by row and multiplied transposed: rows are its channels
        # in both, so one set of scales serves both.
        axis = 0 if any(n.op_type == "Gather" for n in nodes) else 1
        multiplied = any(n.op_type == "MatMul" for n in nodes)
        values, scale = quantize_weight(values_of(source).numpy(), axis, multiplied=multiplied)
        stored = add_initializer(model, f"{name}_int8", values)
        scales = add_initializer(model, f"{name}_scale", scale)
        turned = _turn(model, source, stored)
        for node in nodes:
            if node.op_type == "Gather":
                _replace_gather(model, node, stored, scales)
            else:
                matrix = stored if node.inputs[1] is source else turned
                _replace_matmul(model, node, matrix, scales, activations)
            count += 1
        _drop(model, source)
    return count


def _replace_matmul(
    model: ir.Model,
    node: ir.Node,
    matrix: ir.Value | None,
    scales: ir.Value,
    activations: dict[ir.Value, ir.Node],
) -> None:
    source = node.inputs[0]
    if source is None or matrix is None:
        raise ValueError(f"{node.name} has no activation or no matrix")
    stem = (node.name or "").removesuffix("/MatMul")
    new = []
    if source not in activations:
        activations[source] = named_node(
            "DynamicQuantizeLinear", [source], f"{stem}/DynamicQuantizeLinear", outputs=3
        )
        new.append(activations[source])
    quantized, scale, zero = activations[source].outputs
    product = named_node("MatMulInteger", [quantized, matrix, zero], f"{stem}/MatMulInteger")
    real = named_node("Cast", [product.outputs[0]], f"{stem}/Cast", to=int(ir.DataType.FLOAT))
    factor = named_node("Mul", [scale, scales], f"{stem}/Mul_scale")
    result = named_node("Mul", [real.outputs[0], factor.outputs[0]], f"{stem}/Mul")
    replace_node(model, node, [*new, product, real, factor, result])


def _replace_gather(model: ir.Model, node: ir.Node, table: ir.Value, scales: ir.Value) -> None:
    ids = node.inputs[1]
    stem = (node.name or "").removesuffix("/Gather")
    rows = named_node("Gather", [table, ids], f"{stem}/Gather_int8", axis=0)
    real = named_node("Cast", [rows.outputs[0]], f"{stem}/Cast", to=int(ir.DataType.FLOAT))
    scale = named_node("Gather", [scales, ids], f"{stem}/Gather_scale", axis=0)
    last = add_initializer(model, "const_int64_last_axis", np.array([-1], dtype=np.int64))
    column = named_node("Unsqueeze", [scale.outputs[0], last], f"{stem}/Unsqueeze")
    result = named_node("Mul", [real.outputs[0], column.outputs[0]], f"{stem}/Mul")
    replace_node(model, node, [rows, real, scale, column, result])


def _turn(model: ir.Model, source: ir.Value, stored: ir.Value) -> ir.Value | None:
    """Give the tied matrix's ``Transpose`` its int8 counterpart."""
    for node, _ in source.uses():
        if node.op_type == "Transpose":
            turned = named_node("Transpose", [stored], f"{node.name}_int8", perm=[1, 0])
            model.graph.insert_before(node, turned)
            return turned.outputs[0]
    return None


def _drop(model: ir.Model, value: ir.Value) -> None:
    for node, _ in list(value.uses()):
        if node.op_type == "Transpose" and not node.outputs[0].uses():
            model.graph.remove(node, safe=True)
    if not value.uses():
        remove_initializer(model, value)
