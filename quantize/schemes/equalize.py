"""Equalization: move outlier channels from activations into weights before quantization.

One scale per weight has to serve every use of it, so peaks are joined over all iterations of
the shared layer. Each pass leaves the function as it is, up to float32 rounding:

- value to attention output: column j of the value weight is divided by s_j, row j of the
  attention's output weight multiplied (the product with the probabilities is linear in it);
- query and key: head column j is divided in one and multiplied in the other;
- the input of any other product: its activation is multiplied by 1 / s_j just before it, its
  weight's row j by s_j. Where a layer norm feeds both the product and the residual sum, its own
  scale cannot change, which is why the multiplication is a node of its own.

The scales are SmoothQuant's, s_j = max|x_j|^a / max|w_j|^(1 - a) (Xiao et al. 2023, eq. 4); for
two weights in a row, Nagel et al. 2019 ("Data-free quantization", eq. 11) with measured peaks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from albert_deploy.export.graph.edit import add_initializer, matrix, named_node
from albert_deploy.export.graph.uses import Use, find_uses
from albert_deploy.quantize.calibration.statistics import Statistics
from albert_deploy.runtime.errors import ContractError

Vector = npt.NDArray[np.floating[Any]]

# No channel is scaled further than this, nor where it carries nothing.
_LIMIT = 2.0**20


def smoothing_scales(activation: Vector, weight: Vector, alpha: float) -> Vector:
    """Return positive finite scales [channels] from the peaks of both sides, [channels] each.

    A channel that carries nothing on either side is left alone. Scales are powers of two, so
    that scaling a weight or a bias rounds nothing.
    """
    used = (activation > 0) & (weight > 0)
    scale = np.ones(len(activation))
    scale[used] = activation[used] ** np.float64(alpha) / weight[used] ** np.float64(1 - alpha)
    if used.any():
        # Only the ratio between channels matters.
        scale[used] /= np.exp(np.log(scale[used]).mean())
    scale = np.clip(scale, 1 / _LIMIT, _LIMIT)
    return np.exp2(np.rint(np.log2(scale))).astype(np.float32)


def equalize_value(model: ir.Model, statistics: Mapping[str, Statistics], alpha: float) -> int:
    """Move channel peaks from attention's result into its output weight; returns the pairs.

    Args:
        model: Normalized float32 graph, changed in place.
        statistics: Statistics by value name, of the attention output's input among others.
        alpha: Share of a peak that is moved, 0 to 1.
    """
    pairs = _pairs(model, "value", ATTENTION_OUTPUTS)
    for (first, second), uses in pairs.items():
        weight = matrix(model, second)
        peaks = joint_peaks([statistics[use.inputs[0]].peaks for use in uses])
        scale = smoothing_scales(peaks, np.abs(weight).max(axis=1), alpha)
        _store(model, first, matrix(model, first) / scale)
        _scale_bias(model, first, 1 / scale)
        _store(model, second, weight * scale[:, None])
    return len(pairs)


def equalize_query_key(model: ir.Model) -> int:
    """Give query and key heads equal peaks in each column; returns the pairs.

    The product of both is the same whatever is moved between them, so that weights alone say
    what to move: s_j = sqrt(max|q_j| / max|k_j|).
    """
    pairs = _pairs(model, "query", ("key",))
    for query, key in pairs:
        weights = matrix(model, query), matrix(model, key)
        peaks = [np.abs(weight).max(axis=0) for weight in weights]
        scale = smoothing_scales(peaks[0], peaks[1], 0.5)
        _store(model, query, weights[0] / scale)
        _scale_bias(model, query, 1 / scale)
        _store(model, key, weights[1] * scale)
        _scale_bias(model, key, scale)
    return len(pairs)


def equalize_inputs(
    model: ir.Model,
    statistics: Mapping[str, Statistics],
    alpha: float,
    operators: Sequence[str] | None = None,
) -> int:
    """Multiply inputs by 1 / s and weight rows by s; returns the weights that were changed.

    Args:
        model: Normalized float32 graph, changed in place.
        statistics: Statistics by value name.
        alpha: Share of a peak that is moved, 0 to 1.
        operators: Only the inputs of these (see ``Use.operator``); None for all.
    """
    chosen: defaultdict[str, list[Use]] = defaultdict(list)
    for use in find_uses(model):
        if use.weight and (operators is None or use.operator in operators):
            chosen[use.weight].append(use)
    readers: defaultdict[str, list[Use]] = defaultdict(list)
    for weight, uses in chosen.items():
        users = {node.name for node, _ in model.graph.initializers[weight].uses()}
        # What looks a tied table up, or what was not chosen, would see scaled rows.
        for use in uses if users == {p.node for p in uses} else ():
            readers[use.inputs[0]].append(use)
    nodes = {n.name: n for n in model.graph}
    count = 0
    for values in _joined(readers):
        weights = sorted({p.weight for v in values for p in readers[v] if p.weight})
        arrays = {name: matrix(model, name) for name in weights}
        rows = np.max([np.abs(a).max(axis=1) for a in arrays.values()], axis=0)
        scale = smoothing_scales(joint_peaks([statistics[v].peaks for v in values]), rows, alpha)
        if (scale == scale[0]).all():
            continue
        for name, array in arrays.items():
            _store(model, name, array * scale[:, None])
        name = _free_name(model, f"{weights[0]}_input_scale")
        for value in values:
            products = [nodes[p.node] for p in readers[value]]
            if not _fold(model, products, scale):
                _multiply(model, products, add_initializer(model, name, 1 / scale))
        count += len(weights)
    return count


def _fold(model: ir.Model, products: Sequence[ir.Node], scale: Vector) -> bool:
    """Divide by the scales in the linear layer in front, where there is one of a single use.

    ALBERT's embedding projection is in front of iteration 0. What else reads its result, the
    residual sum, multiplies it back. (A multiplication of its own in this place is merged with
    the rounding behind it by OpenVINO 2026.4, into a kernel that is 20 dB off.)
    """
    value = products[0].inputs[0]
    add = value.producer() if value is not None else None
    if value is None or add is None or add.op_type != "Add":
        return False
    linear = next((p for v in add.inputs if v and (p := v.producer()) is not None), None)
    bias = next((v for v in add.inputs if v is not None and v.is_initializer()), None)
    weight = linear.inputs[1] if linear is not None and linear.op_type == "MatMul" else None
    stored = [v for v in (weight, bias) if v is not None and v.name and len(v.uses()) == 1]
    if len(stored) != 2 or not all(v.is_initializer() for v in stored):
        return False
    for one in stored:
        _store(model, str(one.name), matrix(model, str(one.name)) / scale)
    others = [(n, i) for n, i in value.uses() if n not in products]
    if others:
        name = _free_name(model, f"{weight.name if weight else ''}_output_scale")
        back = named_node(
            "Mul", [value, add_initializer(model, name, scale)], name.replace("_scale", "_equalize")
        )
        model.graph.insert_after(add, back)
        for node, index in others:
            node.replace_input_with(index, back.outputs[0])
    return True


def _joined(readers: Mapping[str, Sequence[Use]]) -> list[list[str]]:
    """Group the values that have to share one vector of scales, as they share a weight.

    Query, key and value usually read one value, but query reads another one where the last
    iteration is computed for the first token alone.
    """
    groups: list[tuple[set[str], list[str]]] = []
    for value, uses in readers.items():
        weights = {p.weight for p in uses if p.weight}
        values = [value]
        for group in [g for g in groups if g[0] & weights]:
            weights |= group[0]
            values = group[1] + values
            groups.remove(group)
        groups.append((weights, values))
    return [values for _, values in groups]


ATTENTION_OUTPUTS = ("attention.dense", "attention.output.dense")


def joint_peaks(peaks: Sequence[Vector]) -> Vector:
    """Join the channel peaks of several uses, each against its own largest: [channels].

    Each use has a range of its own, so a channel is an outlier where it is one in some use.
    """
    tiny = float(np.finfo(np.float32).tiny)
    return np.asarray(np.max([p / max(float(p.max()), tiny) for p in peaks], axis=0), np.float32)


def _pairs(
    model: ir.Model, first: str, seconds: Collection[str]
) -> dict[tuple[str, str], list[Use]]:
    """Return the weights of two operators at one place, with the uses of the second one.

    They are in no other pair and have no other part to play: matrices of equal contents are
    stored once, so one can be several layers' or operators'.
    """
    uses = [(use, use.weight) for use in find_uses(model) if use.weight]
    firsts = {_place(use): weight for use, weight in uses if use.operator == first}
    pairs: defaultdict[tuple[str, str], list[Use]] = defaultdict(list)
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for use, weight in uses:
        parts[weight].add(use.operator)
        if use.operator in seconds and _place(use) in firsts:
            pairs[firsts[_place(use)], weight].append(use)
    members = Counter(name for pair in pairs for name in pair)
    free = [pair for pair in pairs if all(members[n] == len(parts[n]) == 1 for n in pair)]
    return {pair: pairs[pair] for pair in free}


def _place(use: Use) -> str:
    return use.label.rpartition(", ")[0]


def _store(model: ir.Model, name: str, array: Vector) -> None:
    model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)


def _scale_bias(model: ir.Model, weight: str, factor: Vector) -> None:
    """Scale what is added to the products with a weight: one bias, added at every use."""
    biases: set[str] = set()
    for node, _ in model.graph.initializers[weight].uses():
        for add, _ in node.outputs[0].uses():
            if add.op_type == "Reshape":  # keys may have no bias
                continue
            biases.update(v.name for v in add.inputs if v and v.name and v.is_initializer())
            if add.op_type != "Add":
                raise ContractError(f"{add.name} follows a product with {weight}; wanted an Add")
    for bias in biases:
        _store(model, bias, matrix(model, bias) * factor)


def _free_name(model: ir.Model, name: str) -> str:
    """Return a name that no node or initializer has: inputs may be equalized more than once."""
    taken = {*model.graph.initializers, *(node.name for node in model.graph)}
    while name in taken:
        name += "_again"
    return name


def _multiply(model: ir.Model, nodes: Sequence[ir.Node], factor: ir.Value) -> None:
    """Multiply the common input of products just before the first of them."""
    source = nodes[0].inputs[0]
    if source is None:
        raise ContractError(f"{nodes[0].name} has no input; export the checkpoint again")
    name = _free_name(model, f"{source.name}/Mul_equalize")
    node = named_node("Mul", [source, factor], name)
    model.graph.insert_before(nodes[0], node)
    for reader in nodes:
        reader.replace_input_with(0, node.outputs[0])
