"""Trace a model with ``torch.export`` into an ONNX graph with named dynamic axes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from albert_deploy.export.attention import plain_activations
from albert_deploy.runtime.contract import INPUT_NAMES, SEQUENCE, TASKS, output_specs
from albert_deploy.runtime.errors import ContractError

if TYPE_CHECKING:
    import onnx_ir as ir

# 20 is the first opset with Gelu, after 17's LayerNormalization and 19's float16 Q/DQ scales;
# ONNX Runtime, OpenVINO, TensorRT 10 and 11 all read it.
OPSET = 20

# Sizes of the traced example: none is 1, which torch.export would take for a constant.
_EXAMPLE = {"batch": 2, "choices": 3, "sequence": 5}


class _Head(torch.nn.Module):
    """A model that takes the three inputs by position and returns the contract's outputs."""

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return tuple(result[name] for name in self.outputs)


def trace(model: torch.nn.Module, task_name: str, config: dict[str, Any]) -> ir.Model:
    """Trace a model that was loaded with plain attention.

    Args:
        model: transformers model in evaluation mode; its activations are replaced in place.
        task_name: Key of ``TASKS``.
        config: The checkpoint's configuration.

    Returns:
        An unoptimised onnx_ir model of opset ``OPSET`` whose initializers are the model's own
        parameters, not copies.

    Raises:
        ContractError: A dynamic axis came out fixed.
    """
    plain_activations(model)
    task = TASKS[task_name]
    names = [spec.name for spec in output_specs(task, config)]
    longest = int(config["max_position_embeddings"])
    sizes = _EXAMPLE | {SEQUENCE: min(_EXAMPLE[SEQUENCE], longest)}
    shape = [sizes[axis] for axis in task.input_axes]
    dims = {
        axis: torch.export.Dim(axis, max=longest) if axis == SEQUENCE else torch.export.Dim(axis)
        for axis in task.input_axes
    }
    example = torch.ones(shape, dtype=torch.int64)
    dynamic = {i: dims[axis] for i, axis in enumerate(task.input_axes)}
    head = _Head(model, tuple(names)).eval()
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            head,
            (example, example.clone(), torch.zeros_like(example)),
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            input_names=list(INPUT_NAMES),
            output_names=names,
            dynamic_shapes=dict.fromkeys(INPUT_NAMES, dynamic),
        )
    if program is None:
        raise ContractError("torch.onnx.export returned no program; report the checkpoint")
    for value in program.model.graph.inputs:
        found = [str(d) for d in value.shape or ()]
        if found != list(task.input_axes):
            raise ContractError(f"input {value.name} was traced as {found}, not {task.input_axes}")
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own notes (no torchvision, renamed axes) off the user's screen."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
