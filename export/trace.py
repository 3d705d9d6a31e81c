"""Trace a model with ``torch.export`` into an ONNX graph with named dynamic axes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

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


PLAIN = "albert_deploy_plain"

# transformers' modules whose activation is GELU's tanh form, which ONNX has as one operator.
_TANH_GELU = {"NewGELUActivation", "FastGELUActivation", "GELUTanh", "PytorchGELUTanh"}


def plain_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1).

    Args:
        module: The calling attention module; unused.
        query: float [batch, heads, sequence, head_size], as are ``key`` and ``value``.
        key: See ``query``.
        value: See ``query``.
        attention_mask: float [batch, 1, 1, sequence], added to the scores.
        scaling: Factor on the scores; ``head_size ** -0.5`` where None.

    Returns:
        Context float [batch, sequence, heads, head_size] and the attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def additive_mask(
    *, attention_mask: torch.Tensor | None = None, dtype: torch.dtype = torch.float32, **_: Any
) -> torch.Tensor | None:
    """Turn a padding mask [batch, sequence] into the mask [batch, 1, 1, sequence] to add.

    The lowest finite number absorbs every score, so a row that is masked throughout gets
    uniform weights and stays finite, as in transformers' eager attention.
    """
    if attention_mask is None:
        return None
    keep = attention_mask[:, None, None, :].to(dtype)
    return (1.0 - keep) * torch.finfo(dtype).min


def register() -> str:
    """Register the implementation under ``PLAIN`` with transformers and return that name."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PLAIN, plain_attention)
    AttentionMaskInterface.register(PLAIN, additive_mask)
    return PLAIN


def plain_activations(model: torch.nn.Module) -> int:
    """Replace spelled-out tanh GELUs by ``torch.nn.GELU``, in place; return how many.

    The formula is the same (Hendrycks and Gimpel 2016, section 2), but it traces to one ONNX
    ``Gelu`` and has no ``Pow`` that overflows in float16.
    """
    count = 0
    for module in model.modules():
        for name, child in module.named_children():
            if type(child).__name__ in _TANH_GELU:
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
                count += 1
    return count
