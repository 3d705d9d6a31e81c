"""The float32 regions of a half-precision graph: which operators stay in float32, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from albert_deploy.export.graph.edit import sizes, values_of
from albert_deploy.export.graph.uses import weight_uses

FLOAT16, BFLOAT16 = "float16", "bfloat16"
_LARGEST = {FLOAT16: 65504.0, BFLOAT16: 3.3895313892515355e38}
# Operators that take the type of the island behind them: they add to, scale or cut its input.
_JOINING = {"Add", "Mul", "Div", "Where", "Slice"}
# Rounding noise, as a share of an input channel's weights, that float16's normal numbers stay
# a factor of 20 below; above it the channel's weights lie among the denormals.
_ROUNDING = 1e-2


@dataclass(frozen=True, kw_only=True)
class HalfConfig:
    """Half precision with float32 regions.

    Args:
        dtype: ``float16`` or ``bfloat16``.
        keep_float32: Operator types that compute in float32, with the sums in front of them.
        min_columns: A matrix outside the encoder with fewer output columns stays float32: its
            products are the answer itself, and bfloat16's 8 bits would be all that is left of
            it (measured on train rows: 52 dB, against 62 dB where the encoder alone rounds).
        margin: An operator stays float32 where its values on real texts come within this
            factor of the type's largest number.
    """

    dtype: str = FLOAT16
    keep_float32: tuple[str, ...] = ("LayerNormalization", "Softmax")
    min_columns: int = 1
    margin: float = 4.0

    def __post_init__(self) -> None:
        if self.dtype not in _LARGEST:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of {', '.join(_LARGEST)}")
        if self.min_columns < 1:
            raise ValueError(f"min_columns is {self.min_columns}; it must be at least 1")
        if not self.margin >= 1:
            raise ValueError(f"margin is {self.margin}; it must be at least 1")

    @property
    def limit(self) -> float:
        """Largest magnitude that an activation may have on calibration texts."""
        return _LARGEST[self.dtype] / self.margin

    def numpy_dtype(self) -> np.dtype[np.generic]:
        """Return the type in which weights are stored."""
        import ml_dtypes

        return np.dtype(np.float16 if self.dtype == FLOAT16 else ml_dtypes.bfloat16)


def float32_weights(model: ir.Model, config: HalfConfig) -> dict[str, str]:
    """Return the matrices that stay stored as float32, each with its reason."""
    reasons = {}
    for name, nodes in weight_uses(model).items():
        value = model.graph.initializers[name]
        tensor = values_of(value)
        columns = sizes(tensor)[-1]
        multiplied = all(n.op_type == "MatMul" and n.inputs[1] is value for n in nodes)
        if multiplied and columns < config.min_columns and ".encoder." not in f".{name}":
            reasons[name] = f"output layer of {columns} columns outside the encoder"
        elif reason := _unstorable(tensor.numpy(), config, multiplied=multiplied):
            reasons[name] = reason
    return reasons


def float32_regions(
    model: ir.Model, config: HalfConfig, ranges: Mapping[str, float] | None = None
) -> dict[ir.Node, str]:
    """Return the nodes that compute in float32, each with its reason.

    Args:
        model: Normalized float32 graph.
        config: Options.
        ranges: Value name -> largest magnitude seen on real texts; values that it does not
            name are taken to fit.
    """
    found: dict[ir.Node, str] = {}
    for node in model.graph:
        if node.op_type in config.keep_float32:
            _join(node, f"{node.op_type} computes in float32", found)
    _weightless(model, found)
    weights = float32_weights(model, config)
    for name, reason in weights.items():
        for node in _readers(model.graph.initializers[name]):
            found.setdefault(node, f"{name}: {reason}")
    for node in model.graph:
        if node not in found and (beyond := _beyond(node, config, ranges or {})):
            found[node] = beyond
    _bridge(model, found)
    return found


def is_matrix_reader(node: ir.Node, value: ir.Value) -> bool:
    """Tell whether a node multiplies by, looks up or turns a stored matrix."""
    tensor = value.const_value
    return (
        value.is_initializer()
        and tensor is not None
        and len(tensor.shape) >= 2
        and node.op_type in {"MatMul", "Gather", "Gemm", "Transpose"}
    )


def _join(node: ir.Node, reason: str, found: dict[ir.Node, str]) -> None:
    """Add a node and the sums and scalings in front of it, up to the products they come from."""
    found.setdefault(node, reason)
    # Of a normalization, a softmax or an activation function the first input alone is data.
    pending = list(node.inputs[:1])
    while pending:
        value = pending.pop()
        producer = value.producer() if value is not None else None
        if producer is None or producer in found or producer.op_type not in _JOINING:
            continue
        found[producer] = f"in front of a {node.op_type}"
        pending += producer.inputs


def _weightless(model: ir.Model, found: dict[ir.Node, str]) -> None:
    weighted: set[ir.Value] = set()
    for node in model.graph:
        if any(v is not None and (v in weighted or _is_weight(v)) for v in node.inputs):
            weighted.update(node.outputs)
        else:
            found.setdefault(node, "depends on no weight")


def _beyond(node: ir.Node, config: HalfConfig, ranges: Mapping[str, float]) -> str | None:
    """Return why a node's values do not fit the type; None where they do."""
    for value in (*node.inputs, *node.outputs):
        if value is None or value.name is None:
            continue
        if _is_weight(value) and not is_matrix_reader(node, value):
            if reason := _unstorable(values_of(value).numpy(), config, multiplied=False):
                return f"{value.name}: {reason}"
        # What a lookup gives is stored: its table has been judged already.
        elif node.op_type != "Gather" or not is_matrix_reader(node, _first(node)):
            peak = ranges.get(value.name, 0.0)
            if not peak <= config.limit:
                return (
                    f"{value.name} reaches {peak:.4g} on real texts, more than {config.dtype} "
                    f"holds with a margin of {config.margin:g}"
                )
    return None


def _bridge(model: ir.Model, found: dict[ir.Node, str]) -> None:
    """Add what lies between regions, so that no value is rounded on its way across."""
    between: set[ir.Node] = set()
    for node in model.graph:
        producers = [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
        passes = node not in found and node.op_type != "MatMul" and bool(producers)
        if passes and all(p in found or p in between for p in producers):
            between.add(node)
    for node in reversed(list(model.graph)):
        readers = [user for value in node.outputs for user, _ in value.uses()]
        if node in between and not all(r in found for r in readers):
            between.discard(node)
        elif node in between:
            found[node] = "between operators in float32"


def _unstorable(
    array: npt.NDArray[np.generic], config: HalfConfig, *, multiplied: bool
) -> str | None:
    """Return why the type cannot store a weight; None where it can."""
    values = array.astype(np.float32)
    peak = float(np.abs(values).max(initial=0.0))
    if peak > _LARGEST[config.dtype]:
        return f"reaches {peak:.4g}, {config.dtype} ends at {_LARGEST[config.dtype]:.4g}"
    if not multiplied or config.dtype != FLOAT16:
        return None
    # By input channel: one of tiny weights has large activations, or it would not be there.
    noise = np.square(values - values.astype(np.float16).astype(np.float32)).sum(axis=-1)
    signal = np.square(values).sum(axis=-1)
    lost = int(np.count_nonzero(noise > _ROUNDING**2 * signal))
    return f"{lost} input channels have weights too small for float16" if lost else None


def _readers(value: ir.Value) -> list[ir.Node]:
    found = []
    for node, _ in value.uses():
        found.append(node)
        if node.op_type == "Transpose":
            found += _readers(node.outputs[0])
    return found


def _is_weight(value: ir.Value) -> bool:
    return (
        value.is_initializer()
        and value.shape is not None
        and len(value.shape) > 0
        and value.dtype == ir.DataType.FLOAT
    )


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise ValueError(f"{node.name} has no first input")
    return value
