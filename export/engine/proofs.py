"""Proofs from the layers of a plan: attention in one kernel, linears in the type asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from albert_deploy.export.engine.build import Built
from albert_deploy.export.engine.log import BuildLog, Layer, layers_of_inspector
from albert_deploy.export.engine.network import Network, Product
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError

PASSED, FAILED, NOT_PROVEN = "passed", "failed", "not proven"

# What a variant's linears in the iterations multiply in.
LINEAR_TYPES: dict[str, str] = {
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16",
    "int8-qdq": "int8",
    "int8-fp16": "int8",
    "fp8-qdq": "fp8",
}
# TensorRT recognises both products and the softmax of each use of the layer.
NODES_PER_ATTENTION = 3
# What TensorRT has one kernel for a whole attention for; found by trying head sizes 8 to 256.
_FUSABLE, _LEAST_HEAD = {"fp16", "bf16"}, 16
# Part of the names of nodes that the shared layer computes, see export.naming.
ITERATION = "/iteration_"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One check of a plan.

    Attributes:
        name: What is checked.
        status: ``passed``, ``failed`` or ``not proven``.
        found: What the plan has.
        wanted: What it should have.
        why: Where the finding is from, or why there is none.
    """

    name: str
    status: str
    found: str
    wanted: str
    why: str = ""


def prove_attention(
    uses: int,
    log: BuildLog,
    network: Network,
    layers: Collection[Layer],
    source: str,
) -> Proof:
    """Check that each use of the layer has its attention recognised and, where it can be, fused.

    Args:
        uses: How often a layer is used.
        log: Of the build log.
        network: What was asked for.
        layers: Layers of the plan that tell which nodes they compute.
        source: Who says so.
    """
    own = {p.name: p for p in network.products if not p.is_linear}
    recognised = len(log.attention)
    nodes = 0 if network.has_attention else NODES_PER_ATTENTION * uses
    wanted = [f"{nodes} nodes recognised"] if nodes else []
    whole = _fused_uses(layers, own)
    unfusable = "" if network.has_attention else _unfusable(own)
    fusable = not unfusable
    if fusable:
        wanted.append(f"one kernel for each of {uses} uses")
    status, why = PASSED, source
    if nodes and recognised == 0 and not _tells(log):
        status, why = NOT_PROVEN, "the build log does not tell what it recognises"
    elif recognised < nodes:
        status, why = FAILED, "the build log names what it recognises as self-attention"
    elif fusable and not layers:
        status, why = NOT_PROVEN, "neither the build log nor an inspector lists the kernels"
    elif fusable and len(whole) < uses:
        status = FAILED
    elif not fusable:
        why = f"no kernel has a whole attention {unfusable}: its scores are written to memory"
    return Proof(
        name="fused attention",
        status=status,
        found=f"{recognised} nodes recognised, {len(whole)} uses in one kernel",
        wanted=" and ".join(wanted),
        why=why,
    )


def _unfusable(own: Mapping[str, Product]) -> str:
    """Return why TensorRT has no kernel for attention like this; empty where it has one."""
    if wide := {p.data for p in own.values()} - _FUSABLE:
        return f"in {' or '.join(sorted(wide))}"
    heads = {p.inner for p in own.values() if p.inner > 0}
    if heads and min(heads) < _LEAST_HEAD:
        return f"of heads smaller than {_LEAST_HEAD}"
    return "" if own else "where there is none"


def _tells(log: BuildLog) -> bool:
    """Tell whether a log is one of a build whose lines this project knows."""
    return log.weights_bytes is not None


def _fused_uses(layers: Iterable[Layer], own: Mapping[str, Product]) -> set[str]:
    """Return the uses whose two products are in one kernel, in every profile of the plan."""
    whole: set[str] = set()
    split: set[str] = set()
    for layer in layers:
        products = Counter(_module(node) for node in layer.nodes if node in own)
        for module, count in products.items():
            (whole if count >= 2 else split).add(module)
        if "mha" in layer.name and not products:
            whole.update(_module(node) for node in layer.nodes[:1])
    return whole - split


def _module(node: str) -> str:
    return node.rsplit("/", 1)[0]


def prove_linear_types(
    variant: str,
    network: Network,
    layers: Iterable[Layer],
    source: str,
    kept: Collection[str],
) -> Proof:
    """Check that each linear layer multiplies in the type that its variant promises.

    Args:
        variant: Key of ``LINEAR_TYPES``.
        network: What was asked for.
        layers: Layers of the plan that tell which nodes they compute.
        source: Who says so.
        kept: Products that the variant leaves wider on purpose, by node name.
    """
    type_ = LINEAR_TYPES[variant]
    linears = network.linears
    # Outside of the iterations a variant may leave a product wider, and its file says so.
    anywhere = not any(ITERATION in p.name for p in linears)
    strict = {p.name for p in linears if (anywhere or ITERATION in p.name) and p.name not in kept}
    by_node: dict[str, list[Layer]] = {}
    for layer in layers:
        for node in layer.nodes:
            by_node.setdefault(node, []).append(layer)
    wrong: list[str] = []
    unseen = 0
    seen: Counter[str] = Counter()
    for product in linears:
        wanted = type_ if product.name in strict else product.data
        computing = [x for x in by_node.get(product.name, ()) if _has_matrix(x)]
        if product.name in strict and product.data != type_:
            wrong.append(f"{product.name}: its file asks for {product.data}")
            seen[product.data] += 1
        elif not computing:
            unseen += 1
        elif all(_multiplies_in(layer, wanted, product.source) for layer in computing):
            seen[wanted] += 1
        else:
            runs = ", ".join(sorted({_runs_in(layer) for layer in computing}))
            wrong.append(f"{product.name}: runs in {runs}, not {wanted}")
            seen[runs] += 1
    status, why = PASSED, source
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        status, why = FAILED, "; ".join(wrong[:3]) + more
    elif unseen or not linears:
        status = NOT_PROVEN
        why = (
            f"the file asks for it, but neither the build log nor an inspector tells of {unseen} "
            f"of {len(linears)} linears"
        )
    found = ", ".join(f"{n} in {t}" for t, n in sorted(seen.items())) or "none told"
    others = len(linears) - len(strict)
    return Proof(
        name="linear types",
        status=status,
        found=found,
        wanted=f"{len(strict)} in {type_}" + (f", {others} as the file has them" if others else ""),
        why=why,
    )


def _has_matrix(layer: Layer) -> bool:
    """Tell the layer that multiplies from one that prepares its weight or adds its bias."""
    return any(tensor.is_matrix for tensor in layer.constants) or not layer.constants


def _multiplies_in(layer: Layer, type_: str, source: str) -> bool:
    """Tell whether a layer's product is in a type.

    A kernel for few rows may compute the operand too, from what is before its Cast or
    QuantizeLinear: then it is in the type that the network gives it, for types are strong, and
    the weight tells.
    """
    matrices = {tensor.type for tensor in layer.constants if tensor.is_matrix}
    data = {tensor.type for tensor in layer.inputs}
    # A weight that alone is quantized is narrower than the data; never the other way round.
    narrow = not matrices or type_ in matrices or matrices <= {"int8", "fp8", "int4"}
    return narrow and (type_ in data or source in layer.nodes)


def _runs_in(layer: Layer) -> str:
    matrices = sorted({tensor.type for tensor in layer.constants if tensor.is_matrix})
    data = sorted({tensor.type for tensor in layer.inputs})
    return f"{'/'.join(data) or '?'} by {'/'.join(matrices) or '?'}"


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
        prove_attention(uses, built.log, built.network, layers, source),
        prove_linear_types(variant, built.network, layers, source, kept),
    )


def _layers(built: Built) -> tuple[tuple[Layer, ...], str]:
    """Return the layers that tell what they compute, and who says so."""
    said = "the engine inspector says so of the plan loaded here"
    layers = layers_of_inspector(built.inspector) if built.inspector else ()
    if not any(layer.nodes for layer in layers):
        said = "the build log says so of the compiled plan; the kernel is chosen on the GPU"
        layers = built.log.layers
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
    if built.log.weights_bytes is None:
        return Proof(
            name="sharing",
            status=NOT_PROVEN,
            found="unknown",
            wanted=wanted,
            why="the build log has no line on the memory of weights",
        )
    found = built.log.weights_bytes
    return Proof(
        name="sharing",
        status=PASSED if found <= limit else FAILED,
        found=f"{found:,} bytes of weights",
        wanted=wanted,
        why="the build log says so",
    )


def widened_bytes(network: Network) -> int:
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
