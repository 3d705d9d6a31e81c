"""Where an ONNX file says that its weights lie, read without the onnx package.

Engines open what a file names as external data, and not every version of every engine refuses a
path that leads out of the folder. So the names are looked at before an engine sees the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
_REMEDY = "do not load it; export the checkpoint again"


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
        raise ContractError(f"{path} is no readable ONNX file ({error}); {_REMEDY}") from error
    for name in sorted(found):
        if name in ("", ".", "..") or set(name) & set("/\\:\0"):
            raise ContractError(f"{path} refers to weights outside its folder: {name!r}; {_REMEDY}")
    return found


def _locations(data: mmap.mmap) -> Iterator[str]:
    waiting = [("model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        keys, values = set(), []
        for field in fields(data, start, end):
            if field.kind != _BYTES:
                continue
            if inner := _FIELDS[message].get(field.number):
                waiting.append((inner, field.body, field.end))
            elif message == "entry" and field.number == _KEY:
                keys.add(data[field.body : field.end])
            elif message == "entry" and field.number == _VALUE:
                values.append(data[field.body : field.end])
        # A field that is given twice counts by its last value; here each of them has to be good.
        if b"location" in keys:
            yield from (value.decode() for value in values)


class Field(NamedTuple):
    """Where a field of a protobuf message lies: ``start`` to ``end``, its contents at ``body``.

    ``kind`` is its wire type, see https://protobuf.dev/programming-guides/encoding/.
    """

    number: int
    kind: int
    start: int
    body: int
    end: int


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Give each field of the message in bytes ``start`` to ``end``.

    Raises:
        ValueError: It is no such message.
        IndexError: Likewise.
    """
    at = start
    while at < end:
        begin = at
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind == _VARINT:
            size = _varint(data, at)[1] - at
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"unknown wire type {kind} at byte {begin}")
        if at + size > end:
            raise ValueError(f"the field at byte {begin} ends beyond its message")
        yield Field(tag >> 3, kind, begin, at, at + size)
        at += size


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError(f"number of more than 10 bytes at byte {at}")
