"""The weight files of a checkpoint: found, and read only where that is safe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
# Keys of tensors that older checkpoints store although they hold no weights.
BUFFERS = ("position_ids", "token_type_ids")
_FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names them


def weight_files(path: Path, allow_pickle: bool) -> tuple[Path, ...]:
    """Return a checkpoint's weight files, several where it is sharded.

    Raises:
        InputError: There are none that may be read.
    """
    index = path / f"{SAFETENSORS}.index.json"
    if (path / SAFETENSORS).is_file():
        return (path / SAFETENSORS,)
    if index.is_file():
        return _shards(path, index)
    if (path / PICKLE).is_file():
        if allow_pickle:
            return (path / PICKLE,)
        raise InputError(
            f"{path} has its weights only as a pickle ({PICKLE}), which can run code when it "
            "is read; convert it to safetensors, or pass --allow-pickle (read with "
            "weights_only=True)"
        )
    raise InputError(f"{path} has no {SAFETENSORS}; save the checkpoint with save_pretrained")


def _shards(path: Path, index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = tuple(path / name for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"cannot read {index}: {error}; save the checkpoint again") from error
    if not shards:
        raise InputError(f"{index} names no weights; save the checkpoint again")
    for name, shard in zip(names, shards, strict=True):
        if shard.parent != path or not shard.is_file():
            raise InputError(f"{index} names {name}, which is not in {path}; copy all of its files")
    return shards


def check_safetensors(files: Iterable[Path]) -> None:
    """Check headers and types without reading the weights.

    Raises:
        InputError: A file is damaged, empty or quantized.
    """
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                types = {name: tensors.get_slice(name).get_dtype() for name in names}
                if not types:
                    raise InputError(f"{file} holds no tensors; save the checkpoint again")
                _check_types(file, types)
        except SafetensorError as error:
            raise InputError(
                f"{file} is truncated or damaged ({first_line(error)}); copy or download it again"
            ) from error


def unpickle(files: tuple[Path, ...]) -> dict[str, Any]:
    """Read tensors by name from a pickle, in the restricted way that runs no code.

    Raises:
        InputError: It is damaged, or holds anything else.
    """
    import torch

    try:
        state = torch.load(files[0], map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        # PyTorch's own text proposes to switch the protection off, so it is not repeated.
        raise InputError(
            f"{files[0]} cannot be read as plain tensors: it is damaged or holds other objects "
            f"({type(error).__name__}); convert it to safetensors where it was trained"
        ) from error
    tensors = state if isinstance(state, dict) else {}
    tensors = {k: v for k, v in tensors.items() if isinstance(v, torch.Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise InputError(
            f"{files[0]} holds a {type(state).__name__} without tensors by name; "
            "save model.state_dict() itself"
        )
    _check_types(files[0], {key: _type_name(t) for key, t in tensors.items()})
    return tensors


def _type_name(tensor: torch.Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(
        name, name
    )


def _check_types(file: Path, types: Mapping[str, str]) -> None:
    """Refuse weights that were quantized: their scales are stored elsewhere or lost."""
    odd = [f"{k} ({t})" for k, t in types.items() if t not in _FLOATS and not k.endswith(BUFFERS)]
    if odd:
        raise InputError(
            f"{file} has weights that are not floating point: {listed(odd)}; "
            "give the checkpoint from before its quantization"
        )


def listed(names: list[str], limit: int = 6) -> str:
    """Return the first names and how many more there are, for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
