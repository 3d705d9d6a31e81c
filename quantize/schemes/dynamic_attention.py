"""Attention's own two products in dynamic INT8: query by key, probabilities by value.

They have no weights, so nothing is stored for them; at 384 tokens they take a quarter of an
otherwise INT8 model's time. Four details make them fast and exact enough:

- Keys and values are *signed*: processors multiply uint8 by int8, and ONNX Runtime's kernel for
  uint8 by uint8 takes 2.5 times as long.
- Keys end at 64 and probabilities at 127, so that no pair saturates 16-bit sums (see
  ``saturation``): 255 (64 + 64) and 127 (127 + 127) are within them. Values keep all their bits:
  where a row looks at one token, their rounding is not averaged out.
- Probabilities are rounded row by row, relative to the largest of their row. One scale for all
  would round a row that looks at 384 tokens alike (1/384 each) to one step or to none.
- The key's bias is left out: it adds ``query · bias`` to all scores of a row alike, which
  softmax does not see, and without it the keys need a smaller scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph.edit import (
    add_initializer,
    named_node,
    producer,
    remove_initializer,
    replace_node,
    values_of,
)
from albert_deploy.quantize.schemes.rounding import LARGEST_PAIR
from albert_deploy.runtime.errors import ContractError

# Of values and probabilities; a key has LARGEST_PAIR / 2.
_LEVELS = 127


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The nodes of one attention, in the form that ``export.trace`` makes it trace to.

    Attributes:
        name: Path of its node names, such as ``encoder/iteration_03/…/attention``.
        query: ``Reshape`` of the projection [batch, sequence, hidden] to heads; so ``key``
            and ``value``.
        key: See ``query``.
        value: See ``query``.
        scores: ``MatMul`` of query and key.
        scale: ``Mul`` of the scores with a constant.
        softmax: ``Softmax`` of the masked scores [batch, heads, sequence, sequence].
        context: ``MatMul`` of probabilities and value.
    """

    name: str
    query: ir.Node
    key: ir.Node
    value: ir.Node
    scores: ir.Node
    scale: ir.Node
    softmax: ir.Node
    context: ir.Node


def find_attentions(model: ir.Model) -> list[Attention]:
    """Find every attention of a normalized float32 graph.

    Raises:
        ContractError: There is a ``Softmax`` that is not part of a plain attention.
    """
    return [_around(node) for node in model.graph if node.op_type == "Softmax"]


def quantize_attention(model: ir.Model) -> int:
    """Convert both products of every attention of a normalized float32 graph, in place.

    Scores are ``(q - z) k * (s_q s_k / sqrt(head size))`` with the integers q, z and k. The
    probabilities' numerators ``e = exp(score - max of row)`` lie in 0..1 in every row, so the
    context is ``round(127 e) v * (s_v / 127) / sum(e)``. A row that is masked throughout has
    equal scores, e = 1, and the uniform weights that it has in float32.

    Returns:
        Number of products converted.

    Raises:
        ContractError: There is a ``Softmax`` that is not part of a plain attention.
    """
    found = find_attentions(model)
    for attention in found:
        _replace_scores(model, attention)
        _replace_context(model, attention)
    return 2 * len(found)


def _replace_scores(model: ir.Model, attention: Attention) -> None:
    stem = f"{attention.name}/scores"
    query = attention.query.inputs[0]
    quantize = named_node(
        "DynamicQuantizeLinear", [query], f"{stem}/query/DynamicQuantizeLinear", outputs=3
    )
    model.graph.insert_before(attention.query, quantize)
    values, query_scale, zero = quantize.outputs
    attention.query.replace_input_with(0, values)
    _drop_bias(model, attention.key)
    key_scale = _quantize_signed(model, attention.key, LARGEST_PAIR // 2, f"{stem}/key")
    left, right = attention.scores.inputs
    product = named_node("MatMulInteger", [left, right, zero], f"{stem}/MatMulInteger")
    real = named_node("Cast", [product.outputs[0]], f"{stem}/Cast", to=int(ir.DataType.FLOAT))
    both = named_node("Mul", [query_scale, key_scale], f"{stem}/Mul_scales")
    constant = next(v for v in attention.scale.inputs if v is not attention.scores.outputs[0])
    factor = named_node("Mul", [both.outputs[0], constant], f"{stem}/Mul_scale")
    result = named_node("Mul", [real.outputs[0], factor.outputs[0]], f"{stem}/Mul")
    replace_node(model, attention.scale, [product, real, both, factor, result])
    model.graph.remove(attention.scores, safe=True)


def _replace_context(model: ir.Model, attention: Attention) -> None:
    stem, scores = f"{attention.name}/context", attention.softmax.inputs[0]
    scale = _quantize_signed(model, attention.value, _LEVELS, f"{stem}/value")
    last = add_initializer(model, "const_int64_last_axis", np.array([-1], np.int64))
    step = add_initializer(model, "const_float_1_127", np.array(1 / _LEVELS, np.float32))
    zero = add_initializer(model, "const_uint8_0", np.array(0, np.uint8))
    name = f"{attention.name}/softmax"
    peak = named_node("ReduceMax", [scores, last], f"{name}/ReduceMax", keepdims=1)
    below = named_node("Sub", [scores, peak.outputs[0]], f"{name}/Sub")
    power = named_node("Exp", [below.outputs[0]], f"{name}/Exp")
    rounded = named_node("QuantizeLinear", [power.outputs[0], step, zero], f"{name}/QuantizeLinear")
    total = named_node("ReduceSum", [power.outputs[0], last], f"{name}/ReduceSum", keepdims=1)
    product = named_node(
        "MatMulInteger", [rounded.outputs[0], attention.context.inputs[1]], f"{stem}/MatMulInteger"
    )
    real = named_node("Cast", [product.outputs[0]], f"{stem}/Cast", to=int(ir.DataType.FLOAT))
    factor = named_node("Mul", [step, scale], f"{stem}/Mul_scale")
    whole = named_node("Mul", [real.outputs[0], factor.outputs[0]], f"{stem}/Mul")
    result = named_node("Div", [whole.outputs[0], total.outputs[0]], f"{stem}/Div")
    new = [peak, below, power, rounded, total, product, real, factor, whole, result]
    replace_node(model, attention.context, new)
    model.graph.remove(attention.softmax, safe=True)


def _quantize_signed(model: ir.Model, reshape: ir.Node, levels: int, stem: str) -> ir.Value:
    """Round a projection to -levels..levels in front of its ``Reshape``; return its float scale [].

    Where all of it is zero so is the scale, and the products are zero whatever the integers are:
    a guard would be one more node for each use, and at 8 tokens nodes are what costs.
    """
    real = reshape.inputs[0]
    share = add_initializer(model, f"const_float_1_{levels}", np.array(1 / levels, np.float32))
    zero = add_initializer(model, "const_int8_0", np.array(0, np.int8))
    size = named_node("Abs", [real], f"{stem}/Abs")
    peak = named_node("ReduceMax", [size.outputs[0]], f"{stem}/ReduceMax", keepdims=0)
    scale = named_node("Mul", [peak.outputs[0], share], f"{stem}/Mul")
    rounded = named_node("QuantizeLinear", [real, scale.outputs[0], zero], f"{stem}/QuantizeLinear")
    model.graph.insert_before(reshape, [size, peak, scale, rounded])
    reshape.replace_input_with(0, rounded.outputs[0])
    return scale.outputs[0]


def _drop_bias(model: ir.Model, reshape: ir.Node) -> None:
    """Let a projection's ``Reshape`` read its product without the bias."""
    add = producer(reshape.inputs[0], "Add")
    if add is None:
        return
    biases = [v for v in add.inputs if v is not None and v.is_initializer()]
    products = [v for v in add.inputs if v not in biases]
    if len(biases) != 1 or len(values_of(biases[0]).shape) != 1:
        return
    reshape.replace_input_with(0, products[0])
    if not add.outputs[0].uses():
        model.graph.remove(add, safe=True)
    if not biases[0].uses():
        remove_initializer(model, biases[0])


def _around(softmax: ir.Node) -> Attention:
    name = (softmax.name or "").removesuffix("/Softmax")
    add = producer(softmax.inputs[0], "Add")
    scale = _either(add, "Mul")
    scores = _either(scale, "MatMul")
    users = [node for node, _ in softmax.outputs[0].uses()]
    context = users[0] if len(users) == 1 and users[0].op_type == "MatMul" else None
    if scale is None or scores is None or context is None:
        raise ContractError(_not_plain(name))
    return Attention(
        name=name,
        query=_heads(scores.inputs[0], name),
        key=_heads(scores.inputs[1], name),
        value=_heads(context.inputs[1], name),
        scores=scores,
        scale=scale,
        softmax=softmax,
        context=context,
    )


def _heads(value: ir.Value | None, name: str) -> ir.Node:
    transpose = producer(value, "Transpose")
    reshape = producer(transpose.inputs[0], "Reshape") if transpose is not None else None
    if reshape is None or len(reshape.outputs[0].uses()) != 1:
        raise ContractError(_not_plain(name))
    return reshape


def _either(node: ir.Node | None, op_type: str) -> ir.Node | None:
    found = [producer(v, op_type) for v in node.inputs] if node is not None else []
    return next((n for n in found if n is not None), None)


def _not_plain(name: str) -> str:
    return (
        f"{name} is not softmax(query key * scale + mask) value with transposed heads; "
        "export the checkpoint again, or quantize with attention=False"
    )
