"""Where a head reads only the first token, the last iteration computes only the first token.

A classifier looks at one row of the last hidden state. Keys and values of the last iteration are
still needed for all tokens; scores, the rest of attention, the feed-forward layer and the
normalizations are needed for that row only. Leaving the other rows out changes no number.

So are queries, but their product stays whole: engines lay query, key and value side by side where
all three read the same tokens, and where one reads fewer, TensorRT stores the three a second time.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph.edit import (
    add_initializer,
    bias_behind,
    named_node,
    remove_initializer,
    values_of,
)
from albert_deploy.export.graph.uses import find_uses
from albert_deploy.runtime.errors import ContractError

# Operators that treat rows one by one, with the number of inputs that carry rows.
_ROW_BY_ROW = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), 2),
    **dict.fromkeys(("LayerNormalization", "Softmax", "MatMul", "Transpose", "Reshape"), 1),
    **dict.fromkeys(("Gelu", "Erf", "Tanh", "Relu", "Sigmoid", "Sqrt", "Cast"), 1),
}
# Of a tensor [batch, sequence, heads, size], the exchange that makes heads of rows and back.
_HEADS = (0, 2, 1, 3)


def keep_first_token(model: ir.Model) -> int:
    """Compute the last hidden state for its first token only, where nothing reads another.

    Walks from the ``Gather`` of the first token up through operators that treat rows one by one,
    and cuts the rows off (``Slice``) where it meets a value that others read in full.

    Args:
        model: Normalized float32 graph.

    Returns:
        Number of operators that compute one row now; 0 where all tokens are needed.

    Raises:
        ContractError: The graph between the encoder and the head is not as exported.
    """
    hidden = _only_first_token_read(model)
    if hidden is None:
        return 0
    texts = _depending_on(model, "input_ids")
    narrow = _narrow_nodes(hidden, texts)
    if not narrow:
        return 0
    reads = [
        (node, index, value)
        for node in model.graph
        if node in narrow
        for index, value in enumerate(_row_inputs(node, texts))
        if value is not None and value.producer() not in narrow
    ]
    if any(_is_cut(value) for _, _, value in reads):
        return 0
    cuts: dict[ir.Value, ir.Value] = {}
    for node, index, value in reads:
        if narrow[node] != 1:
            raise ContractError(
                f"{node.name} reads rows that no pass can cut; export the checkpoint again"
            )
        if value not in cuts:
            cuts[value] = _cut(model, node, value)
        node.replace_input_with(index, cuts[value])
    return len(narrow)


def _only_first_token_read(model: ir.Model) -> ir.Value | None:
    """Return the value of whose rows [batch, sequence, …] a ``Gather`` reads the first alone."""
    for node in model.graph:
        source, index = (*node.inputs, None, None)[:2]
        if (
            node.op_type == "Gather"
            and source is not None
            and index is not None
            and index.is_initializer()
            and node.attributes.get_int("axis", 0) == 1
            and not values_of(index).numpy().any()
            and source.producer() is not None
            and not source.is_graph_output()
            and len(source.uses()) == 1
        ):
            return source
    return None


def _narrow_nodes(hidden: ir.Value, texts: set[ir.Value]) -> dict[ir.Node, int]:
    """Map the nodes that need to compute one row only to the axis of the rows of their inputs."""
    narrow: dict[ir.Node, int] = {}
    pending = [(hidden, 1)]
    while pending:
        value, axis = pending.pop()
        node = value.producer()
        readers = [user for user, _ in value.uses()]
        if node is None or node.op_type not in _ROW_BY_ROW or value.is_graph_output():
            continue
        if value is not hidden and any(user not in narrow for user in readers):
            continue
        if _side_by_side(node):
            continue
        if node.op_type == "Transpose":
            if tuple(node.attributes["perm"].as_ints()) != _HEADS:
                continue
            axis = 3 - axis
        if node.op_type == "Reshape" and not _keeps_rows(node):
            continue
        narrow[node] = axis
        pending += [(v, axis) for v in _row_inputs(node, texts) if v is not None]
    return narrow


def _side_by_side(node: ir.Node) -> bool:
    """Tell whether this is a product, or its bias, whose input other weights multiply too."""
    if node.op_type == "Add":
        products = [v.producer() for v in node.inputs if v is not None and not v.is_initializer()]
        return len(products) == 1 and products[0] is not None and _side_by_side(products[0])
    if node.op_type != "MatMul":
        return False
    read, weight = node.inputs
    if read is None or weight is None or not weight.is_initializer():
        return False
    return any(
        user is not node and user.op_type == "MatMul" and user.inputs[0] is read
        for user, _ in read.uses()
    )


def _row_inputs(node: ir.Node, texts: set[ir.Value]) -> list[ir.Value | None]:
    """Return the inputs that carry rows: neither weights nor masks; None in the others' places."""
    inputs = node.inputs[: _ROW_BY_ROW[node.op_type]]
    return [v if v is not None and v in texts else None for v in inputs]


def _keeps_rows(reshape: ir.Node) -> bool:
    target = reshape.inputs[1]
    if target is None or not target.is_initializer():
        return False
    return list(values_of(target).numpy()[:2]) == [0, 0]


def _depending_on(model: ir.Model, name: str) -> set[ir.Value]:
    """Return the values that an input takes part in."""
    found = {v for v in model.graph.inputs if v.name == name}
    for node in model.graph:
        # Of a shape only sizes are taken, and a mask is made from those.
        if node.op_type != "Shape" and any(v in found for v in node.inputs):
            found.update(node.outputs)
    return found


def _cut(model: ir.Model, node: ir.Node, value: ir.Value) -> ir.Value:
    zero, one = (add_initializer(model, f"const_int64_{i}_rank1", np.array([i])) for i in (0, 1))
    cut = named_node("Slice", [value, zero, one, one], f"{node.name}/Slice")
    model.graph.insert_before(node, cut)
    return cut.outputs[0]


def _is_cut(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Slice"


def drop_key_bias(model: ir.Model) -> int:
    """Remove the bias of every key projection, in place; returns how many.

    It adds ``query · bias`` to all scores of a row alike, and softmax is the same for scores
    that differ by a constant.
    """
    nodes = {n.name: n for n in model.graph}
    count = 0
    for use in find_uses(model):
        if use.operator != "key":
            continue
        product = nodes[use.node]
        found = bias_behind(product)
        if found is None:
            continue
        add, bias = found
        for user, index in list(add.outputs[0].uses()):
            user.replace_input_with(index, product.outputs[0])
        model.graph.remove(add, safe=True)
        if not bias.uses():
            remove_initializer(model, bias)
        count += 1
    return count
