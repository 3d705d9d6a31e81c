"""Graph normalization: small passes that leave one plain, named, standard graph.

Each pass takes a model, changes it in place and returns how many changes it made.
``normalize`` runs all of them in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from albert_deploy.export.graph.edit import (
    add_initializer,
    register,
    remove_initializer,
    replace_node,
    sizes,
    values_of,
)
from albert_deploy.runtime.errors import ContractError


def split_gemm(model: ir.Model) -> int:
    """Write ``Gemm`` as ``MatMul`` and ``Add``, so that every linear layer has one form."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Gemm":
            continue
        a, weight, bias = node.inputs
        flags = {k: v.value for k, v in node.attributes.items()}
        if flags.get("transA", 0) or flags.get("alpha", 1.0) != 1 or flags.get("beta", 1.0) != 1:
            raise ContractError(f"{node.name} is a Gemm with transA, alpha or beta; cannot split")
        if a is None or weight is None or bias is None:
            raise ContractError(f"{node.name} is a Gemm with fewer than three inputs")
        new = []
        if flags.get("transB", 0):
            turned = ir.node("Transpose", [weight], {"perm": [1, 0]})
            new.append(turned)
            weight = turned.outputs[0]
        product = ir.node("MatMul", [a, weight])
        total = ir.node("Add", [product.outputs[0], bias])
        new += [product, total]
        for made in new:
            made.metadata_props.update(node.metadata_props)
        replace_node(model, node, new)
        count += 1
    return count


def store_transposed(model: ir.Model) -> int:
    """Store each weight the way it is multiplied and drop the ``Transpose`` in front of it.

    A weight that is also used untransposed (the tied embedding and decoder matrix) stays one
    initializer, with one ``Transpose`` node for all transposed uses.
    """
    count = 0
    for value in list(model.graph.initializers.values()):
        turns = [n for n, _ in value.uses() if _is_matrix_transpose(n)]
        if not turns:
            continue
        count += len(turns)
        if len(turns) < len(value.uses()):
            for extra in turns[1:]:
                extra.outputs[0].replace_all_uses_with(turns[0].outputs[0])
                model.graph.remove(extra, safe=True)
            continue
        name = f"{value.name}_transposed"
        stored = register(model, _transposed(value, name), name)
        for turn in turns:
            turn.outputs[0].replace_all_uses_with(stored)
            model.graph.remove(turn, safe=True)
        remove_initializer(model, value)
    return count


def merge_duplicates(model: ir.Model) -> int:
    """Merge initializers of equal type, shape and bytes, vectors of weights excepted.

    Vectors (biases, normalization weights) keep their own names: they are small, and two that
    are equal by chance are still two parameters.
    """
    before = len(model.graph.initializers)
    seen: dict[tuple[object, ...], ir.Value] = {}
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or (len(tensor.shape) == 1 and tensor.dtype.is_floating_point()):
            continue
        key = (tensor.dtype, tuple(tensor.shape), _digest(tensor))
        first = seen.setdefault(key, value)
        if first is not value:
            value.replace_all_uses_with(first)
            remove_initializer(model, value)
    return before - len(model.graph.initializers)


def _is_matrix_transpose(node: ir.Node) -> bool:
    if node.op_type != "Transpose":
        return False
    perm = node.attributes.get("perm")
    return perm is None or list(perm.as_ints()) == [1, 0]


def _transposed(value: ir.Value, name: str) -> ir.TensorProtocol:
    tensor = values_of(value)
    if len(tensor.shape) != 2:
        raise ContractError(f"{value.name} is transposed but is not a matrix")
    # Lazy, so that the copy exists only while it is hashed or written.
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(tensor.numpy().T), name=name),
        dtype=tensor.dtype,
        shape=ir.Shape(reversed(sizes(tensor))),
        name=name,
    )


def _digest(tensor: ir.TensorProtocol) -> bytes:
    return hashlib.sha256(tensor.tobytes()).digest()


Pass = Callable[[ir.Model], int]

# What may be folded: arithmetic on shapes and indices, never on weights.
_FOLD_BYTES = 1024
_FOLD_OPS = {"Cast", "Concat", "Reshape", "Squeeze", "Unsqueeze"}
_END = np.iinfo(np.int64).max


def lift_constants(model: ir.Model) -> int:
    """Turn ``Constant`` nodes into initializers."""
    count = _count(model, "Constant")
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return count - _count(model, "Constant")


def remove_aliases(model: ir.Model) -> int:
    """Remove ``Identity`` and whole-axis ``Slice`` nodes, behind which tools lose the weights.

    Raises:
        ContractError: An input or weight is passed on as an output.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "Identity" and not _is_whole_slice(node):
            continue
        source, alias = node.inputs[0], node.outputs[0]
        if source is None or (alias.is_graph_output() and source.producer() is None):
            raise ContractError(f"{node.name} passes an input or weight on as an output")
        if alias.is_graph_output():
            source.name, alias.name = alias.name, f"{alias.name}_alias"
            position = list(model.graph.outputs).index(alias)
            source.shape, source.type = alias.shape, alias.type
            model.graph.outputs[position] = source
        alias.replace_all_uses_with(source)
        model.graph.remove(node, safe=True)
        count += 1
    return count


def fold_shape_arithmetic(model: ir.Model) -> int:
    """Fold small constant subgraphs (casts and reshapes of indices); weights stay as they are."""
    before = len(model.graph)
    optimizer.fold_constants(
        model,
        should_fold=lambda node: node.op_type in _FOLD_OPS,
        onnx_shape_inference=False,
        input_size_limit=_FOLD_BYTES,
        output_size_limit=_FOLD_BYTES,
    )
    lift_constants(model)
    return before - len(model.graph)


def make_reshapes_static(model: ir.Model) -> int:
    """Write the target of a ``Reshape`` as a constant wherever the axes allow it.

    A dimension that equals the input's at the same place becomes 0 ("copy"), one other
    unknown becomes -1; so the shape arithmetic in front of it goes.
    """
    count = 0
    for node in model.graph:
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].is_initializer():
            continue
        target = _static_target(node.inputs[0], node.outputs[0])
        if target is None:
            continue
        name = "shape_" + "_".join(str(n).replace("-", "m") for n in target)
        node.replace_input_with(1, add_initializer(model, name, np.array(target, np.int64)))
        # allowzero=1 would read 0 as an empty dimension.
        node.attributes.pop("allowzero", None)
        count += 1
    remove_unused(model)
    return count


def merge_transposes(model: ir.Model) -> int:
    """Write two ``Transpose`` nodes in a row as one, as the keys of attention have them."""
    count = 0
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        first = source.producer() if source is not None and len(source.uses()) == 1 else None
        if first is None or first.op_type != "Transpose":
            continue
        inner, outer = first.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
        node.attributes["perm"] = ir.AttrInt64s("perm", [inner[i] for i in outer])
        node.replace_input_with(0, first.inputs[0])
        model.graph.remove(first, safe=True)
        count += 1
    return count


def merge_equal_nodes(model: ir.Model) -> int:
    """Compute equal subexpressions once."""
    before = len(model.graph)
    common.CommonSubexpressionEliminationPass()(model)
    return before - len(model.graph)


def remove_unused(model: ir.Model) -> int:
    """Remove nodes, initializers and opsets that no output needs."""
    before = len(model.graph) + len(model.graph.initializers)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    return before - len(model.graph) - len(model.graph.initializers)


def drop_annotations(model: ir.Model) -> int:
    """Drop inner shapes and types (they go stale) and the tracer's metadata."""
    count = 0
    ends = {*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()}
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            if value not in ends and (value.shape is not None or value.type is not None):
                value.shape = value.type = None
                count += 1
            value.metadata_props.clear()
    for value in ends:
        value.metadata_props.clear()
        value.doc_string = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = model.doc_string = None
    return count


PASSES: tuple[Pass, ...] = (
    lift_constants,
    fold_shape_arithmetic,
    remove_aliases,
    make_reshapes_static,
    split_gemm,
    store_transposed,
    merge_transposes,
    merge_duplicates,
    merge_equal_nodes,
    remove_unused,
)


def normalize(model: ir.Model) -> dict[str, int]:
    """Run every pass, in place.

    Returns:
        Number of changes of each pass, by its name.

    Raises:
        ContractError: A pass met what it should have handled and could not.
    """
    return {step.__name__: step(model) for step in PASSES}


def _count(model: ir.Model, *op_types: str) -> int:
    return sum(node.op_type in op_types for node in model.graph)


def _is_whole_slice(node: ir.Node) -> bool:
    if node.op_type != "Slice" or len(node.inputs) != 5:
        return False
    tensors = [ir.convenience.get_const_tensor(v) if v is not None else None for v in node.inputs]
    starts, ends, steps = tensors[1], tensors[2], tensors[4]
    if starts is None or ends is None or steps is None:
        return False
    return not starts.numpy().any() and (ends.numpy() == _END).all() and (steps.numpy() == 1).all()


def _static_target(source: ir.Value | None, result: ir.Value) -> list[int] | None:
    if source is None or source.shape is None or result.shape is None:
        return None
    target = []
    for i, dim in enumerate(result.shape):
        if isinstance(dim, int):
            target.append(dim)
        elif i < len(source.shape) and source.shape[i] == dim:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 and (0 in target or -1 in target) else None
