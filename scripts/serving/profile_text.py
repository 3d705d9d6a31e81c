"""What the serving profile measured, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def serving_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables for people: the rate of each split and of each batch, and what follows."""
    lines = []
    for variant, one in found.items():
        rates = one["rows_per_s"]
        lines.append(f"{variant} in {one['engine']}, {one['length']} tokens, rows per second:")
        lines.append(_table("networks x threads", rates["splits"]))
        lines.append(_table("rows of a batch", rates["batches"]))
        batches = ", ".join(map(str, one["preferred"])) or "whatever waits"
        padded = f", padded to {', '.join(map(str, one['lengths']))}" if one["lengths"] else ""
        lines.append(
            f"  serve with {one['instances']} networks of {one['threads']} threads, batches of "
            f"{batches}{padded}"
        )
    return "\n".join(lines)


def _table(title: str, rates: Mapping[str, float]) -> str:
    cells = [(name, f"{rate:,.1f}") for name, rate in rates.items()]
    widths = [max(map(len, cell)) for cell in cells]
    rows = [
        "  ".join(cell[i].rjust(width) for cell, width in zip(cells, widths, strict=True))
        for i in range(2)
    ]
    return f"  {title:<18}  {rows[0]}\n  {'':<18}  {rows[1]}"
