"""Load a checkpoint with the head of a task, or say precisely why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from albert_deploy.export.source import (
    BUFFERS,
    Source,
    check_safetensors,
    config_architectures,
    listed,
    unpickle,
)
from albert_deploy.runtime.contract import FAMILIES, TASKS
from albert_deploy.runtime.errors import AlbertDeployError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch


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


def _check_fit(source: Source, task: str, name: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    missing = sorted(info["missing_keys"])
    if missing:
        remedy = "pass the `task` that it was trained for"
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
