"""Known faults, planted into a copy of an artifact's graph, for the self-test of the gate.

Each is a mistake that tools and people made with such models. It is planted in the ONNX graph,
whatever its precision, so that the gate meets it as it would meet the mistake itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph.edit import add_initializer, named_node, values_of
from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.errors import ContractError

_ITERATION = re.compile(r"^encoder/iteration_(\d+)/")
# The layer's last product, whose bias and weight the faults change.
_OPERATORS = ("ffn_output", "output/dense")
# By how much a weight's scale is off.
GAIN = 1.02


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One mistake.

    Args:
        name: For people, and the key of ``FAULTS``.
        plant: Changes a variant's graph in place; returns what it changed, for people, or None
            where the model has nothing to change, such as one class alone to swap.
    """

    name: str
    plant: Callable[[ir.Model], str | None]


def swap_labels(model: ir.Model) -> str | None:
    """Exchange the first two classes of an output; of two outputs of one kind, the outputs."""
    outputs = model.graph.outputs
    if len(outputs) > 1 and outputs[0].shape == outputs[1].shape:
        first, second = outputs[0], outputs[1]
        names = first.name, second.name
        first.name, second.name = "swapped", names[0]
        first.name = names[1]
        outputs[0], outputs[1] = second, first
        return f"{names[0]} and {names[1]}"
    value = outputs[-1]
    classes = value.shape[-1] if value.shape is not None else None
    if classes == 1:
        return None
    last = add_initializer(model, "fault_last", np.array([-1], np.int64))
    # Backwards where the number of classes is only known at run time, as that of choices is.
    if isinstance(classes, int):
        order = np.arange(classes)
        order[:2] = 1, 0
        places = add_initializer(model, "fault_order", order)
        node = named_node("Gather", [value, places], "fault/Gather", axis=-1)
    else:
        ends = {"fault_end": -1, "fault_start": np.iinfo(np.int64).min, "fault_step": -1}
        read = [add_initializer(model, n, np.array([v], np.int64)) for n, v in ends.items()]
        node = named_node("Slice", [value, read[0], read[1], last, read[2]], "fault/Slice")
    name = value.name
    _behind(model, len(outputs) - 1, node)
    return f"classes of {name}"


def zero_bias(model: ir.Model) -> str | None:
    """Zero the bias of the layer's last product at the middle iteration alone."""
    adds = _uses(model, "Add")
    node = adds[len(adds) // 2]
    place, bias = next((i, v) for i, v in enumerate(node.inputs) if v is not None and _stored(v))
    zeros = np.zeros_like(values_of(bias).numpy())
    node.replace_input_with(place, add_initializer(model, "fault_bias", zeros))
    return f"{node.name}"


def scale_weight(model: ir.Model) -> str | None:
    """Multiply the scales of a weight, or a weight without scales, by 1.02."""
    names = [n for n in model.graph.initializers if re.search(r"ffn_output|output\.dense", n)]
    scales = [n for n in names if n.endswith("_scale") and "input_scale" not in n]
    plain = [n for n in names if n.removesuffix("_fp16").removesuffix("_bf16").endswith("sposed")]
    found = [n for n in (scales or plain) if "attention" not in n]
    if not found:
        raise ContractError(f"no weight of {', '.join(_OPERATORS)} to scale; export again")
    value = model.graph.initializers[found[0]]
    array = values_of(value).numpy()
    scaled = (array.astype(np.float64) * GAIN).astype(array.dtype)
    value.const_value = ir.tensor(scaled, name=value.name)
    return f"{found[0]} x {GAIN}"


def sort_mask(model: ir.Model) -> str | None:
    """Take every mask for one of padding on the right, as long as it hides."""
    mask = _input(model, INPUT_NAMES[1])
    nodes, places = _places(model, mask)
    last = add_initializer(model, "fault_last", np.array([-1], np.int64))
    count = named_node("ReduceSum", [mask, last], "fault/ReduceSum")
    first = named_node("LessOrEqual", [places, count.outputs[0]], "fault/LessOrEqual")
    kind = named_node("Cast", [first.outputs[0]], "fault/Cast", to=int(ir.DataType.INT64))
    _before(model, mask, [*nodes, count, first, kind], kind.outputs[0])
    return "attention_mask, sorted"


def lose_mask(model: ir.Model) -> str | None:
    """Take all tokens of the second half for real ones."""
    mask = _input(model, INPUT_NAMES[1])
    nodes, places = _places(model, mask)
    last = add_initializer(model, "fault_last", np.array([-1], np.int64))
    two = add_initializer(model, "fault_two", np.array(2, np.int64))
    length = named_node("ReduceMax", [places, last], "fault/ReduceMax")
    twice = named_node("Mul", [places, two], "fault/Mul")
    second = named_node("Greater", [twice.outputs[0], length.outputs[0]], "fault/Greater")
    ones = nodes[1].outputs[0]
    seen = named_node("Where", [second.outputs[0], ones, mask], "fault/Where")
    _before(model, mask, [*nodes, length, twice, second, seen], seen.outputs[0])
    return "attention_mask, second half"


def ignore_types(model: ir.Model) -> str | None:
    """Read every token type as 0; None for a model of one type."""
    types = _input(model, INPUT_NAMES[2])
    zeros = named_node("Sub", [types, types], "fault/Sub_types")
    if _table_rows(model) == 1:
        return None
    _before(model, types, [zeros], zeros.outputs[0])
    return "token_type_ids"


def make_nan(model: ir.Model) -> str | None:
    """Add NaN to the last output."""
    value = model.graph.outputs[-1]
    name = value.name
    nan = add_initializer(model, "fault_nan", np.array(np.nan, np.float32))
    _behind(model, len(model.graph.outputs) - 1, named_node("Add", [value, nan], "fault/Add_nan"))
    return f"{name}"


FAULTS: tuple[Fault, ...] = (
    Fault(name="swapped label", plant=swap_labels),
    Fault(name="one iteration's bias zeroed", plant=zero_bias),
    Fault(name="weight scale off by 2%", plant=scale_weight),
    Fault(name="left padding taken for right", plant=sort_mask),
    Fault(name="token types ignored", plant=ignore_types),
    Fault(name="half of the mask lost", plant=lose_mask),
    Fault(name="NaN output", plant=make_nan),
)


def _uses(model: ir.Model, op_type: str) -> list[ir.Node]:
    """Return the nodes of the layer's last product that read a bias, one per iteration."""
    found = [
        node
        for node in model.graph
        if node.op_type == op_type
        and _ITERATION.match(node.name or "")
        and any((node.name or "").endswith(f"/{o}/{op_type}") for o in _OPERATORS)
        and "/attention/" not in (node.name or "")
    ]
    if not found:
        raise ContractError(f"no iteration has {', '.join(_OPERATORS)}; export the model again")
    return found


def _places(model: ir.Model, mask: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """Return nodes that number the tokens of a mask from 1 on, the ones among them, and it."""
    axis = add_initializer(model, "fault_axis", np.array(-1, np.int64))
    one = add_initializer(model, "fault_one", np.array(1, np.int64))
    zeros = named_node("Sub", [mask, mask], "fault/Sub")
    ones = named_node("Add", [zeros.outputs[0], one], "fault/Add")
    places = named_node("CumSum", [ones.outputs[0], axis], "fault/CumSum")
    return [zeros, ones, places], places.outputs[0]


def _table_rows(model: ir.Model) -> int:
    name = next((n for n in model.graph.initializers if "token_type_embeddings.weight" in n), None)
    return 2 if name is None else int(values_of(model.graph.initializers[name]).shape.numpy()[0])


def _stored(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None


def _input(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.inputs if value.name == name)


def _before(model: ir.Model, value: ir.Value, nodes: list[ir.Node], result: ir.Value) -> None:
    """Let all readers of an input read what the nodes make of it."""
    readers = list(value.uses())
    mine = set(nodes)
    model.graph.insert_before(model.graph[0], nodes)
    for node, index in readers:
        if node not in mine:
            node.replace_input_with(index, result)


def _behind(model: ir.Model, place: int, node: ir.Node) -> None:
    """Put a node behind an output; it takes over the output's name, type and shape."""
    value = model.graph.outputs[place]
    result, name = node.outputs[0], value.name
    result.shape, result.type = value.shape, value.type
    value.name, result.name = f"{name}_before_fault", name
    model.graph.append(node)
    model.graph.outputs[place] = result
