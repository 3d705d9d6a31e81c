"""Which weights a written variant converted, at how many of their uses, and why not all.

Tools that miss ALBERT's shared weights report success, so this reads the file that was
written, never the converter's own account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from albert_deploy.export.graph.edit import sizes
from albert_deploy.export.graph.uses import SUFFIXES, _readers, weight_uses
from albert_deploy.runtime.errors import ContractError


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """One weight matrix of the source graph and its fate in a variant.

    Attributes:
        weight: Its name in the float32 file.
        uses: Nodes that read it there, each iteration of a shared layer counting.
        converted: Nodes that read it in the converted type in the variant.
        dtype: Types in which the variant stores it.
        reason: Why it was meant to stay as it is; None where it was meant to be converted.
        granularity: ``per column``, ``per row``, ``per tensor``; empty without scales.
        scales: Number of its scales in the variant.
        integer_inputs: Products with it whose activation is rounded to the type as well.
        real_inputs: Labels of products whose activation was meant to stay real.
    """

    weight: str
    uses: int
    converted: int
    dtype: str
    reason: str | None
    granularity: str = ""
    scales: int = 0
    integer_inputs: int = 0
    real_inputs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``manifest.json`` holds."""
        return asdict(self)


def coverage(
    source: ir.Model,
    written: ir.Model,
    *,
    dtype: ir.DataType,
    exceptions: Mapping[str, str],
    real_uses: Mapping[str, Sequence[str]] | None = None,
) -> list[CoverageRow]:
    """Compare a written variant with the float32 graph that it was made from.

    Args:
        source: The float32 graph.
        written: The variant, as read back from its file.
        dtype: Type to which the variant converts.
        exceptions: Weight -> reason why it was meant to stay.
        real_uses: Weight -> products with it whose activation was meant to stay real.

    Returns:
        A row for each weight matrix of the source.
    """
    rows = []
    stored = written.graph.initializers
    for name, nodes in weight_uses(source).items():
        names = (name, *(name + suffix for suffix in SUFFIXES.values()))
        candidates = [stored[n] for n in names if n in stored]
        readers = [n for v in candidates if v.dtype == dtype for n in _readers(v)]
        types = sorted({str(v.dtype.name).lower() for v in candidates if v.dtype is not None})
        scale = stored.get(f"{name}_scale")
        rows.append(
            CoverageRow(
                weight=name,
                uses=len(nodes),
                converted=len(readers),
                dtype=" and ".join(types) or "absent",
                reason=exceptions.get(name),
                granularity=_granularity(source.graph.initializers[name], scale),
                scales=_size(scale),
                integer_inputs=sum(_reads_integers(n) for n in readers),
                real_inputs=tuple((real_uses or {}).get(name, ())),
            )
        )
    return rows


def check_coverage(
    rows: Iterable[CoverageRow], file: str, *, products: Mapping[str, int] | None = None
) -> None:
    """Fail when a weight that was meant to be converted is not, at each of its uses.

    Args:
        rows: Result of ``coverage``.
        file: How the error names the variant.
        products: Weight -> products with it whose activation was meant to be rounded; None
            where the scheme rounds none or all by itself.

    Raises:
        ContractError: Names the weights that fell short.
    """
    rows = list(rows)
    short = [r for r in rows if r.converted != (r.uses if r.reason is None else 0)]
    if short:
        listed = "; ".join(f"{r.weight}: {r.converted} of {r.uses} ({r.dtype})" for r in short[:6])
        raise ContractError(f"{file} does not cover every use of {len(short)} weight(s): {listed}")
    if products is not None:
        _check_products(rows, file, products)


def _check_products(rows: Sequence[CoverageRow], file: str, wanted: Mapping[str, int]) -> None:
    wrong = [r for r in rows if r.integer_inputs != wanted.get(r.weight, 0)]
    if wrong:
        listed = "; ".join(
            f"{r.weight}: {r.integer_inputs} of {wanted.get(r.weight, 0)}" for r in wrong[:6]
        )
        raise ContractError(f"{file} does not round the activation of every product: {listed}")


def summary(rows: Iterable[CoverageRow]) -> dict[str, Any]:
    """Return ``uses``, ``converted`` and ``exceptions`` over all weights."""
    rows = list(rows)
    return {
        "uses": sum(r.uses for r in rows),
        "converted": sum(r.converted for r in rows),
        "exceptions": {r.weight: r.reason for r in rows if r.reason is not None},
    }


def _granularity(weight: ir.Value, scale: ir.Value | None) -> str:
    if scale is None or weight.const_value is None:
        return ""
    rows, columns = sizes(weight.const_value)[-2:]
    known = {1: "per tensor", rows: "per row", columns: "per column"}
    return known.get(_size(scale), "in blocks")


def _size(scale: ir.Value | None) -> int:
    return 0 if scale is None or scale.const_value is None else int(scale.const_value.size)


def _reads_integers(node: ir.Node) -> bool:
    """Tell whether a product's activation was rounded, statically or at run time."""
    if node.op_type == "MatMulInteger":
        return True
    value = node.inputs[0] if node.op_type == "MatMul" else None
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in {"Reshape", "Transpose"}:
        producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"
