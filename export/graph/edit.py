"""Small helpers on onnx_ir graphs that passes and quantizers share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from albert_deploy.runtime.errors import ContractError


def values_of(value: ir.Value) -> ir.TensorProtocol:
    """Return the tensor of an initializer.

    Raises:
        ContractError: The value is no initializer with known contents.
    """
    if value.const_value is None:
        raise ContractError(f"{value.name} has no stored contents; export the checkpoint again")
    return value.const_value


def matrix(model: ir.Model, name: str) -> npt.NDArray[np.float32]:
    """Return a stored weight as float32."""
    return np.asarray(values_of(model.graph.initializers[name]).numpy(), np.float32)


def sizes(tensor: ir.TensorProtocol) -> list[int]:
    """Return the shape of a stored tensor."""
    return [int(n) for n in tensor.shape.numpy()]


def add_initializer(model: ir.Model, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add an initializer, or return the one that has the name already."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    return register(model, ir.tensor(array, name=name), name)


def register(model: ir.Model, tensor: ir.TensorProtocol, name: str) -> ir.Value:
    """Add a tensor as an initializer."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(sizes(tensor)),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value


def remove_initializer(model: ir.Model, value: ir.Value) -> None:
    """Remove an initializer that no node reads any more."""
    if value.name is not None:
        del model.graph.initializers[value.name]


def rename_initializer(model: ir.Model, value: ir.Value, name: str) -> None:
    """Give an initializer and its tensor another name."""
    remove_initializer(model, value)
    value.name = name
    values_of(value).name = name
    model.graph.register_initializer(value)


def named_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    *,
    outputs: int = 1,
    **attributes: int | list[int],
) -> ir.Node:
    """Make a node whose outputs are named after it."""
    node = ir.node(op_type, inputs, attributes or None, num_outputs=outputs, name=name)
    for i, value in enumerate(node.outputs):
        value.name = f"{name}/output_{i}"
    return node


def producer(value: ir.Value | None, op_type: str | None = None) -> ir.Node | None:
    """Return the node that makes a value, where it is of that type if one is named."""
    node = value.producer() if value is not None else None
    return node if node is not None and op_type in (None, node.op_type) else None


def bias_behind(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """Return the ``Add`` that alone reads a node's output, and the stored bias that it adds."""
    readers = [reader for reader, _ in node.outputs[0].uses()]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    stored = (v for v in readers[0].inputs if v is not None and v.is_initializer())
    return next(((readers[0], bias) for bias in stored), None)


def replace_node(model: ir.Model, node: ir.Node, new: Sequence[ir.Node]) -> None:
    """Put ``new`` in a node's place; the last one's output takes over its output's uses."""
    old, result = node.outputs[0], new[-1].outputs[0]
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], new, [old], [result])
