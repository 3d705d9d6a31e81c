"""Where a graph can be quantized: each product, its weight, its activations and its name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from albert_deploy.export.graph.naming import ITERATION, label_of
from albert_deploy.runtime.errors import ContractError

_MOVES = {"Reshape", "Transpose"}


@dataclass(frozen=True, kw_only=True)
class Use:
    """One product of the graph: one use of a weight, or one of attention's own products.

    Attributes:
        node: Name of its ``MatMul``.
        label: Name for people, such as ``encoder iteration 11, ffn_output``; iterations count
            from 0, as in the node's name.
        weight: Its matrix; None for a product of two activations.
        inputs: Names of the activations that it reads, before any reshaping.
        iteration: Iteration of the encoder; None outside of it.
    """

    node: str
    label: str
    weight: str | None
    inputs: tuple[str, ...]
    iteration: int | None

    @property
    def operator(self) -> str:
        """Its label without the iteration: the same for every use of a shared weight."""
        return self.label.rpartition(", ")[2]


def find_uses(model: ir.Model) -> list[Use]:
    """Return every product of a normalized float32 graph, in the order of execution."""
    weights = {
        node.name: name
        for name, nodes in weight_uses(model).items()
        for node in nodes
        if node.op_type == "MatMul"
    }
    uses = []
    for node in model.graph:
        if node.op_type != "MatMul" or node.name is None:
            continue
        weight = weights.get(node.name)
        values = [origin(v) for v in node.inputs[: 1 if weight else 2] if v is not None]
        if any(v.is_initializer() or v.is_graph_input() for v in values):
            continue
        match = ITERATION.match(node.name)
        uses.append(
            Use(
                node=node.name,
                label=label_of(node.name),
                weight=weight,
                inputs=tuple(v.name for v in values if v.name is not None),
                iteration=int(match[1]) if match else None,
            )
        )
    return uses


def activations(uses: Iterable[Use]) -> dict[str, str]:
    """Map each activation that uses read to a label that names all of its readers."""
    readers: defaultdict[str, list[Use]] = defaultdict(list)
    for use in uses:
        for name in use.inputs:
            readers[name].append(use)
    labels = {}
    for name, found in readers.items():
        place = found[0].label.rpartition(", ")[0]
        operators = " + ".join(dict.fromkeys(p.operator for p in found))
        text = ", ".join(part for part in (place, operators) if part)
        first = found[0]
        side = "input" if len(first.inputs) == 1 else f"input {first.inputs.index(name) + 1}"
        labels[name] = f"{text}, {side}"
    return labels


def origin(value: ir.Value) -> ir.Value:
    """Return the value that was only moved, not computed with, to make this one.

    Rounding commutes with moving; rounded first, a quarter of the bytes are moved.
    """
    node = value.producer()
    while node is not None and node.op_type in _MOVES and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


# Operators that read a weight matrix, in plain or converted form.
_READERS = {"MatMul", "MatMulInteger", "Gather", "Gemm"}


# What a converter appends to the name of a weight that it stores in another type.
SUFFIXES: dict[ir.DataType, str] = {
    ir.DataType.INT8: "_int8",
    ir.DataType.FLOAT16: "_fp16",
    ir.DataType.BFLOAT16: "_bf16",
    ir.DataType.FLOAT8E4M3FN: "_fp8",
}


def weight_uses(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Map each floating point matrix of a float32 graph to the nodes that read it."""
    return {
        name: _readers(value)
        for name, value in model.graph.initializers.items()
        if _is_matrix(value)
    }


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and len(tensor.shape) >= 2 and tensor.dtype.is_floating_point()


def _readers(value: ir.Value) -> list[ir.Node]:
    found = []
    for node, _ in value.uses():
        # One stored copy may be turned, cast or scaled on its way to its readers.
        if node.op_type in {"Transpose", "Cast", "DequantizeLinear"}:
            found += _readers(node.outputs[0])
        elif node.op_type in _READERS:
            found.append(node)
    return found


def real_type(value: ir.Value) -> ir.DataType:
    """Return the floating point type of a value in a strongly typed graph."""
    while not value.is_initializer() and value.dtype is None:
        node = value.producer()
        if node is None:
            raise ContractError(f"{value.name} comes from nowhere")
        if node.op_type == "Cast":
            return ir.DataType(node.attributes["to"].as_int())
        inputs = node.inputs[1:2] if node.op_type in {"DequantizeLinear", "Where"} else node.inputs
        if not inputs or inputs[0] is None:
            raise ContractError(f"{node.name} has no input to take a type from")
        value = inputs[0]
    if value.dtype is None:
        raise ContractError(f"{value.name} has no type")
    return value.dtype
