"""Passes on weights: every linear layer is ``MatMul`` and ``Add``, every weight stored once."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph import (
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
