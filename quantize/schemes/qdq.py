"""Static quantization in standard ONNX: QuantizeLinear and DequantizeLinear around products.

Symmetric, with zero points of zero, as TensorRT demands: int8 weights with a scale for each
output channel, activations with one scale for each value, so every iteration of a shared layer
has its own activation scales around the one stored weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from albert_deploy.export.graph.edit import add_initializer, named_node, remove_initializer
from albert_deploy.export.graph.uses import Use, origin, real_type
from albert_deploy.quantize.schemes.formats import Format
from albert_deploy.runtime.errors import ContractError


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight as it is stored.

    Attributes:
        values: Rounded values, of the weight's shape.
        scales: float32 [size of axis], positive.
        axis: Axis that keeps its scale: 1 for columns, 0 for the rows of a table.
    """

    values: npt.NDArray[np.generic]
    scales: npt.NDArray[np.float32]
    axis: int

    def real(self) -> npt.NDArray[np.float32]:
        """Return the values that the stored ones stand for."""
        scales = self.scales[:, None] if self.axis == 0 else self.scales
        return np.asarray(self.values.astype(np.float32) * scales, np.float32)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a static variant quantizes, and how finely.

    Attributes:
        format: Of weights and activations.
        uses: Products whose activations are quantized.
        steps: Value name -> step of its quantization.
        weights: Weight name -> how it is stored.
    """

    format: Format
    uses: tuple[Use, ...]
    steps: Mapping[str, float]
    weights: Mapping[str, Weight]


def insert_qdq(model: ir.Model, plan: Plan) -> int:
    """Put the plan into a float32 or mixed half-precision graph, in place.

    Returns:
        Number of products and table look-ups that were quantized.

    Raises:
        ContractError: The plan names a node or a weight that the graph does not have.
    """
    nodes = {n.name: n for n in model.graph}
    rounded: dict[ir.Value, ir.Value] = {}
    for use in plan.uses:
        node = nodes.get(use.node)
        if node is None:
            raise ContractError(f"the graph has no {use.label}; export the checkpoint again")
        for index, name in enumerate(use.inputs):
            reader, place = _first_reader(node, index)
            value = reader.inputs[place]
            if value is None or value in rounded.values():
                continue
            if value not in rounded:
                rounded[value] = _rounded(model, reader, value, name, plan)
            reader.replace_input_with(place, rounded[value])
    count = len(plan.uses)
    for name, weight in plan.weights.items():
        count += _store(model, name, weight, plan.format)
    return count


def _store(model: ir.Model, name: str, weight: Weight, form: Format) -> int:
    """Store a weight, with one node that makes it real for all of its uses; count look-ups."""
    initializers = model.graph.initializers
    source = initializers.get(name) or initializers.get(f"{name}_fp16")
    if source is None:
        raise ContractError(f"the graph has no weight {name}; export the checkpoint again")
    scales = weight.scales.astype(real_type(source).numpy())
    stored = add_initializer(model, f"{name}{form.suffix}", weight.values)
    scale = add_initializer(model, f"{name}_scale", scales)
    real = named_node(
        "DequantizeLinear", [stored, scale], f"{name}/DequantizeLinear", axis=weight.axis
    )
    model.graph.insert_before(model.graph[0], real)
    lookups = 0
    for user, index in list(source.uses()):
        user.replace_input_with(index, real.outputs[0])
        lookups += user.op_type == "Gather"
    remove_initializer(model, source)
    return lookups


def _rounded(model: ir.Model, reader: ir.Node, value: ir.Value, name: str, plan: Plan) -> ir.Value:
    """Return an activation after rounding, by one pair of nodes for all of its readers."""
    if name not in plan.steps:
        raise ContractError(f"no calibrated scale for {name}; calibrate again")
    step = np.array(plan.steps[name], real_type(value).numpy())
    scale = add_initializer(model, f"{name}/scale", step)
    # Named in full: without it the format would be uint8, and ONNX Runtime would not fuse.
    zero = add_initializer(model, f"const{plan.format.suffix}_0", plan.format.zero())
    quantize = named_node("QuantizeLinear", [value, scale, zero], f"{name}/QuantizeLinear")
    dequantize = named_node(
        "DequantizeLinear", [quantize.outputs[0], scale, zero], f"{name}/DequantizeLinear"
    )
    model.graph.insert_before(reader, [quantize, dequantize])
    return dequantize.outputs[0]


def _first_reader(node: ir.Node, index: int) -> tuple[ir.Node, int]:
    """Return who reads the origin of a node's input, the node itself or what moves it there."""
    value = node.inputs[index]
    if value is None:
        raise ContractError(f"{node.name} has no input {index}; export the checkpoint again")
    source = origin(value)
    while value is not source:
        producer = value.producer()
        if producer is None or producer.inputs[0] is None:
            raise ContractError(f"{node.name}: {value.name} comes from nowhere")
        node, index, value = producer, 0, producer.inputs[0]
    return node, index
