"""Find a checkpoint, on disk or on the hub, and identify its head; nothing is loaded yet."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.contract import FAMILIES, SYNONYMS, TASKS, task_named
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_json, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

_HUB_FILES = ["*.json", "*.safetensors", "spiece.model", "vocab.txt"]
# What no configuration leaves out.
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint found on disk, not yet loaded.

    Attributes:
        given: What the user wrote: a path, a sample's name or a hub id.
        path: Folder that holds the files.
        revision: Commit of the hub snapshot; None for a local folder.
        config: Contents of ``config.json``.
        weights: Weight files, several where the checkpoint is sharded.
        sha256: SHA-256 of the weight file, or of the list of the shards' SHA-256.
    """

    given: str
    path: Path
    revision: str | None
    config: dict[str, Any]
    weights: tuple[Path, ...]
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``manifest.json`` holds."""
        return {
            "path": self.given,
            "revision": self.revision,
            "sha256": self.sha256,
            "weights": [file.name for file in self.weights],
            "config": self.config,
        }


def find_checkpoint(
    given: str, *, revision: str | None = None, allow_pickle: bool = False
) -> Source:
    """Find a local folder, a shipped sample or a hub id, and check its files.

    Raises:
        InputError: Nothing there, no usable weights, or a broken or foreign configuration.
        MachineError: The hub cannot be reached from here.
    """
    path, commit = _locate(given, revision, allow_pickle)
    config = _read_config(path)
    weights = weight_files(path, allow_pickle)
    try:
        digests = [sha256_of(file) for file in weights]
    except OSError as error:
        raise InputError(f"cannot read the weights: {error}; allow reading the file") from error
    sha256 = (
        digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    )
    return Source(
        given=given, path=path, revision=commit, config=config, weights=weights, sha256=sha256
    )


def identify_task(config: dict[str, Any], asked: str) -> str:
    """Return the task's name: the one asked for, or the one of the checkpoint's architecture.

    ``SYNONYMS`` (``sequence-classification``, ``masked-lm``) are accepted.

    Raises:
        InputError: Unknown task, or ``auto`` on a checkpoint that names no known head.
    """
    if asked != "auto":
        asked = SYNONYMS.get(asked, asked)
        task_named(asked)
        return asked
    prefix = FAMILIES[config["model_type"]]
    architectures = config_architectures(config).split(", ")
    for architecture in architectures:
        for name, task in TASKS.items():
            if architecture == prefix + task.architecture:
                return name
    raise InputError(
        f"cannot tell the task from config.json ({config_architectures(config)}); "
        f"pass `task` with one of: {', '.join(TASKS)}"
    )


def config_architectures(config: Any) -> str:
    """Return the architectures of a configuration as text for a message."""
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names:
        return "no architectures"
    return ", ".join(str(name) for name in names)


def _locate(given: str, revision: str | None, allow_pickle: bool) -> tuple[Path, str | None]:
    try:
        path = Path(given).expanduser()
        if path.is_dir():
            return path, None
    except (OSError, RuntimeError) as error:  # no permission, too long a name, no such user
        raise InputError(f"cannot read {given}: {error}; give a folder that can be read") from error
    from albert_deploy.export.samples import SAMPLES

    if given in SAMPLES:
        return SAMPLES[given].checkpoint, None
    if path.exists() or given.startswith((".", "/", "~")) or given.count("/") > 1:
        raise InputError(
            f"{given} is not a folder; give the folder of a checkpoint (config.json and "
            f"{SAFETENSORS}), a hub id, or a sample: {', '.join(SAMPLES)}"
        )
    return _download(given, revision, allow_pickle)


def _download(given: str, revision: str | None, allow_pickle: bool) -> tuple[Path, str]:
    import huggingface_hub
    from huggingface_hub import errors as hub

    patterns = [*_HUB_FILES, PICKLE] if allow_pickle else _HUB_FILES
    try:
        path = Path(
            huggingface_hub.snapshot_download(given, revision=revision, allow_patterns=patterns)
        )
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as error:
        raise InputError(
            f"{given} is neither a folder here nor a readable model on the Hugging Face hub "
            f"({first_line(error)}); check the name and `revision`"
        ) from error
    except Exception as error:  # timeouts and refusals have the classes of the hub's HTTP client
        raise MachineError(
            f"{given} is no folder here and the Hugging Face hub cannot be reached "
            f"({first_line(error)}); give a local folder"
        ) from error
    return path, path.name


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    missing = f"{path} has no config.json; give the folder of a transformers checkpoint"
    config = read_json(file, "save the checkpoint again", missing=missing)
    family = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(
            f"{path} holds a {family or 'nameless'} model ({config_architectures(config)}); "
            f"supported model types: {', '.join(FAMILIES)}"
        )
    for key in _SIZES:
        if type(config.get(key)) is not int or config[key] < 1:
            raise InputError(
                f"{file}: {key} is {config.get(key)!r}, wanted a whole number above 0; "
                "save the checkpoint again"
            )
    pad = config.get("pad_token_id")
    if pad is not None and (type(pad) is not int or not 0 <= pad < config["vocab_size"]):
        raise InputError(f"{file}: pad_token_id is {pad!r}, wanted a token of the vocabulary")
    return dict(config)


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
            "is read; convert it to safetensors, or pass `allow_pickle=True` (read with "
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
