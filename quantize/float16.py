"""Mixed FP16: half-precision weights and products, float32 where half precision breaks.

Float32 stay: layer normalization (its epsilon of 1e-12 is zero in float16) with the residual
sum in front of it, softmax with the scaled and masked scores (the mask's constant overflows),
and everything that depends on no weight. Every ``Cast`` is written out, so each operator has
inputs of one type, as strongly typed engines demand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph import add_initializer, named_node, values_of
from albert_deploy.runtime.errors import ContractError

_LARGEST = float(np.finfo(np.float16).max)
# Operators between a MatMul and the Softmax that stay with the softmax.
_SCORE_OPS = {"Add", "Mul", "Div", "Where"}


@dataclass(frozen=True, kw_only=True)
class Float16Config:
    """Mixed FP16.

    Args:
        keep_float32: Operator types that compute in float32.
    """

    keep_float32: tuple[str, ...] = ("LayerNormalization", "Softmax")


def float16_exceptions(model: ir.Model, config: Float16Config) -> dict[str, str]:
    """Return the weight matrices that stay float32: none."""
    return {}


def to_float16(model: ir.Model, config: Float16Config) -> int:
    """Convert a normalized float32 graph in place; inputs and outputs keep their types.

    Args:
        model: Normalized graph.
        config: Options.

    Returns:
        Number of nodes that now compute in float16.

    Raises:
        ContractError: A weight is too large for float16.
    """
    floats = _float_values(model)
    wide = _float32_nodes(model, config)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    half: set[ir.Value] = set()
    count = 0
    for node in list(model.graph):
        if not any(v in floats for v in (*node.inputs, *node.outputs) if v is not None):
            continue
        wanted = ir.DataType.FLOAT if node in wide else ir.DataType.FLOAT16
        for i, value in enumerate(node.inputs):
            if value is not None and value in floats:
                node.replace_input_with(i, _as(model, node, value, wanted, half, casts))
        if wanted == ir.DataType.FLOAT16:
            half.update(v for v in node.outputs if v in floats)
            count += 1
    for value in list(model.graph.outputs):
        if value in half:
            _cast_output(model, value)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
    return count


def _float_values(model: ir.Model) -> set[ir.Value]:
    """Return the values that hold float32 in the source graph."""
    floats = {v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT}
    for node in model.graph:
        if node.op_type == "Cast":
            if node.attributes["to"].as_int() == ir.DataType.FLOAT:
                floats.update(node.outputs)
        elif node.op_type != "Shape" and any(v in floats for v in node.inputs if v is not None):
            floats.update(node.outputs)
    return floats


def _float32_nodes(model: ir.Model, config: Float16Config) -> set[ir.Node]:
    wide = {n for n in model.graph if n.op_type in config.keep_float32}
    for node in list(wide):
        inputs = [v for v in node.inputs[:1] if v is not None]
        while inputs:
            producer = inputs.pop().producer()
            if producer is None or producer in wide or producer.op_type not in _SCORE_OPS:
                continue
            if node.op_type == "Softmax":
                inputs += [v for v in producer.inputs if v is not None]
            wide.add(producer)
    weighted: set[ir.Value] = set()
    for node in model.graph:
        if any(v is not None and (v in weighted or _is_weight(v)) for v in node.inputs):
            weighted.update(node.outputs)
        else:
            wide.add(node)
    return wide


def _is_weight(value: ir.Value) -> bool:
    return (
        value.is_initializer()
        and value.shape is not None
        and len(value.shape) > 0
        and (value.dtype == ir.DataType.FLOAT)
    )


def _as(
    model: ir.Model,
    node: ir.Node,
    value: ir.Value,
    wanted: ir.DataType,
    half: set[ir.Value],
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """Return ``value`` in the wanted type, by a stored copy or one shared ``Cast``."""
    if (value in half) == (wanted == ir.DataType.FLOAT16):
        return value
    key = (value, wanted)
    if key not in casts:
        if value.is_initializer():
            casts[key] = _stored_half(model, value)
            half.add(casts[key])
        else:
            name = f"{value.name}/Cast_{wanted.name.lower()}"
            cast = named_node("Cast", [value], name, to=int(wanted))
            model.graph.insert_before(node, cast)
            casts[key] = cast.outputs[0]
            if wanted == ir.DataType.FLOAT16:
                half.add(cast.outputs[0])
    return casts[key]


def _stored_half(model: ir.Model, value: ir.Value) -> ir.Value:
    array = values_of(value).numpy()
    peak = float(np.abs(array).max(initial=0.0))
    if peak > _LARGEST:
        raise ContractError(
            f"{value.name} reaches {peak:g}, float16 ends at {_LARGEST:g}; leave fp16 out of "
            "--variants for this checkpoint"
        )
    name = f"{value.name}_fp16"
    return add_initializer(model, name, array.astype(np.float16))


def _cast_output(model: ir.Model, value: ir.Value) -> None:
    node = value.producer()
    position = list(model.graph.outputs).index(value)
    name, shape, kind = value.name, value.shape, value.type
    value.name, value.shape, value.type = f"{name}_fp16", None, None
    cast = named_node("Cast", [value], f"{name}/Cast_float", to=int(ir.DataType.FLOAT))
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = name, shape, kind
    if node is not None:
        model.graph.insert_after(node, cast)
    model.graph.outputs[position] = cast.outputs[0]
