"""Where an ONNX file says that its weights lie, read without the onnx package.

Engines open what a file names as external data, and not every version of every engine refuses a
path that leads out of the folder. So the names are looked at before an engine sees the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.runtime.errors import ContractError

# Message of onnx.proto -> number of a field -> message in it, as far as tensors may lie there.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_AGAIN = "do not load it; export the checkpoint again"


def external_files(path: Path) -> set[str]:
    """Return the names of the files beside an ONNX file that hold weights of it.

    Only the structure is read, not the weights.

    Raises:
        ContractError: It is no ONNX file, or a name leads out of its folder.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = set(_locations(data))
    except (OSError, ValueError, IndexError) as error:
        raise ContractError(f"{path} is no readable ONNX file ({error}); {_AGAIN}") from error
    for name in sorted(found):
        if name in ("", ".", "..") or set(name) & set("/\\:\0"):
            raise ContractError(f"{path} refers to weights outside its folder: {name!r}; {_AGAIN}")
    return found


def _locations(data: mmap.mmap) -> Iterator[str]:
    waiting = [("model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        keys, values = set(), []
        for number, body, stop in _fields(data, start, end):
            if inner := _FIELDS[message].get(number):
                waiting.append((inner, body, stop))
            elif message == "entry" and number == _KEY:
                keys.add(data[body:stop])
            elif message == "entry" and number == _VALUE:
                values.append(data[body:stop])
        # A field that is given twice counts by its last value; here each of them has to be good.
        if b"location" in keys:
            yield from (value.decode() for value in values)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Give number, start and end of each field of a message that has a length."""
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            _, start = _varint(data, start)
        elif kind in _FIXED:
            start += _FIXED[kind]
        elif kind == _BYTES:
            size, start = _varint(data, start)
            if start + size > end:
                raise ValueError("a field ends after its message")
            yield tag >> 3, start, start + size
            start += size
        else:
            raise ValueError(f"field of unknown kind {kind}")
    if start != end:
        raise ValueError("a field ends after its message")


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise ValueError("a number of more than ten bytes")
