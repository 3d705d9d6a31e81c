"""Each pass on a small graph made for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from albert_deploy.export.graph import passes
from albert_deploy.export.graph.edit import add_initializer
from albert_deploy.runtime.errors import ContractError

RANDOM = np.random.default_rng(0)


def _input(name: str = "x", shape: tuple[int | str, ...] = ("batch", "sequence", 4)) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def _model(
    inputs: list[ir.Value], nodes: list[ir.Node], outputs: list[ir.Value], **weights: np.ndarray
) -> ir.Model:
    graph = ir.Graph(inputs, outputs, nodes=nodes, name="test", opset_imports={"": 20})
    model = ir.Model(graph, ir_version=9)
    # In the order of the nodes: a set's order would differ from run to run.
    read = [v for n in nodes for v in n.inputs if v is not None and v.name in weights]
    for value in dict.fromkeys(read):
        tensor = ir.tensor(weights[str(value.name)], name=value.name)
        value.const_value, value.type = tensor, ir.TensorType(tensor.dtype)
        value.shape = ir.Shape(weights[str(value.name)].shape)
        graph.register_initializer(value)
    return model


def _weight(name: str) -> ir.Value:
    return ir.Value(name=name)


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_lift_constants() -> None:
    x = _input()
    constant = ir.node("Constant", [], {"value": ir.tensor(np.float32(2))})
    total = ir.node("Mul", [x, constant.outputs[0]])
    constant.outputs[0].name, total.outputs[0].name = "two", "y"
    model = _model([x], [constant, total], [total.outputs[0]])
    assert passes.lift_constants(model) == 1
    assert _ops(model) == ["Mul"]
    assert model.graph.initializers["two"].const_value is not None


def test_remove_aliases_keeps_the_name_of_an_output() -> None:
    x = _input()
    relu = ir.node("Relu", [x])
    alias = ir.node("Identity", [relu.outputs[0]])
    again = ir.node("Identity", [alias.outputs[0]])
    again.outputs[0].name = "logits"
    model = _model([x], [relu, alias, again], [again.outputs[0]])
    assert passes.remove_aliases(model) == 2
    assert _ops(model) == ["Relu"]
    assert model.graph.outputs[0].name == "logits"
    assert model.graph.outputs[0].producer() is relu


def test_remove_aliases_removes_only_whole_slices() -> None:
    x = _input()
    bounds = {
        "zero": np.array([0]),
        "end": np.array([np.iinfo(np.int64).max]),
        "two": np.array([2]),
        "axis": np.array([0]),
        "one": np.array([1]),
    }
    zero, end, two, axis, one = (_weight(name) for name in bounds)
    whole = ir.node("Slice", [x, zero, end, axis, one])
    part = ir.node("Slice", [whole.outputs[0], zero, two, axis, one])
    part.outputs[0].name = "y"
    model = _model([x], [whole, part], [part.outputs[0]], **bounds)
    assert passes.remove_aliases(model) == 1
    assert list(model.graph) == [part]
    assert part.inputs[0] is x


def test_remove_aliases_refuses_an_input_as_output() -> None:
    x = _input()
    alias = ir.node("Identity", [x])
    model = _model([x], [alias], [alias.outputs[0]])
    with pytest.raises(ContractError, match="passes an input"):
        passes.remove_aliases(model)


def test_make_reshapes_static() -> None:
    x, shape = _input(), _input("shape", (4,))
    reshape = ir.node("Reshape", [x, shape], {"allowzero": 1})
    reshape.outputs[0].shape = ir.Shape(("batch", "sequence", 2, 2))
    model = _model([x, shape], [reshape], [reshape.outputs[0]])
    assert passes.make_reshapes_static(model) == 1
    target = reshape.inputs[1]
    assert target is not None
    assert target.const_value is not None
    assert target.const_value.numpy().tolist() == [0, 0, 2, 2]
    assert "allowzero" not in reshape.attributes


def test_a_reshape_with_two_unknown_axes_is_left_alone() -> None:
    x, shape = _input(), _input("shape", (3,))
    reshape = ir.node("Reshape", [x, shape])
    reshape.outputs[0].shape = ir.Shape(("other", "another", 4))
    model = _model([x, shape], [reshape], [reshape.outputs[0]])
    assert passes.make_reshapes_static(model) == 0
    assert reshape.inputs[1] is shape


def test_split_gemm() -> None:
    x = _input(shape=("batch", 4))
    gemm = ir.node("Gemm", [x, _weight("w"), _weight("b")], {"transB": 1})
    gemm.outputs[0].name = "y"
    arrays = {"w": np.ones((3, 4), np.float32), "b": np.ones(3, np.float32)}
    model = _model([x], [gemm], [gemm.outputs[0]], **arrays)
    assert passes.split_gemm(model) == 1
    assert _ops(model) == ["Transpose", "MatMul", "Add"]
    assert [o.name for o in model.graph.outputs] == ["y"]


def test_split_gemm_refuses_what_it_cannot_write() -> None:
    x = _input(shape=("batch", 4))
    gemm = ir.node("Gemm", [x, _weight("w"), _weight("b")], {"alpha": 0.5})
    arrays = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(ContractError, match="alpha"):
        passes.split_gemm(_model([x], [gemm], [gemm.outputs[0]], **arrays))


def test_store_transposed_keeps_one_copy_for_many_uses() -> None:
    x, w = _input(), _weight("w")
    array = RANDOM.normal(size=(4, 4)).astype(np.float32)
    turns = [ir.node("Transpose", [w], {"perm": [1, 0]}) for _ in range(3)]
    value, nodes = x, []
    for turn in turns:
        nodes += [turn, ir.node("MatMul", [value, turn.outputs[0]])]
        value = nodes[-1].outputs[0]
    model = _model([x], nodes, [value], w=array)
    assert passes.store_transposed(model) == 3
    assert list(model.graph.initializers) == ["w_transposed"]
    stored = model.graph.initializers["w_transposed"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), array.T)
    assert _ops(model) == ["MatMul"] * 3


def test_store_transposed_leaves_a_tied_matrix_whole() -> None:
    x, w = _input(), _weight("w")
    ids = ir.Value(name="ids", shape=ir.Shape(("batch",)), type=ir.TensorType(ir.DataType.INT64))
    rows = ir.node("Gather", [w, ids])
    turns = [ir.node("Transpose", [w], {"perm": [1, 0]}) for _ in range(2)]
    products = [ir.node("MatMul", [x, t.outputs[0]]) for t in turns]
    outputs = [n.outputs[0] for n in (rows, *products)]
    model = _model([x, ids], [rows, *turns, *products], outputs, w=np.ones((5, 4), np.float32))
    passes.store_transposed(model)
    assert list(model.graph.initializers) == ["w"]
    assert sorted(_ops(model)) == ["Gather", "MatMul", "MatMul", "Transpose"]


def test_merge_transposes() -> None:
    x = _input(shape=("batch", "sequence", 2, 2))
    first = ir.node("Transpose", [x], {"perm": [0, 2, 1, 3]})
    second = ir.node("Transpose", [first.outputs[0]], {"perm": [0, 1, 3, 2]})
    model = _model([x], [first, second], [second.outputs[0]])
    assert passes.merge_transposes(model) == 1
    assert list(second.attributes["perm"].as_ints()) == [0, 2, 3, 1]
    assert second.inputs[0] is x


def test_merge_duplicates_merges_matrices_and_spares_vectors() -> None:
    x = _input()
    matrix, vector = np.ones((4, 4), np.float32), np.ones(4, np.float32)
    names = {"a": matrix, "b": matrix.copy(), "c": vector, "d": vector.copy()}
    nodes = []
    value = x
    for name in names:
        nodes.append(ir.node("MatMul" if name in "ab" else "Mul", [value, _weight(name)]))
        value = nodes[-1].outputs[0]
    model = _model([x], nodes, [value], **names)
    assert passes.merge_duplicates(model) == 1
    assert sorted(model.graph.initializers) == ["a", "c", "d"]
    assert nodes[1].inputs[1] is nodes[0].inputs[1]


def test_merge_equal_nodes_and_remove_unused() -> None:
    x = _input()
    same = [ir.node("Relu", [x]) for _ in range(2)]
    total = ir.node("Add", [same[0].outputs[0], same[1].outputs[0]])
    dead = ir.node("Exp", [x])
    model = _model([x], [*same, total, dead], [total.outputs[0]])
    add_initializer(model, "unused", np.ones(2, np.float32))
    assert passes.merge_equal_nodes(model) == 1
    assert passes.remove_unused(model) == 2
    assert _ops(model) == ["Relu", "Add"]
    assert not model.graph.initializers


def test_drop_annotations_keeps_the_ends() -> None:
    x = _input()
    first = ir.node("Relu", [x])
    first.metadata_props["scope"] = "model"
    first.outputs[0].shape = ir.Shape((9, 9))
    second = ir.node("Exp", [first.outputs[0]])
    second.outputs[0].shape = ir.Shape(("batch", 4))
    model = _model([x], [first, second], [second.outputs[0]])
    assert passes.drop_annotations(model) == 1
    assert first.outputs[0].shape is None
    assert not first.metadata_props
    assert model.graph.outputs[0].shape is not None
