"""Leave the key's bias out: softmax does not see it, and without it keys need a smaller scale."""

from __future__ import annotations

import onnx_ir as ir

from albert_deploy.quantize.points import find_points


def drop_key_bias(model: ir.Model) -> int:
    """Remove the bias of every key projection, in place; returns how many.

    It adds ``query · bias`` to all scores of a row alike, and softmax is the same for scores
    that differ by a constant.
    """
    nodes = {n.name: n for n in model.graph}
    count = 0
    for point in find_points(model):
        if point.operator != "key":
            continue
        product = nodes[point.node].outputs[0]
        readers = [n for n, _ in product.uses()]
        if len(readers) != 1 or readers[0].op_type != "Add":
            continue
        add = readers[0]
        bias = next((v for v in add.inputs if v is not None and v.is_initializer()), None)
        for user, index in list(add.outputs[0].uses()):
            user.replace_input_with(index, product)
        model.graph.remove(add, safe=True)
        if bias is not None and bias.name is not None and not bias.uses():
            del model.graph.initializers[bias.name]
        count += 1
    return count
