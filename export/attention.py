"""Attention in the plain form that inference engines recognise and fuse.

Engines look for ``Softmax(Q K^T * scale + mask) V`` with one additive mask. PyTorch's fused
attention traces to something else: the scale is split over Q and K, and a NaN guard follows
the softmax. So models are traced with this implementation, registered through transformers'
own extension points.
"""

from __future__ import annotations

from typing import Any

import torch

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
