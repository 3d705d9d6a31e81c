"""Write and read ONNX files: atomically, one weight at a time, nothing outside the folder.

An ONNX file is a protobuf message. Weights are written straight to it in wire format
(https://protobuf.dev/programming-guides/encoding/), so that the file never exists twice in
memory, which ``SerializeToString`` would need.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from albert_deploy.export.graph.edit import sizes
from albert_deploy.runtime.engines.external_data import fields
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import external_data, writing

# Protobuf refuses messages of 2 GiB; beyond this the weights go to a second file.
EXTERNAL_BYTES = 2**31 - 2**24
# Field numbers of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_ALIGN = 4096
# Shape inference reads small tensors, and only where they are inside the file.
_INLINE_BYTES = 1024


def save(model: ir.Model, path: Path, *, external_bytes: int = EXTERNAL_BYTES) -> tuple[Path, ...]:
    """Write a model, deterministically and atomically.

    Args:
        model: Model to write; it is not changed.
        path: Target, such as ``onnx/model.onnx``.
        external_bytes: Above this many bytes of weights they go to ``<path>_data``.

    Returns:
        The files written.
    """
    tensors = [
        v.const_value for v in model.graph.initializers.values() if v.const_value is not None
    ]
    if sum(t.nbytes for t in tensors) > external_bytes:
        return _save_external(model, tensors, path)
    skeleton, graph = _skeleton(model)
    prefixes = [_tensor_prefix(t) for t in tensors]
    weights = sum(len(p) + t.nbytes for p, t in zip(prefixes, tensors, strict=True))
    with writing(path) as file:
        file.write(skeleton + _tag(_GRAPH, len(graph) + weights) + graph)
        for prefix, tensor in zip(prefixes, tensors, strict=True):
            file.write(prefix)
            _write_bytes(file, tensor)
    return (path,)


def load(path: Path) -> ir.Model:
    """Read a model; its weights are mapped, not read, until someone looks at them.

    Raises:
        InputError: Not a readable ONNX file.
        ContractError: External data outside the model's folder.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            proto = onnx.ModelProto.FromString(_without_weights(data, path.name))
    except (OSError, ValueError, IndexError, DecodeError) as error:
        raise InputError(f"{path} is not a readable ONNX file: {error}; export it again") from error
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and Path(entry.value).name != entry.value:
                raise ContractError(
                    f"{path} refers to weights outside its folder: {entry.value}; do not load it"
                )
    model: ir.Model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def external_data_path(path: Path) -> Path:
    """Return the path of a model's external data file, whether it exists or not."""
    return path.with_name(external_data(path.name))


def total_bytes(path: Path) -> int:
    """Return the size of a model with its external data."""
    data = external_data_path(path)
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _save_external(
    model: ir.Model, tensors: list[ir.TensorProtocol], path: Path
) -> tuple[Path, ...]:
    data = external_data_path(path)
    skeleton, graph = _skeleton(model)
    entries = []
    with writing(data) as file:
        for tensor in tensors:
            if tensor.nbytes <= _INLINE_BYTES:
                entries.append(_tensor_prefix(tensor) + tensor.tobytes())
                continue
            # Page-aligned, so that engines can map it.
            file.write(b"\0" * (-file.tell() % _ALIGN))
            proto = onnx.TensorProto()
            proto.ParseFromString(_tensor_head(tensor))
            proto.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                ("location", data.name),
                ("offset", file.tell()),
                ("length", tensor.nbytes),
            ):
                proto.external_data.add(key=key, value=str(value))
            body = proto.SerializeToString(deterministic=True)
            entries.append(_tag(_INITIALIZER, len(body)) + body)
            _write_bytes(file, tensor)
    graph += b"".join(entries)
    with writing(path) as file:
        file.write(skeleton + _tag(_GRAPH, len(graph)) + graph)
    return (path, data)


def _without_weights(data: mmap.mmap, name: str) -> bytes:
    """Return a model message whose large weights refer to their place in the file ``name``."""
    rest, graph = [], []
    for field in fields(data, 0, len(data)):
        if field.number != _GRAPH:
            rest.append(data[field.start : field.end])
            continue
        for inner in fields(data, field.body, field.end):
            entry = data[inner.start : inner.end]
            if inner.number == _INITIALIZER and inner.end - inner.body > _INLINE_BYTES:
                entry = _reference(data, inner.body, inner.end, name)
            graph.append(entry)
    joined = b"".join(graph)
    return b"".join([*rest, _tag(_GRAPH, len(joined)), joined])


def _reference(data: mmap.mmap, start: int, end: int, name: str) -> bytes:
    head = []
    place: tuple[int, int] | None = None
    for field in fields(data, start, end):
        if field.number == _RAW_DATA:
            place = field.body, field.end - field.body
        else:
            head.append(data[field.start : field.end])
    tensor = onnx.TensorProto.FromString(b"".join(head))
    if place is not None:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", place[0]), ("length", place[1])):
            tensor.external_data.add(key=key, value=str(value))
    message = bytes(tensor.SerializeToString())
    return _tag(_INITIALIZER, len(message)) + message


def _skeleton(model: ir.Model) -> tuple[bytes, bytes]:
    """Serialize the model without its graph, and the graph without its weights."""
    initializers = dict(model.graph.initializers)
    try:
        model.graph.initializers.clear()
        proto = ir.to_proto(model)
    finally:
        model.graph.initializers.update(initializers)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    return proto.SerializeToString(deterministic=True), graph


def _tensor_prefix(tensor: ir.TensorProtocol) -> bytes:
    """Return what stands before a weight's bytes in the graph message."""
    head = _tensor_head(tensor)
    size = len(head) + len(_tag(_RAW_DATA, tensor.nbytes)) + tensor.nbytes
    return _tag(_INITIALIZER, size) + head + _tag(_RAW_DATA, tensor.nbytes)


def _tensor_head(tensor: ir.TensorProtocol) -> bytes:
    proto = onnx.TensorProto(name=tensor.name, dims=sizes(tensor), data_type=int(tensor.dtype))
    return bytes(proto.SerializeToString(deterministic=True))


def _write_bytes(file: IO[bytes], tensor: ir.TensorProtocol) -> None:
    array = tensor.numpy()
    if array.dtype.byteorder == ">" or array.nbytes != tensor.nbytes:
        file.write(tensor.tobytes())
        return
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _tag(field: int, length: int) -> bytes:
    """Return tag and length of a length-delimited field (wire type 2)."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
