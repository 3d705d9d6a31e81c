"""Static quantization, start to end: equalize, calibrate, round, correct, insert.

Products outside of the encoder's iterations (the embedding's projection, the pooler, a head's
dense layer) store INT8 weights but read real activations: they run once per text where an
iteration's run N times, take less than 1% of the multiplications, and their rounding is most of
the error of a shallow model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph.edit import matrix, values_of
from albert_deploy.export.graph.naming import PROBABILITIES, QUERY_KEY
from albert_deploy.export.graph.uses import Use, find_uses, weight_uses
from albert_deploy.quantize.calibration.observe import Inputs, Matrix
from albert_deploy.quantize.calibration.ranges import MINMAX, RULES, scale_of
from albert_deploy.quantize.calibration.statistics import Statistics
from albert_deploy.quantize.calibration.texts import Texts
from albert_deploy.quantize.schemes.dynamic import Int8Config, int8_exceptions
from albert_deploy.quantize.schemes.equalize import (
    ATTENTION_OUTPUTS,
    equalize_inputs,
    equalize_query_key,
    equalize_value,
)
from albert_deploy.quantize.schemes.formats import FORMATS, Format, half_scale
from albert_deploy.quantize.schemes.fp32_regions import FLOAT16, HalfConfig
from albert_deploy.quantize.schemes.half import to_half, watched
from albert_deploy.quantize.schemes.pruning import drop_key_bias, keep_first_token
from albert_deploy.quantize.schemes.qdq import Plan, Weight, insert_qdq
from albert_deploy.quantize.schemes.rounding import (
    LARGEST_PAIR,
    bound_pairs,
    correct_biases,
    round_compensated,
    scales_for_pairs,
)
from albert_deploy.runtime.errors import InputError, check_known

NEAREST, COMPENSATED = "nearest", "compensated"


@dataclass(frozen=True, kw_only=True)
class StaticConfig:
    """Static quantization.

    Args:
        format: Key of ``FORMATS``.
        half: Compute in float16 what is not quantized; scales are float16 then.
        rule: Key of ``RULES``: how a histogram becomes a range.
        products: Which of attention's own products are quantized. The one with the
            probabilities is not by default: a row that looks at 400 tokens alike has
            probabilities of 1/400, below half a step of 1/127.
        alpha: Share of an outlier channel's peak that is moved into the weights, 0 to 1; 0
            moves nothing.
        rounding: ``nearest`` or ``compensated``, see ``rounding``.
        pairs: Bound what processors without a dot product would add in 16 bits: neighbours in a
            weight, and keys. See ``saturation``.
        first_token: Compute the last iteration for the first token alone where no other is read.
        correct_bias: Take the mean error of a weight's products off the bias behind them.
        min_columns: See ``Int8Config``.
        keep: Labels of products (see ``Use``) whose activations stay real at that use.
    """

    format: str = "int8"
    half: bool = False
    rule: str = "mse"
    products: tuple[str, ...] = (QUERY_KEY,)
    alpha: float = 0.5
    rounding: str = COMPENSATED
    pairs: bool = True
    first_token: bool = True
    correct_bias: bool = True
    min_columns: int = 64
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_known(self.format, FORMATS, "format")
        check_known(self.rule, RULES, "range rule")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}; it must be from 0 to 1")
        if self.rounding not in (NEAREST, COMPENSATED):
            raise InputError(f"rounding is {self.rounding!r}; use {NEAREST} or {COMPENSATED}")
        unknown = set(self.products) - {QUERY_KEY, PROBABILITIES}
        if unknown:
            raise InputError(f"unknown products {unknown}; use {QUERY_KEY}, {PROBABILITIES}")


def static_exceptions(model: ir.Model, config: StaticConfig) -> dict[str, str]:
    """Return the weights that stay float32, each with its reason."""
    return int8_exceptions(model, Int8Config(min_columns=config.min_columns))


def quantized_uses(model: ir.Model, config: StaticConfig) -> list[Use]:
    """Return the products whose activations are quantized.

    Raises:
        InputError: ``config.keep`` names a product that the graph does not have.
    """
    uses = find_uses(model)
    unknown = set(config.keep) - {p.label for p in uses}
    if unknown:
        raise InputError(
            f"no product is called {', '.join(sorted(unknown))}; they are: "
            f"{', '.join(p.label for p in uses)}"
        )
    return [
        use
        for use in uses
        if use.iteration is not None
        and use.label not in config.keep
        and (use.weight is not None or use.operator in config.products)
    ]


def real_uses(model: ir.Model, config: StaticConfig) -> dict[str, list[str]]:
    """Map each weight to the labels of those of its uses whose activation stays real."""
    quantized = {p.label for p in quantized_uses(model, config)}
    found: dict[str, list[str]] = {}
    for use in find_uses(model):
        if use.weight and use.label not in quantized:
            found.setdefault(use.weight, []).append(use.label)
    return found


def integer_products(model: ir.Model, config: StaticConfig) -> dict[str, int]:
    """Map each weight to the number of its products whose activation is quantized."""
    return dict(Counter(p.weight for p in quantized_uses(model, config) if p.weight))


def to_static(model: ir.Model, config: StaticConfig, texts: Texts) -> dict[str, Any]:
    """Convert a normalized float32 graph in place.

    Args:
        model: Normalized graph.
        config: Options.
        texts: Calibration texts, or statistics of an earlier calibration.

    Returns:
        ``passes``: how many weights, biases, products or nodes each pass changed; ``ranges``:
        a row per activation with ``label``, ``peak``, ``range`` and ``clipped`` (share of its
        values); ``rule``.

    Raises:
        InputError: The texts are too few or make an activation that is not finite.
        ContractError: The graph is not as exported.
    """
    plan, inputs, passes = planned(model, config, texts)
    passes["products quantized"] = insert_qdq(model, plan)
    return {
        "passes": passes,
        "rule": config.rule,
        "ranges": describe(plan, inputs.statistics),
    }


def planned(
    model: ir.Model, config: StaticConfig, texts: Texts
) -> tuple[Plan, Inputs, dict[str, int]]:
    """Do everything but insert Q/DQ, in place; return the plan, what it rests on, and counts."""
    passes, inputs = preprocess(model, config, texts)
    half = HalfConfig(dtype=FLOAT16)
    peaks = texts.peaks(model, watched(model, half)) if config.half else {}
    plan = make_plan(model, config, inputs)
    if config.correct_bias and inputs.means:
        passes["biases corrected"] = correct_biases(model, plan, inputs.means)
    if config.half:
        passes["nodes in float16"] = to_half(model, half, peaks)
    return plan, inputs, passes


def preprocess(
    model: ir.Model, config: StaticConfig, texts: Texts
) -> tuple[dict[str, int], Inputs]:
    """Drop what softmax does not see, move outlier channels into weights, and calibrate."""
    passes = {"key biases dropped": drop_key_bias(model)}
    if config.first_token:
        passes["nodes on the first token"] = keep_first_token(model)
    moments = config.rounding == COMPENSATED and FORMATS[config.format].evenly_spaced
    graph = "first token" if config.first_token else "all tokens"
    if not config.alpha:
        return passes, texts.inputs(graph, model, moments=moments)
    peaks = texts.inputs(graph, model, moments=False).statistics
    operators = {p.operator for p in find_uses(model) if p.iteration is not None and p.weight}
    # Values first: their outliers stand in the columns of a weight whose rows come next.
    passes["values equalized"] = equalize_value(model, peaks, config.alpha)
    passes["query and key equalized"] = equalize_query_key(model)
    passes["inputs equalized"] = equalize_inputs(
        model, peaks, config.alpha, sorted(operators - set(ATTENTION_OUTPUTS))
    )
    return passes, texts.inputs(f"{graph}, alpha {config.alpha:g}", model, moments=moments)


def make_plan(model: ir.Model, config: StaticConfig, inputs: Inputs) -> Plan:
    """Choose the scales of activations and round the weights."""
    form = FORMATS[config.format]
    uses = quantized_uses(model, config)
    paired = config.pairs and form.evenly_spaced
    seconds = {p.inputs[1] for p in uses if p.weight is None} if paired else set()
    steps = {}
    for name in dict.fromkeys(n for p in uses for n in p.inputs):
        # Float formats have small steps near zero and need not clip.
        rule = config.rule if form.evenly_spaced else MINMAX
        levels = LARGEST_PAIR // 2 if name in seconds else form.largest
        steps[name] = scale_of(inputs.statistics[name], rule, levels)
        if config.half:
            steps[name] = float(half_scale(np.array([steps[name]], np.float32))[0])
    kept = static_exceptions(model, config)
    weights = {
        name: _rounded(model, name, nodes, config, form, inputs)
        for name, nodes in weight_uses(model).items()
        if name not in kept
    }
    return Plan(format=form, uses=tuple(uses), steps=steps, weights=weights)


def _rounded(
    model: ir.Model,
    name: str,
    nodes: list[ir.Node],
    config: StaticConfig,
    form: Format,
    inputs: Inputs,
) -> Weight:
    array = matrix(model, name)
    # A tied matrix is looked up by row and multiplied transposed: rows are its channels in both.
    axis = 0 if any(n.op_type == "Gather" for n in nodes) else 1
    columns = array if axis == 1 else array.T
    scales = form.scales(array, axis)
    paired = config.pairs and form.evenly_spaced and any(n.op_type == "MatMul" for n in nodes)
    if paired:
        scales = scales_for_pairs(columns, scales, form.largest)
    if config.half:
        scales = half_scale(scales)
    moments = None
    if config.rounding == COMPENSATED and form.evenly_spaced:
        moments = inputs.moments[name] if axis == 1 else lookup_moments(model, nodes)
    if moments is None:
        values = form.cast(columns / scales)
        if paired:
            bound_pairs(values)
    else:
        values = round_compensated(columns, scales, moments, form.largest, pairs=paired)
    return Weight(
        values=np.ascontiguousarray(values if axis == 1 else values.T), scales=scales, axis=axis
    )


def lookup_moments(model: ir.Model, nodes: list[ir.Node]) -> Matrix | None:
    """Return what an error of a looked-up row does behind the embedding's projection.

    A row x becomes ``((x - mean(x)) / std) * g @ w``: with ``m = (I - 1/n) diag(g) w``, an error
    e weighs ``e @ (m @ m.T) @ e``. ALBERT alone projects its embeddings.

    Args:
        model: Normalized float32 graph.
        nodes: Readers of the table.

    Returns:
        [columns, columns], or None where there is no projection or the table is tied to a
        decoder, which multiplies by it as well.
    """
    use = next((p for p in find_uses(model) if p.operator == PROJECTION), None)
    if use is None or use.weight is None or any(n.op_type != "Gather" for n in nodes):
        return None
    node = next(n for n in model.graph if n.name == use.node)
    norm = node.inputs[0].producer() if node.inputs[0] is not None else None
    if norm is None or norm.op_type != "LayerNormalization" or norm.inputs[1] is None:
        return None
    gain = np.asarray(values_of(norm.inputs[1]).numpy(), np.float64)
    product = gain[:, None] * matrix(model, use.weight)
    product -= product.mean(axis=0)
    return np.asarray(product @ product.T)


def describe(plan: Plan, statistics: Mapping[str, Statistics]) -> list[dict[str, Any]]:
    """Return what the report says of each quantized activation."""
    return [
        {
            "label": statistics[name].label,
            "peak": statistics[name].peak,
            "range": step * plan.format.largest,
            "clipped": statistics[name].share_beyond(step * plan.format.largest),
        }
        for name, step in plan.steps.items()
    ]


PROJECTION = "embedding_hidden_mapping_in"
