"""Triton's model repository for a deployment directory: one model, or an ensemble of three."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.inputs import FIELDS
from albert_deploy.runtime.manifest import write_text
from albert_deploy.runtime.serving.settings import ANSWER, LISTS, Settings, parameters
from albert_deploy.scripts.serving.model_config import ServedModel, Step, Tensor, config_text
from albert_deploy.scripts.serving.network import NETWORKS, code
from albert_deploy.scripts.serving.options import RepositoryConfig

MODELS = "models"
# From a model of a bundle to the bundle.
UP = "../.."
# Of these an input may become several rows, so that requests cannot share a batch axis.
_MANY_ROWS = frozenset({"question-answering", "token-classification"})
# Of these batches may a request be where one model does it all: others wait for it.
_ROWS_OF_ONE = 8
_ENSEMBLE_NOTE = "An ensemble has no file of its own; Triton wants this folder all the same.\n"


def write_repository(
    directory: Path,
    manifest: dict[str, Any],
    config: RepositoryConfig,
    *,
    out: Path,
    location: str,
) -> None:
    """Write the models of a deployment directory as a repository that Triton loads.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        config: Options.
        out: Folder to make.
        location: Where served models find the deployment directory, relative to their folder, or
            absolute.

    Raises:
        InputError: The directory has not the variant or plan, or it is none for Triton.
        ContractError: A file is not the one that the manifest records.
    """
    if config.variant not in manifest["variants"]:
        there = ", ".join(manifest["variants"])
        raise InputError(f"{directory} has no {config.variant}; it has {there}; quantize it first")
    settings = Settings(
        directory=Path(location),
        variant=config.variant,
        engine=config.engine,
        threads=config.threads,
        batch_size=config.max_batch,
        max_text_bytes=config.max_text_bytes,
        max_rows=config.max_batch,
    )
    task, name = manifest["task"], config.name
    make = NETWORKS.get(config.form)
    if make is None:
        settings = replace(settings, max_rows=_ROWS_OF_ONE * config.max_batch)
        model = ServedModel(
            name=name,
            backend="python",
            max_batch=config.max_batch,
            inputs=_inputs(task, config.max_batch),
            outputs=(_answer(config.max_batch),),
            instances=config.instances,
            preferred=config.preferred,
            delay_us=config.delay_us,
            queue=config.queue,
            parameters=parameters(settings),
        )
        _write(out, model, {"model.py": code("direct", "text to answer")})
        return
    middle = make(directory, manifest, config, location)
    rows = middle.model.max_batch
    batch = 0 if task in _MANY_ROWS else rows
    light = replace(settings, lengths=middle.lengths, max_rows=rows, threads=0, engine="auto")
    inputs, answer = _inputs(task, batch), _answer(batch)
    tokens, outputs = middle.model.inputs, middle.model.outputs
    first = ServedModel(
        name=f"{name}_tokens",
        backend="python",
        max_batch=batch,
        inputs=inputs,
        outputs=_within(tokens, batch),
        instances=config.instances,
        queue=config.queue,
        parameters=parameters(light),
    )
    last = replace(
        first,
        name=f"{name}_answer",
        inputs=(*inputs, *_within(outputs, batch)),
        outputs=(answer,),
    )
    texts = tuple(one.name for one in inputs)
    names = tuple(one.name for one in tokens), tuple(one.name for one in outputs)
    whole = ServedModel(
        name=name,
        platform="ensemble",
        max_batch=batch,
        inputs=inputs,
        outputs=(answer,),
        steps=(
            Step(model=first.name, inputs=texts, outputs=names[0]),
            Step(model=middle.model.name, inputs=names[0], outputs=names[1]),
            Step(model=last.name, inputs=(*texts, *names[1]), outputs=(ANSWER,)),
        ),
    )
    _write(out, whole, {"ensemble.txt": _ENSEMBLE_NOTE})
    _write(out, first, {"model.py": code("tokens", "text to tokens")})
    _write(out, middle.model, middle.files)
    _write(out, last, {"model.py": code("answer", "outputs to answer")})


def _inputs(task: str, batch: int) -> tuple[Tensor, ...]:
    must, may = FIELDS[task]
    front = () if batch else (-1,)
    return tuple(
        Tensor(
            name=name,
            dtype="bytes",
            dims=(*front, -1 if name in LISTS else 1),
            optional=name in may,
        )
        for name in (*must, *may)
    )


def _answer(batch: int) -> Tensor:
    return Tensor(name=ANSWER, dtype="bytes", dims=(1,) if batch else (-1, 1))


def _within(tensors: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Return tensors of the network as a model with or without a batch axis has them."""
    return tensors if batch else tuple(replace(one, dims=(-1, *one.dims)) for one in tensors)


def _write(out: Path, model: ServedModel, files: Mapping[str, Path | str]) -> None:
    version = out / model.name / "1"
    version.mkdir(parents=True)
    write_text(out / model.name / "config.pbtxt", config_text(model))
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, version / name)
        else:
            write_text(version / name, content)
