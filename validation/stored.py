"""Reads the parameters of a graph, in whatever form a variant stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

Reals = npt.NDArray[np.float64]

# Operators whose stored operands are parameters, and which of the operands those may be.
PLACES = {"MatMul": (1,), "Gather": (0,), "Add": (0, 1), "LayerNormalization": (1, 2)}


class Stored:
    """Reads what nodes of one graph take as parameters, whatever form they are stored in."""

    def __init__(self, model: ir.Model) -> None:
        self._named = {node.name: node for node in model.graph}
        self._made = {v.name: node for node in model.graph for v in node.outputs}
        self._known: dict[Any, Reals | None] = {}

    def at(self, node: ir.Node, name: str) -> Reals | None:
        """Return what the node of that name, or in its place, reads for a source's parameter."""
        mine = self._named.get(node.name) or self._made.get(node.outputs[0].name)
        if mine is None:
            return None
        if mine.op_type == node.op_type:
            named = [i for i, v in enumerate(node.inputs) if v is not None and v.name == name]
            # A sum's operands may change places; a tied matrix is read through a transposition.
            places = PLACES[node.op_type] if node.op_type == "Add" or not named else named
            found = (self.real(mine.inputs[place]) for place in places)
            return next((x for x in found if x is not None), None)
        # Dynamic INT8: (integer product or rows) times scales.
        parts = [v.producer() for v in mine.inputs if v is not None]
        integers = next((n for n in parts if n is not None and n.op_type == "Cast"), None)
        scaled = next((n for n in parts if n is not None and n is not integers), None)
        product = integers.inputs[0].producer() if integers and integers.inputs[0] else None
        if product is None or scaled is None:
            return None
        table = product.op_type == "Gather"
        key = (mine.op_type, product.inputs[0 if table else 1])
        if key not in self._known:
            values = self.real(product.inputs[0 if table else 1])
            if table and scaled.inputs[0] is not None:
                scaled = scaled.inputs[0].producer() or scaled
            scales = next((x for v in scaled.inputs if (x := self.real(v)) is not None), None)
            real = values is not None and scales is not None
            self._known[key] = _scaled(values, scales, 0 if table else 1) if real else None
        return self._known[key]

    def real(self, value: ir.Value | None) -> Reals | None:
        """Return the real values of an initializer, or of what is made of one; None otherwise."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = self._read(value)
        return self._known[value]

    def _read(self, value: ir.Value) -> Reals | None:
        if value.is_initializer():
            return array_of(value).astype(np.float64)
        node = value.producer()
        if node is None or node.op_type not in {"Cast", "Transpose", "DequantizeLinear"}:
            return None
        values = self.real(node.inputs[0])
        if values is None or node.op_type == "Cast":
            return values
        if node.op_type == "Transpose":
            return values.T
        scales = self.real(node.inputs[1])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        return None if scales is None else _scaled(values, scales, axis)


def _scaled(values: Any, scales: Any, axis: int) -> Reals:
    return np.asarray(values * (scales[:, None] if axis == 0 and scales.ndim else scales))


def parameters(node: ir.Node) -> list[ir.Value]:
    """Return the stored operands of a node of the fp32 graph, a transposed one by its origin."""
    found = []
    for place in PLACES.get(node.op_type, ()):
        value = node.inputs[place] if place < len(node.inputs) else None
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type == "Transpose":
            value = producer.inputs[0]
        if value is None or not value.is_initializer():
            continue
        array = array_of(value)
        if array.size > 1 and array.dtype == np.float32:
            found.append(value)
    return found


def array_of(value: ir.Value) -> npt.NDArray[Any]:
    """Return the contents of an initializer."""
    from albert_deploy.export.graph import values_of

    return values_of(value).numpy()
