"""Find a checkpoint, identify its head and load it, or say precisely why not."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.contract import FAMILIES, TASKS, task_named
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
_HUB_FILES = ["*.json", "*.safetensors", "spiece.model", "vocab.txt"]
# Keys of tensors that older checkpoints store although they hold no weights.
_BUFFERS = ("position_ids", "token_type_ids")


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


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint in memory: float32, evaluation mode.

    Attributes:
        model: A transformers model.
        config: Its configuration, with the defaults that config.json leaves out.
        ignored: Tensors of the checkpoint that the head does not use.
        parameter_bytes: Bytes of the unique float32 parameters.
    """

    model: torch.nn.Module
    config: dict[str, Any]
    ignored: tuple[str, ...]
    parameter_bytes: int


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
    weights = _weight_files(path, allow_pickle)
    digests = [sha256_of(file) for file in weights]
    sha256 = (
        digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    )
    return Source(
        given=given, path=path, revision=commit, config=config, weights=weights, sha256=sha256
    )


def identify_task(config: Mapping[str, Any], asked: str) -> str:
    """Return the task's name: the one asked for, or the one of the checkpoint's architecture.

    Synonyms that optimum knows (``sequence-classification``, ``masked-lm``) are accepted.

    Raises:
        InputError: Unknown task, or ``auto`` on a checkpoint that names no known head.
    """
    if asked != "auto":
        if asked not in TASKS:
            from optimum.exporters.tasks import TasksManager

            asked = TasksManager.map_from_synonym(asked)
        task_named(asked)
        return asked
    prefix = FAMILIES[config["model_type"]]
    architectures = config.get("architectures") or []
    for architecture in architectures:
        for name, task in TASKS.items():
            if architecture == prefix + task.architecture:
                return name
    found = ", ".join(architectures) or "none"
    raise InputError(
        f"cannot tell the task from config.json (architectures: {found}); "
        f"pass --task with one of: {', '.join(TASKS)}"
    )


def load_model(source: Source, task: str, *, attention: str = "eager") -> Loaded:
    """Load a checkpoint with the head of a task, float32, in evaluation mode.

    Args:
        source: Result of ``find_checkpoint``.
        task: A key of ``TASKS``.
        attention: Name of a registered transformers attention implementation.

    Raises:
        InputError: The head does not fit, weights are missing, damaged or not finite, or
            the configuration contradicts them.
    """
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    name = FAMILIES[source.config["model_type"]] + TASKS[task].architecture
    model_class = getattr(transformers, name)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = model_class.config_class.from_pretrained(source.path)
        # Chunked feed-forward computes the same and cannot be traced with a free length.
        config.chunk_size_feed_forward = 0
        arguments: dict[str, Any] = {"config": config, "dtype": torch.float32}
        if source.weights[0].suffix == ".bin":
            model, info = model_class.from_pretrained(
                None,
                state_dict=_unpickle(source.weights),
                attn_implementation=attention,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
            )
        else:
            _check_safetensors(source.weights)
            model, info = model_class.from_pretrained(
                source.path,
                use_safetensors=True,
                local_files_only=True,
                attn_implementation=attention,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"transformers cannot load {source.given} as {name}: {_first_line(error)}; "
            "check config.json against the weights"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    ignored = _check_fit(source, task, name, info)
    model.eval().requires_grad_(False)
    _check_finite(source, model)
    unique = {p.data_ptr(): p for p in model.parameters()}
    size = sum(p.numel() * 4 for p in unique.values())
    full = source.config | config.to_dict() | {"model_type": source.config["model_type"]}
    return Loaded(model=model, config=full, ignored=ignored, parameter_bytes=size)


def _locate(given: str, revision: str | None, allow_pickle: bool) -> tuple[Path, str | None]:
    path = Path(given).expanduser()
    if path.is_dir():
        return path, None
    from albert_deploy.validation.sample import SAMPLES

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
            f"({_first_line(error)}); check the name and --revision"
        ) from error
    except (OSError, hub.LocalEntryNotFoundError) as error:
        raise MachineError(
            f"{given} is no folder here and the Hugging Face hub cannot be reached "
            f"({_first_line(error)}); give a local folder"
        ) from error
    return path, path.name


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} has no config.json; give the folder of a transformers checkpoint"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}; save the checkpoint again") from error
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in FAMILIES:
        raise InputError(
            f"{path} holds a {family or 'nameless'} model ({config_architectures(config)}); "
            f"supported model types: {', '.join(FAMILIES)}"
        )
    return dict(config)


def config_architectures(config: Any) -> str:
    """Return the architectures of a configuration as text for a message."""
    names = config.get("architectures") if isinstance(config, dict) else None
    return ", ".join(names) if names else "no architectures"


def _weight_files(path: Path, allow_pickle: bool) -> tuple[Path, ...]:
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
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"cannot read {index}: {error}; save the checkpoint again") from error
    shards = tuple(path / name for name in names)
    for shard in shards:
        if shard.parent != path or not shard.is_file():
            raise InputError(f"{index} names {shard.name}, which is not in {path}")
    return shards


def _check_safetensors(files: Iterable[Path]) -> None:
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                if not list(tensors.keys()):
                    raise InputError(f"{file} holds no tensors; save the checkpoint again")
        except SafetensorError as error:
            raise InputError(
                f"{file} is truncated or damaged ({_first_line(error)}); copy or download it again"
            ) from error


def _unpickle(files: tuple[Path, ...]) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(files[0], map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"{files[0]} cannot be read as plain tensors ({_first_line(error)}); "
            "convert it to safetensors where it was trained"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{files[0]} holds a {type(state).__name__}, not a state dictionary")
    return state


def _check_fit(source: Source, task: str, name: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{source.given} ({config_architectures(source.config)}) does not fit task {task}: "
            f"{name} also needs {_listed(missing)}; pass the --task that it was trained for"
        )
    if info["mismatched_keys"]:
        parts = [
            f"{k} is {_shape(a)}, config.json says {_shape(b)}"
            for k, a, b in sorted(info["mismatched_keys"])
        ]
        raise InputError(f"{source.given}: config.json contradicts the weights: {_listed(parts)}")
    unexpected = sorted(k for k in info["unexpected_keys"] if not k.endswith(_BUFFERS))
    backbone = [k for k in unexpected if ".encoder." in f".{k}" or ".embeddings." in f".{k}"]
    if backbone:
        raise InputError(
            f"{source.given}: config.json contradicts the weights: the model that it describes "
            f"has no place for {_listed(backbone)}"
        )
    return tuple(unexpected)


def _check_finite(source: Source, model: torch.nn.Module) -> None:
    import torch

    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        raise InputError(
            f"{source.given} has NaN or infinite weights in {_listed(broken)}; "
            "take an earlier checkpoint of the training"
        )


def _listed(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _shape(size: Iterable[int]) -> str:
    return "x".join(str(n) for n in size)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
