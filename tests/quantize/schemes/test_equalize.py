"""Equalization: the function stays, weights stay shared, outliers go; and the planted ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from feeds import run_each
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from models import with_medium

from albert_deploy.export.graph.file import load
from albert_deploy.export.graph.uses import activations, find_uses, weight_uses
from albert_deploy.quantize.calibration.observe import Row, calibrate
from albert_deploy.quantize.calibration.statistics import Statistics
from albert_deploy.quantize.schemes.equalize import (
    ATTENTION_OUTPUTS,
    equalize_inputs,
    equalize_query_key,
    equalize_value,
    joint_peaks,
    smoothing_scales,
)

Array = npt.NDArray[np.float32]
GraphOf = Callable[[str], Path]
FACTOR = 300.0
CHANNELS = [3, 17, 30]
# Matrices of the encoder that a graph stores, layers of their own or shared.
LAYERS = {"albert": 1, "grouped": 4, "bert": 2, "pretraining": 1}
EVERY = with_medium(LAYERS, ["albert", "bert"])


def run(model: ir.Model, rows: list[Row], folder: Path) -> list[dict[str, Array]]:
    return run_each(model, [row.feeds for row in rows], folder)


def unchanged(wanted: list[dict[str, Array]], got: list[dict[str, Array]]) -> None:
    for name in wanted[0]:
        scale = max(float(np.abs(row[name]).max()) for row in wanted)
        assert scale > 0.01
        for a, b in zip(wanted, got, strict=True):
            assert np.abs(a[name] - b[name]).max() <= 1e-5 * scale


def statistics_of(model: ir.Model, rows: list[Row]) -> dict[str, Statistics]:
    return calibrate(model, activations(find_uses(model)), rows)


def peaks_of(statistics: dict[str, Statistics], operator: str) -> list[Array]:
    """Channel peaks at each use of an operator's input."""
    return [s.peaks for s in statistics.values() if s.label.endswith(f", {operator}, input")]


def ratio(peaks: Array) -> float:
    """How far the loudest channel is above an ordinary one: the levels that it costs."""
    return float(peaks.max() / np.median(peaks))


def named(model: ir.Model, ending: str) -> list[ir.Value]:
    found = [v for n, v in model.graph.initializers.items() if n.endswith(ending)]
    assert found
    return found


def scale_columns(model: ir.Model, ending: str, factor: float) -> None:
    """Scale the planted channels of weights [inputs, outputs] or biases [outputs]."""
    for value in named(model, ending):
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[..., CHANNELS] *= factor
        value.const_value = ir.tensor(array, name=value.name)


def scale_rows(model: ir.Model, ending: str, factor: float) -> None:
    for value in named(model, ending):
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[CHANNELS] *= factor
        value.const_value = ir.tensor(array, name=value.name)


def dense_of(name: str) -> str:
    return ATTENTION_OUTPUTS[name == "bert"]


def plant_in_values(model: ir.Model, name: str) -> None:
    scale_columns(model, "value.weight_transposed", FACTOR)
    scale_columns(model, "value.bias", FACTOR)
    scale_rows(model, f"{dense_of(name)}.weight_transposed", 1 / FACTOR)


def plant_in_queries(model: ir.Model) -> None:
    for part, factor in (("query", FACTOR), ("key", 1 / FACTOR)):
        scale_columns(model, f"{part}.weight_transposed", factor)
        scale_columns(model, f"{part}.bias", factor)


def plant_in_norms(model: ir.Model) -> None:
    """Loud channels of the layer norms in the encoder, which the residual needs as they are."""
    albert = any("full_layer_layer_norm" in name for name in model.graph.initializers)
    norms = ("attention.LayerNorm", "full_layer_layer_norm") if albert else ("output.LayerNorm",)
    for norm in norms:
        scale_columns(model, f"{norm}.weight", 50)
        scale_columns(model, f"{norm}.bias", 50)


def weights_of(model: ir.Model) -> dict[str, Array]:
    return {
        name: value.const_value.numpy().copy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT
    }


def powers_of_two(scales: npt.NDArray[np.floating]) -> bool:
    return bool((np.frexp(scales)[0] == 0.5).all())


PEAKS = arrays(
    np.float32,
    8,
    elements=st.one_of(st.just(0.0), st.floats(-40, 30).map(lambda e: float(np.float32(10**e)))),
)


@given(activation=PEAKS, weight=PEAKS, alpha=st.floats(0, 1))
def test_scales_are_powers_of_two_and_leave_silent_channels_alone(
    activation: Array, weight: Array, alpha: float
) -> None:
    scale = smoothing_scales(activation, weight, alpha)
    assert scale.dtype == np.float32
    assert np.isfinite(scale).all()
    assert powers_of_two(scale)
    assert (scale[(activation == 0) | (weight == 0)] == 1).all()
    assert ((scale >= 2.0**-20) & (scale <= 2.0**20)).all()


@given(activation=PEAKS, alpha=st.floats(0, 1))
def test_louder_channels_are_divided_by_more(activation: Array, alpha: float) -> None:
    scale = smoothing_scales(activation, np.ones(8, np.float32), alpha)
    heard = activation > 0
    order = np.argsort(activation[heard], kind="stable")
    assert (np.diff(scale[heard][order]) >= 0).all()


def test_scales_are_those_of_smoothquant() -> None:
    activation = np.array([64, 1, 1, 1], np.float32)
    weight = np.array([1, 1, 1, 0.25], np.float32)
    # sqrt(x / w) is 8, 1, 1, 2; their geometric mean is 2.
    np.testing.assert_array_equal(smoothing_scales(activation, weight, 0.5), [4, 0.5, 0.5, 1])


def test_an_outlier_of_one_use_counts_however_quiet_that_use_is() -> None:
    quiet, loud = np.array([1e-3, 1e-5], np.float32), np.array([10, 10], np.float32)
    np.testing.assert_allclose(joint_peaks([quiet, loud]), [1, 1])
    np.testing.assert_allclose(joint_peaks([quiet, quiet * 7]), [1, 1e-2], rtol=1e-6)
    assert np.isfinite(joint_peaks([np.zeros(2, np.float32)])).all()


@pytest.mark.parametrize("name", EVERY)
def test_value_to_output_keeps_the_function(
    name: str, graph_of: GraphOf, rows: list[Row], tmp_path: Path
) -> None:
    model = load(graph_of(name))
    plant_in_values(model, name)
    wanted = run(model, rows, tmp_path)
    before = statistics_of(model, rows)
    nodes, stored = len(model.graph), weights_of(model)
    assert equalize_value(model, before, 0.5) == LAYERS[name]
    unchanged(wanted, run(model, rows, tmp_path))
    # Free: no node and no parameter more.
    assert len(model.graph) == nodes
    assert set(weights_of(model)) == set(stored)
    after = statistics_of(model, rows)
    louds, quiets = (peaks_of(s, dense_of(name)) for s in (before, after))
    assert len(louds) >= LAYERS[name]
    for loud, quiet in zip(louds, quiets, strict=True):
        assert ratio(loud) > FACTOR / 5
        assert ratio(quiet) < ratio(loud) / 10


def test_measured_peaks_say_what_is_moved(graph_of: GraphOf, rows: list[Row]) -> None:
    """Nothing in the output's weight shows that these channels are loud."""
    model = load(graph_of("albert"))
    scale_columns(model, "value.weight_transposed", FACTOR)
    scale_columns(model, "value.bias", FACTOR)
    before = statistics_of(model, rows)
    stored = weights_of(model)
    equalize_value(model, before, 0.5)
    (name,) = (n for n in stored if n.endswith("attention.dense.weight_transposed"))
    up = (weights_of(model)[name] / stored[name]).mean(axis=1)
    others = np.delete(up, CHANNELS)
    assert up[CHANNELS].min() > 4 * np.median(others)
    assert others.max() < up[CHANNELS].min()


@pytest.mark.parametrize("name", EVERY)
def test_value_and_output_get_inverse_scales_of_powers_of_two(
    name: str, graph_of: GraphOf, rows: list[Row]
) -> None:
    model = load(graph_of(name))
    plant_in_values(model, name)
    before = weights_of(model)
    equalize_value(model, statistics_of(model, rows), 0.5)
    after = weights_of(model)
    changed = {n for n in before if (before[n] != after[n]).any()}
    endings = ("value.weight_transposed", "value.bias", f"{dense_of(name)}.weight_transposed")
    assert all(n.endswith(endings) for n in changed)
    assert len(changed) == 3 * LAYERS[name]
    for value in (n for n in changed if n.endswith("value.weight_transposed")):
        stem = value.removesuffix("attention.value.weight_transposed")
        stem = stem.removesuffix("attention.self.value.weight_transposed")
        down = (after[value] / before[value]).mean(axis=0)
        assert powers_of_two(down)
        np.testing.assert_array_equal(after[value], before[value] * down)
        bias = value.replace("weight_transposed", "bias")
        np.testing.assert_array_equal(after[bias], before[bias] * down)
        dense = f"{stem}{dense_of(name)}.weight_transposed"
        np.testing.assert_array_equal(after[dense], before[dense] / down[:, None])


@pytest.mark.parametrize("name", EVERY)
def test_query_and_key_keep_the_function(
    name: str, graph_of: GraphOf, rows: list[Row], tmp_path: Path
) -> None:
    model = load(graph_of(name))
    plant_in_queries(model)
    wanted = run(model, rows, tmp_path)
    before = weights_of(model)
    assert equalize_query_key(model) == LAYERS[name]
    unchanged(wanted, run(model, rows, tmp_path))
    after = weights_of(model)
    assert set(after) == set(before)
    for query in (n for n in after if n.endswith("query.weight_transposed")):
        key = query.replace("query", "key")
        down, up = ((after[n] / before[n]).mean(axis=0) for n in (query, key))
        assert powers_of_two(down)
        np.testing.assert_array_equal(down * up, np.ones_like(up))
        peaks = [np.abs(array).max(axis=0) for array in (after[query], after[key])]
        # Equal but for the common level and rounding to a power of two, twice.
        assert ratio(peaks[0] / peaks[1]) <= 4
        assert ratio(np.abs(before[query]).max(axis=0)) > 10 * ratio(peaks[0])
        bias = query.replace("weight_transposed", "bias")
        np.testing.assert_array_equal(after[bias], before[bias] * down)


@pytest.mark.parametrize(
    "operators", [None, ("ffn", "intermediate.dense"), ("query", "ffn_output")]
)
@pytest.mark.parametrize("name", EVERY)
def test_inputs_keep_the_function(
    name: str, operators: tuple[str, ...] | None, graph_of: GraphOf, rows: list[Row], tmp_path: Path
) -> None:
    model = load(graph_of(name))
    plant_in_norms(model)
    wanted = run(model, rows, tmp_path)
    uses = {n: len(nodes) for n, nodes in weight_uses(model).items()}
    before = weights_of(model)
    count = equalize_inputs(model, statistics_of(model, rows), 0.5, operators)
    assert count > 0
    unchanged(wanted, run(model, rows, tmp_path))
    after = weights_of(model)
    assert {n: len(nodes) for n, nodes in weight_uses(model).items()} == uses
    changed = {n for n in before if (before[n] != after[n]).any()}
    # In front of iteration 0, the projection of ALBERT's embeddings is divided.
    changed -= {n for n in changed if "embedding_hidden_mapping_in" in n}
    assert len(changed) == count
    readers: dict[str, set[str]] = {}
    for use in find_uses(model):
        readers.setdefault(str(use.weight), set()).add(use.operator)
    assert operators is None or all(readers[n] <= set(operators) for n in changed)
    for weight in changed:
        up = (after[weight] / before[weight]).mean(axis=1)
        assert powers_of_two(up)
        np.testing.assert_array_equal(after[weight], before[weight] * up[:, None])


@pytest.mark.parametrize("name", EVERY)
def test_a_shared_weight_has_one_vector_of_scales_for_all_uses(
    name: str, graph_of: GraphOf, rows: list[Row]
) -> None:
    model = load(graph_of(name))
    plant_in_norms(model)
    plant_in_values(model, name)
    scale_columns(model, "intermediate.dense.bias" if name == "bert" else "ffn.bias", 500)
    operators = [p.operator for p in find_uses(model) if p.iteration is not None and p.weight]
    labels = activations(find_uses(model)).values()
    known = set(model.graph.initializers)
    equalize_inputs(model, statistics_of(model, rows), 0.5, sorted(set(operators)))
    added = [v for n, v in model.graph.initializers.items() if n not in known]
    # Query, key and value read the same activation, so theirs is one. Where the last query reads
    # the first token alone, that parts it from a key that is not shared.
    apart = name == "bert" and "encoder iteration 1, query, input" in labels
    # What is divided in ALBERT's projection is multiplied back for the residual sum.
    assert len(added) == 4 * LAYERS[name] + apart + (name != "bert")
    multiplied = [node for node in model.graph if "equalize" in str(node.name)]
    assert {node.op_type for node in multiplied} == {"Mul"}
    assert sum(len(v.uses()) for v in added) == len(multiplied)
    for value in added:
        assert value.const_value is not None
        assert powers_of_two(value.const_value.numpy())
    # Each use of a weight is multiplied by that weight's scales, the same ones.
    factors: dict[str, set[str]] = {}
    for node in model.graph:
        source = node.inputs[0].producer() if node.op_type == "MatMul" and node.inputs[0] else None
        if source in multiplied:
            factors.setdefault(node.inputs[1].name, set()).add(source.inputs[1].name)
    assert len(factors) == 6 * LAYERS[name]
    assert {len(names) for names in factors.values()} == {1}


def test_inputs_lose_their_outliers_and_the_residual_keeps_them(
    graph_of: GraphOf, rows: list[Row]
) -> None:
    model = load(graph_of("albert"))
    plant_in_norms(model)
    before = statistics_of(model, rows)
    equalize_inputs(model, before, 0.5, ["ffn"])
    louds, quiets = (peaks_of(s, "ffn") for s in (before, statistics_of(model, rows)))
    assert len(louds) == 3
    for loud, quiet in zip(louds, quiets, strict=True):
        assert ratio(loud) > 20
        assert ratio(quiet) < ratio(loud) / 4
    norms = [v for v in before if "attention/LayerNorm" in v]
    after = calibrate(model, {name: name for name in norms}, rows)
    for name in norms:
        np.testing.assert_array_equal(after[name].peaks, before[name].peaks)


@pytest.mark.medium
def test_equalizing_inputs_twice_keeps_the_function(
    graph_of: GraphOf, rows: list[Row], tmp_path: Path
) -> None:
    model = load(graph_of("grouped"))
    plant_in_norms(model)
    wanted = run(model, rows, tmp_path)
    assert equalize_inputs(model, statistics_of(model, rows), 0.7, ["key"]) > 0
    assert equalize_inputs(model, statistics_of(model, rows), 0.2) > 0
    unchanged(wanted, run(model, rows, tmp_path))


@pytest.mark.medium
def test_all_passes_together_keep_the_function(
    graph_of: GraphOf, rows: list[Row], tmp_path: Path
) -> None:
    model = load(graph_of("grouped"))
    plant_in_values(model, "grouped")
    plant_in_queries(model)
    plant_in_norms(model)
    wanted = run(model, rows, tmp_path)
    statistics = statistics_of(model, rows)
    stored = len(weight_uses(model))
    assert equalize_inputs(model, statistics, 0.5, ["query", "key", "value", "ffn", "ffn_output"])
    assert equalize_value(model, statistics, 0.5)
    assert equalize_query_key(model)
    unchanged(wanted, run(model, rows, tmp_path))
    assert len(weight_uses(model)) == stored


@pytest.mark.parametrize(("first", "second"), [("query", "key"), ("query", "value")])
@pytest.mark.parametrize("name", ["albert", "bert"])
def test_matrices_that_are_stored_once_because_they_are_equal(
    name: str, first: str, second: str, graph_of: GraphOf, rows: list[Row], tmp_path: Path
) -> None:
    """One matrix for two operators cannot be scaled for one of them alone."""
    model = load(graph_of(name))
    for value in named(model, f"{second}.weight_transposed"):
        other = str(value.name).replace(second, first)
        value.replace_all_uses_with(model.graph.initializers[other])
        del model.graph.initializers[str(value.name)]
    plant_in_norms(model)
    wanted = run(model, rows, tmp_path)
    statistics = statistics_of(model, rows)
    equalize_inputs(model, statistics, 0.5, [first, "ffn", "intermediate.dense"])
    equalize_value(model, statistics, 0.5)
    equalize_query_key(model)
    unchanged(wanted, run(model, rows, tmp_path))


def test_a_silent_channel_keeps_its_weights(graph_of: GraphOf, rows: list[Row]) -> None:
    model = load(graph_of("albert"))
    plant_in_values(model, "albert")
    (value,) = named(model, "value.weight_transposed")
    (bias,) = named(model, "value.bias")
    for parameter in (value, bias):
        assert parameter.const_value is not None
        array = parameter.const_value.numpy().copy()
        array[..., 5] = 0
        parameter.const_value = ir.tensor(array, name=parameter.name)
    (dense,) = named(model, "attention.dense.weight_transposed")
    assert dense.const_value is not None
    before = dense.const_value.numpy().copy()
    equalize_value(model, statistics_of(model, rows), 0.5)
    assert dense.const_value is not None
    after = dense.const_value.numpy()
    np.testing.assert_array_equal(after[5], before[5])
    assert (after[3] != before[3]).any()


def test_hardened_checkpoint_is_the_same_function_with_outliers(
    make_checkpoint: Callable[..., Path], harden: Callable[..., Path]
) -> None:
    import torch
    from transformers import AlbertForSequenceClassification

    plain = make_checkpoint(num_hidden_groups=2, num_hidden_layers=4)
    hard = harden(plain, factor=FACTOR, channels=4, seed=1)
    assert {p.name for p in hard.iterdir()} == {p.name for p in plain.iterdir()}
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 200, (4, 20)))
    logits, peaks = [], []
    for folder in (plain, hard):
        model = AlbertForSequenceClassification.from_pretrained(folder).eval()
        seen: list[torch.Tensor] = []
        for group in model.albert.encoder.albert_layer_groups:
            group.albert_layers[0].attention.dense.register_forward_hook(
                lambda module, inputs, output, seen=seen: seen.append(
                    inputs[0].abs().amax(dim=(0, 1))
                )
            )
        with torch.no_grad():
            logits.append(model(input_ids=ids).logits.numpy())
        peaks.append(torch.stack(seen).numpy())
    assert np.abs(logits[1] - logits[0]).max() <= 1e-4 * np.abs(logits[0]).max()
    growth = peaks[1] / peaks[0]
    assert len(growth) == 4
    for use in growth:
        assert ((use > 0.99 * FACTOR) & (use < 1.01 * FACTOR)).sum() == 4
        assert ((use > 0.99) & (use < 1.01)).sum() == 32 - 4
    grown = peaks[1].max(axis=1) / peaks[0].max(axis=1)
    assert (grown > FACTOR / 3).all()
    assert (grown < 1.01 * FACTOR).all()


def test_hardening_depends_on_the_seed_alone(
    make_checkpoint: Callable[..., Path], harden: Callable[..., Path]
) -> None:
    plain = make_checkpoint()
    contents = [(harden(plain, seed=seed) / "model.safetensors").read_bytes() for seed in (0, 0, 1)]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert (plain / "model.safetensors").read_bytes() not in contents
