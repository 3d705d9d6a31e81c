"""Lines of a file or a pipe to inputs of a model: plain texts, or JSON, told by the lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from albert_deploy.runtime.errors import InputError

AUTO, TEXT, JSON = "auto", "text", "json"
FORMS = (AUTO, TEXT, JSON)
# A line is held in memory whole, and a text of this size is far beyond any model.
MOST_BYTES = 16 << 20


def read_lines(file: IO[bytes], form: str = AUTO) -> Iterator[Any]:
    """Read one input from each line, as it is asked for.

    Where the form is ``auto``, a line that begins with ``{`` is JSON; where the first line is
    JSON, an object or a string in quotes, all are.

    Args:
        file: Open for reading bytes.
        form: One of ``FORMS``.

    Yields:
        A text or an object for each line, empty ones included, or the ``InputError`` of a line
        that is too long, no UTF-8, or malformed.
    """
    number, strict = 0, form == JSON
    while line := file.readline(MOST_BYTES + 1):
        number += 1
        if len(line) > MOST_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(MOST_BYTES)
            yield InputError(f"line {number} has more than {MOST_BYTES:,} bytes; cut it")
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield InputError(
                f"line {number} is no UTF-8: byte {error.start + 1} is "
                f"0x{line[error.start]:02x}; convert the input to UTF-8"
            )
            continue
        if number == 1 and form == AUTO:
            strict = _is_json(text)
        if strict or (form == AUTO and text.lstrip().startswith("{")):
            yield parsed(text, row=f"line {number}")
        else:
            yield text


def parsed(text: str, *, row: str) -> Any:
    """Parse the JSON of one input; an error is returned, not raised.

    Args:
        text: An object, or a string in quotes.
        row: How an error names it.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return InputError(
            f"{row} is malformed JSON: {error}; write one object or string in a line, or read "
            f"every line as text with --lines {TEXT}"
        )


def _is_json(line: str) -> bool:
    """Tell whether the first line says that all are JSON."""
    line = line.strip()
    if not line.startswith('"'):
        return line.startswith("{")
    try:
        return isinstance(json.loads(line), str)
    except ValueError:
        return False
