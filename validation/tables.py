"""Tables in GitHub's Markdown, which read well in a terminal too."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(
    rows: Sequence[Sequence[object]], headers: Sequence[str], align: Sequence[str] = ()
) -> str:
    """Return a table with padded columns.

    Args:
        rows: Cells, written by ``str``; they hold no line break and no ``|``.
        headers: A name for each column.
        align: ``left`` or ``right`` for each column; by default all are set left.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    heads = list(map(str, headers))
    columns = zip(heads, *cells, strict=True)
    widths = [max([len(head) + 2, *map(len, column)]) for head, *column in columns]
    sides = list(align) or ["left"] * len(heads)
    pad = [str.rjust if side == "right" else str.ljust for side in sides]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(p(c, w) for p, c, w in zip(pad, row, widths, strict=True)) + " |"

    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([line(heads), f"|{rule}|", *map(line, cells)])
