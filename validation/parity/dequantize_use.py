"""Give products of a written variant back their float32 arithmetic, one use at a time.

The file is edited, not made anew: Q/DQ pairs, casts and integer products around one use of a
weight are passed by, and the weight and bias of the fp32 file take their place. What an engine
without debugging hooks gets, TensorRT among them, is edited alike, as precision lives in the ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph.edit import add_initializer, bias_behind, named_node, producer
from albert_deploy.export.graph.naming import QUERY_KEY
from albert_deploy.export.graph.uses import Use, real_type
from albert_deploy.runtime.errors import ContractError
from albert_deploy.validation.parity.weights import Stored, powers_between

_MOVES = {"Reshape", "Transpose", "Slice", "Gather"}
_ROUNDS = {"QuantizeLinear", "DynamicQuantizeLinear"}


def dequantize_uses(model: ir.Model, source: ir.Model, uses: Iterable[Use]) -> int:
    """Let products compute in float32 from real inputs, with the fp32 file's weights; in place.

    Args:
        model: A variant's graph, as read from its file.
        source: The fp32 graph.
        uses: Products of ``source``, see ``find_uses``.

    Returns:
        How many they are.

    Raises:
        ContractError: The variant does not have a product.
    """
    editor = _Editor(model, source)
    return sum(editor.dequantize(use) for use in uses)


class _Editor:
    def __init__(self, model: ir.Model, source: ir.Model) -> None:
        self._model = model
        self._nodes = {node.name: node for node in model.graph}
        self._made = {v.name: node for node in model.graph for v in node.outputs}
        self._source = {node.name: node for node in source.graph}
        self._ours, self._theirs = Stored(source), Stored(model)
        self._count = 0

    def dequantize(self, use: Use) -> int:
        """Let one product compute in float32."""
        wanted, node = self._source[use.node], self._nodes.get(use.node)
        if node is not None and node.op_type == "MatMul":
            product, last = node, node
        else:
            product, last = self._integer(use, wanted)
        new: list[ir.Node] = []
        left = self._real(product.inputs[0], new)
        if use.weight is None:
            right = self._real(product.inputs[1], new)
        else:
            right, columns = self._weight(use, wanted)
        new.append(self._node("MatMul", [left, right]))
        if use.weight is None:
            if last is not node and use.operator == QUERY_KEY:
                # The integer product's scale has the division by the root of the size in it.
                new.append(self._node("Mul", [new[-1].outputs[0], self._divisor(wanted)]))
            return self._replace(last.outputs[0], new)
        found = bias_behind(wanted)
        add = self._nodes.get(found[0].name) if found is not None else None
        real = self._ours.real(found[1]) if found is not None else None
        if found is not None and add is not None and real is not None:
            stored = self._add(f"{found[1].name}_{use.weight}", real * np.exp2(columns))
            new.append(self._node("Add", [new[-1].outputs[0], stored]))
            last = add
        return self._replace(last.outputs[0], new)

    def _integer(self, use: Use, wanted: ir.Node) -> tuple[ir.Node, ir.Node]:
        """Return the integer product in a product's place, and the node that makes it real."""
        last = self._made.get(wanted.outputs[0].name)
        if last is None:
            readers = [node for node, _ in wanted.outputs[0].uses()]
            last = self._made.get(readers[0].outputs[0].name) if readers else None
        # The probabilities' sum divides the product.
        if last is not None and last.op_type == "Div":
            last = producer(last.inputs[0])
        cast = next((n for v in last.inputs if (n := producer(v, "Cast"))), None) if last else None
        product = producer(cast.inputs[0]) if cast is not None else None
        if last is None or product is None or product.op_type != "MatMulInteger":
            raise ContractError(f"the variant has no product {use.label}; quantize again")
        return product, last

    def _real(self, value: ir.Value | None, new: list[ir.Node]) -> ir.Value:
        """Return a product's input in float32, before it was rounded; moves are made again."""
        moves: list[ir.Node] = []
        node = producer(value)
        while node is not None and value is not None:
            if node.op_type == "DequantizeLinear" and (rounds := producer(node.inputs[0])):
                value = rounds.inputs[0] if rounds.op_type in _ROUNDS else value
                if rounds.op_type not in _ROUNDS:
                    break
            elif node.op_type in _ROUNDS or node.op_type == "Cast":
                value = node.inputs[0]
            elif node.op_type in _MOVES:
                moves.append(node)
                value = node.inputs[0]
            else:
                break
            node = producer(value)
        if value is None:
            raise ContractError("a product has no input; quantize again")
        new.append(self._node("Cast", [value], to=int(ir.DataType.FLOAT)))
        for move in reversed(moves):
            inputs = [new[-1].outputs[0], *move.inputs[1:]]
            copy = self._node(move.op_type, inputs)
            for attribute in move.attributes.values():
                copy.attributes[attribute.name] = attribute
            new.append(copy)
        return new[-1].outputs[0]

    def _weight(self, use: Use, wanted: ir.Node) -> tuple[ir.Value, np.ndarray]:
        """Return the fp32 weight, equalized as the variant's is, and its columns' powers of two."""
        name = use.weight or ""
        real = self._ours.at(wanted, name)
        mine = self._theirs.at(wanted, name)
        if real is None or mine is None or real.shape != mine.shape:
            raise ContractError(f"the variant has no weight {name}; quantize again")
        rows, columns = powers_between(real, mine)
        weight = real * np.exp2(rows)[:, None] * np.exp2(columns)
        return self._add(name, weight), columns

    def _divisor(self, wanted: ir.Node) -> ir.Value:
        readers = [node for node, _ in wanted.outputs[0].uses()]
        real = next(x for v in readers[0].inputs if (x := self._ours.real(v)) is not None)
        return self._add(f"divisor_{self._count}", real)

    def _add(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self._model, f"dequantized/{name}", array.astype(np.float32))

    def _node(self, op_type: str, inputs: list[ir.Value | None], **attributes: int) -> ir.Node:
        self._count += 1
        name = f"dequantized/{len(self._model.graph)}_{self._count}/{op_type}"
        return named_node(op_type, inputs, name, **attributes)

    def _replace(self, value: ir.Value, new: list[ir.Node]) -> int:
        """Let all readers of a value read the last node's output, in the value's type."""
        kind = real_type(value)
        if kind != ir.DataType.FLOAT:
            new.append(self._node("Cast", [new[-1].outputs[0]], to=int(kind)))
        result, maker = new[-1].outputs[0], value.producer()
        if maker is None:
            raise ContractError(f"{value.name} comes from nowhere; quantize again")
        readers = [(n, i) for n, i in value.uses() if n not in set(new)]
        for node, index in readers:
            node.replace_input_with(index, result)
        outputs = self._model.graph.outputs
        for place, output in enumerate(outputs):
            if output is value:
                result.shape, result.type = value.shape, value.type
                name, value.name = value.name, f"{value.name}_before_dequantized"
                result.name, outputs[place] = name, result
        self._model.graph.insert_after(maker, new)
        return 1
