"""Mixed half precision: float16 or bfloat16 weights and products between float32 regions.

Every ``Cast`` is written out, so each operator has inputs of one type, as strongly typed
engines demand. A matrix is stored once: where a product of it has to compute in float32, it
reads the stored half-precision matrix through a ``Cast``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx_ir as ir

from albert_deploy.export.graph.edit import add_initializer, named_node, values_of
from albert_deploy.export.graph.naming import label_of
from albert_deploy.export.graph.uses import SUFFIXES
from albert_deploy.quantize.schemes.fp32_regions import (
    HalfConfig,
    float32_regions,
    float32_weights,
    is_matrix_reader,
)

# Node -> reason, for those that real texts or weights kept in float32; JSON in the file.
KEPT_KEY = "kept_float32"


def watched(model: ir.Model, config: HalfConfig) -> dict[str, str]:
    """Map each value that half precision has to hold to a name for people, for calibration.

    The keys are the values whose largest magnitudes ``to_half`` takes as ``ranges``.
    """
    floats, wide = _float_values(model), float32_regions(model, config)
    names: dict[str, str] = {}
    for node in model.graph:
        if node in wide:
            continue
        for value in (*node.inputs, *node.outputs):
            producer = value.producer() if value is not None else None
            if value in floats and producer is not None and value is not None and value.name:
                names[value.name] = label_of(producer.name or value.name)
    return names


def to_half(model: ir.Model, config: HalfConfig, ranges: Mapping[str, float] | None = None) -> int:
    """Convert a normalized float32 graph in place; inputs and outputs keep their types.

    Args:
        model: Normalized graph.
        config: Options.
        ranges: Value name -> largest magnitude on real texts; an operator with a value that
            comes near the end of the type stays float32.

    Returns:
        Number of nodes that now compute in half precision.
    """
    floats, wide = _float_values(model), float32_regions(model, config, ranges)
    usual = float32_regions(model, config) if ranges else wide
    writer = _Writer(model, config, set(float32_weights(model, config)))
    count = 0
    for node in list(model.graph):
        if not any(v in floats for v in (*node.inputs, *node.outputs)):
            continue
        for i, value in enumerate(node.inputs):
            if value is not None and value in floats:
                node.replace_input_with(i, writer.read(node, value, half=node not in wide))
        if node not in wide:
            writer.half.update(v for v in node.outputs if v in floats)
            count += 1
    for value in list(model.graph.outputs):
        if value in writer.half:
            writer.cast_output(value)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
    kept = {str(n.name): reason for n, reason in wide.items() if n not in usual}
    if kept:
        model.metadata_props[KEPT_KEY] = json.dumps(kept, sort_keys=True)
    return count


class _Writer:
    """Gives each node its inputs in one type, with one ``Cast`` or stored copy for each value."""

    def __init__(self, model: ir.Model, config: HalfConfig, single: set[str]) -> None:
        self._model, self._single = model, single
        self._numpy = config.numpy_dtype()
        self._dtype = ir.DataType.from_numpy(self._numpy)
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.half: set[ir.Value] = set()

    def read(self, node: ir.Node, value: ir.Value, *, half: bool) -> ir.Value:
        """Return ``value`` as ``node`` reads it."""
        if value.is_initializer() and (half or self._shared(node, value)):
            value = self._stored(value)
        if (value in self.half) == half:
            return value
        dtype = self._dtype if half else ir.DataType.FLOAT
        if (value, dtype) not in self._made:
            cast = named_node("Cast", [value], f"{value.name}/Cast_{_word(dtype)}", to=int(dtype))
            self._model.graph.insert_before(node, cast)
            self._made[value, dtype] = cast.outputs[0]
            if half:
                self.half.add(cast.outputs[0])
        return self._made[value, dtype]

    def _shared(self, node: ir.Node, value: ir.Value) -> bool:
        """Tell whether a float32 node reads the half-precision copy, to store a matrix once."""
        return is_matrix_reader(node, value) and value.name not in self._single

    def _stored(self, value: ir.Value) -> ir.Value:
        if value in self.half:
            return value
        array = values_of(value).numpy().astype(self._numpy)
        stored = add_initializer(self._model, f"{value.name}{SUFFIXES[self._dtype]}", array)
        self.half.add(stored)
        return stored

    def cast_output(self, value: ir.Value) -> None:
        """Give a graph output of half precision its float32 type back."""
        outputs = self._model.graph.outputs
        name, shape, kind = value.name, value.shape, value.type
        value.name, value.shape, value.type = f"{name}{SUFFIXES[self._dtype]}", None, None
        cast = named_node("Cast", [value], f"{name}/Cast_float", to=int(ir.DataType.FLOAT))
        result = cast.outputs[0]
        result.name, result.shape, result.type = name, shape, kind
        producer = value.producer()
        if producer is not None:
            self._model.graph.insert_after(producer, cast)
        outputs[list(outputs).index(value)] = result


def _float_values(model: ir.Model) -> set[ir.Value | None]:
    """Return the values that hold float32 in the source graph."""
    floats: set[ir.Value | None] = {
        v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT
    }
    for node in model.graph:
        if node.op_type == "Cast":
            if node.attributes["to"].as_int() == ir.DataType.FLOAT:
                floats.update(node.outputs)
        elif node.op_type != "Shape" and any(v in floats for v in node.inputs if v is not None):
            floats.update(node.outputs)
    return floats


def _word(dtype: ir.DataType) -> str:
    return str(dtype.name).lower()
