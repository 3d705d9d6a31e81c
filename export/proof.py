"""Proofs of a plan: one copy of the weights, fused attention, and linears in the type asked for.

What is proven comes from the build log, or from the engine inspector where the plan can be loaded;
what neither tells is "not proven", never "passed". The log lists what TensorRT compiled: types and
fusions are settled in it. Which kernel of that type runs is chosen on the GPU.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from albert_deploy.export.build_log import Layer, layers_of_inspector
from albert_deploy.export.engine import Built
from albert_deploy.export.layer_proofs import (
    FAILED,
    ITERATION,
    LINEAR_TYPES,
    NOT_PROVEN,
    PASSED,
    Proof,
    prove_attention,
    prove_linear_types,
)
from albert_deploy.export.network import NetworkFacts
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError

# Proof is part of this module's interface.
__all__ = ["FAILED", "NOT_PROVEN", "PASSED", "Proof", "prove", "widened_bytes"]

# A plan may take this much more than its parameters: invariant 1, for engines.
SHARING_FACTOR, SHARING_BYTES = 1.05, 2_000_000
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def prove(
    onnx: Path,
    variant: str,
    uses: int,
    built: Built,
    *,
    parameter_bytes: int | None = None,
    kept: Collection[str] = (),
) -> tuple[Proof, ...]:
    """Check a plan against what its variant promises.

    Args:
        onnx: The file that it was built from, for messages.
        variant: Key of ``VARIANTS``.
        uses: How often a layer is used: iterations times inner layers.
        built: The plan.
        parameter_bytes: Unique float32 parameter bytes, as the manifest has them; with them the
            stored weights are held to the variant's budget too, so that a file that lost its
            sharing is found. None to compare the plan with its file alone.
        kept: Products that the variant leaves wider on purpose, by node name.

    Returns:
        The proofs ``sharing``, ``fused attention`` and ``linear types``.

    Raises:
        InputError: TensorRT does not read such a variant.
    """
    if variant not in LINEAR_TYPES:
        known = ", ".join(LINEAR_TYPES)
        raise InputError(f"got variant {variant!r} for {onnx.name}; engines are of: {known}")
    layers, source = _layers(built)
    return (
        _sharing(variant, built, parameter_bytes),
        prove_attention(uses, built.facts, built.network, layers, source),
        prove_linear_types(variant, built.network, layers, source, kept),
    )


def _layers(built: Built) -> tuple[tuple[Layer, ...], str]:
    """Return the layers that tell what they compute, and who says so."""
    said = "the engine inspector says so of the plan loaded here"
    layers = layers_of_inspector(built.inspector) if built.inspector else ()
    if not any(layer.nodes for layer in layers):
        said = "the build log says so of the compiled plan; the kernel is chosen on the GPU"
        layers = built.facts.layers
    return tuple(layer for layer in layers if layer.nodes and not layer.is_opaque), said


def _sharing(variant: str, built: Built, parameter_bytes: int | None) -> Proof:
    network = built.network
    stored = network.stored_bytes
    if parameter_bytes is not None:
        stored = min(stored, VARIANTS[variant].limit(parameter_bytes))
    limit = int(SHARING_FACTOR * (stored + widened_bytes(network))) + SHARING_BYTES
    wanted = (
        f"at most {limit:,} bytes: {SHARING_FACTOR} x ({stored:,} stored + "
        f"{widened_bytes(network):,} made wider) + {SHARING_BYTES:,}"
    )
    if built.facts.weights_bytes is None:
        return Proof(
            name="sharing",
            status=NOT_PROVEN,
            found="unknown",
            wanted=wanted,
            why="the build log has no line on the memory of weights",
        )
    found = built.facts.weights_bytes
    return Proof(
        name="sharing",
        status=PASSED if found <= limit else FAILED,
        found=f"{found:,} bytes of weights",
        wanted=wanted,
        why="the build log says so",
    )


def widened_bytes(network: NetworkFacts) -> int:
    """Return the bytes that a plan may need beyond the stored ones, and rightly.

    A constant that the graph casts is folded to the wider type. A matrix of which the weight
    alone is quantized may be made real. A quantized product has the product of both scales and
    the bias in its kernel, for each use.
    """
    matrices = {
        (p.name.split(ITERATION)[0], p.weight_elements): p.weight_elements * (_BYTES[p.real] - 1)
        for p in network.linears
        if p.weight_only and p.real in _BYTES
    }
    scales = sum(2 * p.scale_bytes for p in network.linears if not p.weight_only)
    return network.cast_bytes + sum(matrices.values()) + scales
