"""Which weights a written variant converted, at how many of their uses, and why not all.

Tools that miss ALBERT's shared weights report success, so this reads the file that was
written, never the converter's own account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from albert_deploy.runtime.errors import ContractError

# Operators that read a weight matrix, in plain or converted form.
_READERS = {"MatMul", "MatMulInteger", "Gather", "Gemm"}
# What a converter appends to the name of a weight that it stores in another type.
SUFFIXES: dict[ir.DataType, str] = {
    ir.DataType.INT8: "_int8",
    ir.DataType.FLOAT16: "_fp16",
    ir.DataType.BFLOAT16: "_bf16",
}


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """One weight matrix of the source graph and its fate in a variant.

    Attributes:
        weight: Its name in the float32 file.
        uses: Nodes that read it there, each iteration of a shared layer counting.
        converted: Nodes that read it in the converted type in the variant.
        dtype: Types in which the variant stores it.
        reason: Why it was meant to stay as it is; None where it was meant to be converted.
    """

    weight: str
    uses: int
    converted: int
    dtype: str
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``manifest.json`` holds."""
        return asdict(self)


def weight_uses(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Map each floating point matrix of a float32 graph to the nodes that read it."""
    return {
        name: _readers(value)
        for name, value in model.graph.initializers.items()
        if _is_matrix(value)
    }


def coverage(
    source: ir.Model, written: ir.Model, *, dtype: ir.DataType, exceptions: Mapping[str, str]
) -> list[CoverageRow]:
    """Compare a written variant with the float32 graph that it was made from.

    Args:
        source: The float32 graph.
        written: The variant, as read back from its file.
        dtype: Type to which the variant converts.
        exceptions: Weight -> reason why it was meant to stay.

    Returns:
        A row for each weight matrix of the source.
    """
    rows = []
    stored = written.graph.initializers
    for name, nodes in weight_uses(source).items():
        candidates = [stored[n] for n in (name, name + SUFFIXES[dtype]) if n in stored]
        converted = sum(len(_readers(v)) for v in candidates if v.dtype == dtype)
        types = sorted({str(v.dtype.name).lower() for v in candidates if v.dtype is not None})
        rows.append(
            CoverageRow(
                weight=name,
                uses=len(nodes),
                converted=converted,
                dtype=" and ".join(types) or "absent",
                reason=exceptions.get(name),
            )
        )
    return rows


def check_coverage(rows: Iterable[CoverageRow], file: str) -> None:
    """Fail when a weight that was meant to be converted is not, at each of its uses.

    Raises:
        ContractError: Names the weights that fell short.
    """
    short = [r for r in rows if r.converted != (r.uses if r.reason is None else 0)]
    if short:
        listed = "; ".join(f"{r.weight}: {r.converted} of {r.uses} ({r.dtype})" for r in short[:6])
        raise ContractError(f"{file} does not cover every use of {len(short)} weight(s): {listed}")


def summary(rows: Iterable[CoverageRow]) -> dict[str, Any]:
    """Return ``uses``, ``converted`` and ``exceptions`` over all weights."""
    rows = list(rows)
    return {
        "uses": sum(r.uses for r in rows),
        "converted": sum(r.converted for r in rows),
        "exceptions": {r.weight: r.reason for r in rows if r.reason is not None},
    }


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and len(tensor.shape) >= 2 and tensor.dtype.is_floating_point()


def _readers(value: ir.Value) -> list[ir.Node]:
    found = []
    for node, _ in value.uses():
        # A float32 product reads the one half-precision copy of its weight through a Cast.
        if node.op_type in {"Transpose", "Cast"}:
            found += _readers(node.outputs[0])
        elif node.op_type in _READERS:
            found.append(node)
    return found
