"""Find a checkpoint, identify its head and load it, or say precisely why not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.export.weights import (
    BUFFERS,
    PICKLE,
    SAFETENSORS,
    check_safetensors,
    first_line,
    listed,
    unpickle,
    weight_files,
)
from albert_deploy.runtime.contract import FAMILIES, TASKS, task_named
from albert_deploy.runtime.errors import AlbertDeployError, InputError, MachineError
from albert_deploy.runtime.manifest import sha256_of

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

    Synonyms that optimum knows (``sequence-classification``, ``masked-lm``) are accepted.

    Raises:
        InputError: Unknown task, or ``auto`` on a checkpoint that names no known head.
    """
    if asked != "auto":
        if asked not in TASKS:
            from optimum.exporters.tasks import TasksManager

            synonym = TasksManager.map_from_synonym(asked)
            asked = synonym if synonym in TASKS else asked
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
                state_dict=unpickle(source.weights),
                attn_implementation=attention,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
            )
        else:
            check_safetensors(source.weights)
            model, info = model_class.from_pretrained(
                source.path,
                use_safetensors=True,
                local_files_only=True,
                attn_implementation=attention,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
            )
    except AlbertDeployError:
        raise
    except Exception as error:  # a broken configuration makes transformers raise anything
        raise InputError(
            f"transformers cannot load {source.given} as {name}: {_one_line(error)}; "
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
    try:
        path = Path(given).expanduser()
        if path.is_dir():
            return path, None
    except (OSError, RuntimeError) as error:  # no permission, too long a name, no such user
        raise InputError(f"cannot read {given}: {error}; give a folder that can be read") from error
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
            f"({first_line(error)}); check the name and --revision"
        ) from error
    except Exception as error:  # timeouts and refusals have the classes of the hub's HTTP client
        raise MachineError(
            f"{given} is no folder here and the Hugging Face hub cannot be reached "
            f"({first_line(error)}); give a local folder"
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
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {file}: {error}; save the checkpoint again") from error
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


def config_architectures(config: Any) -> str:
    """Return the architectures of a configuration as text for a message."""
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names:
        return "no architectures"
    return ", ".join(str(name) for name in names)


def _check_fit(source: Source, task: str, name: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    missing = sorted(info["missing_keys"])
    if missing:
        remedy = "pass the --task that it was trained for"
        if any(_is_backbone(key) for key in missing):
            remedy = "save the whole model with save_pretrained"
        raise InputError(
            f"{source.given} ({config_architectures(source.config)}) does not fit task {task}: "
            f"{name} also needs {listed(missing)}; {remedy}"
        )
    if info["mismatched_keys"]:
        parts = [
            f"{k} is {_shape(a)}, config.json says {_shape(b)}"
            for k, a, b in sorted(info["mismatched_keys"])
        ]
        raise InputError(f"{source.given}: config.json contradicts the weights: {listed(parts)}")
    unexpected = sorted(k for k in info["unexpected_keys"] if not k.endswith(BUFFERS))
    backbone = [k for k in unexpected if _is_backbone(k)]
    if backbone:
        raise InputError(
            f"{source.given}: config.json contradicts the weights: the model that it describes "
            f"has no place for {listed(backbone)}"
        )
    return tuple(unexpected)


def _is_backbone(key: str) -> bool:
    return ".encoder." in f".{key}" or ".embeddings." in f".{key}"


def _check_finite(source: Source, model: torch.nn.Module) -> None:
    import torch

    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        raise InputError(
            f"{source.given} has NaN or infinite weights in {listed(broken)}; "
            "take an earlier checkpoint of the training"
        )


def _shape(size: Iterable[int]) -> str:
    return "x".join(str(n) for n in size)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
