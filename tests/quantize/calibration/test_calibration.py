"""Calibration: what it refuses, by name, and that it gives the same whatever the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from albert_deploy.export.graph.file import load
from albert_deploy.export.graph.uses import activations, find_uses
from albert_deploy.quantize.calibration.observe import Row, calibrate, tapped
from albert_deploy.quantize.calibration.statistics import Statistics
from albert_deploy.runtime.errors import InputError

Ids = npt.NDArray[np.int64]
MakeRow = Callable[[str, Ids], Row]
POISON = 199


@pytest.fixture
def model(graph_of: Callable[[str], Path]) -> ir.Model:
    return load(graph_of("albert"))


def labels_of(model: ir.Model) -> dict[str, str]:
    return activations(find_uses(model))


def change(model: ir.Model, name: str, edit: Callable[[npt.NDArray[np.float32]], object]) -> None:
    (value,) = (v for n, v in model.graph.initializers.items() if n.endswith(name))
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    edit(array)
    value.const_value = ir.tensor(array, name=value.name)


def poison(model: ir.Model) -> None:
    """Make one token's embedding so large that it overflows in the second place of a text.

    All weights stay finite, and a layer norm brings every other token back to normal.
    """
    for name, row in (("word_embeddings.weight", POISON), ("position_embeddings.weight", 1)):

        def edit(table: npt.NDArray[np.float32], row: int = row) -> None:
            table[row] = 3e38

        change(model, name, edit)


def same(first: dict[str, Statistics], second: dict[str, Statistics]) -> None:
    assert list(first) == list(second)
    for name, a in first.items():
        b = second[name]
        assert (a.label, a.width, a.minimum, a.maximum) == (b.label, b.width, b.minimum, b.maximum)
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(a.peaks, b.peaks)


def test_overflow_on_one_token_names_the_operator_and_the_row(
    model: ir.Model, make_row: MakeRow, rows: list[Row]
) -> None:
    poison(model)
    bad = make_row("sst2/train/4711", np.array([7, POISON, 8]))
    with pytest.raises(InputError) as caught:
        calibrate(model, labels_of(model), [*rows, bad])
    assert "embedding_hidden_mapping_in, input is NaN or infinite" in str(caught.value)
    assert "sst2/train/4711" in str(caught.value)


def test_without_that_token_the_same_checkpoint_calibrates(
    model: ir.Model, rows: list[Row]
) -> None:
    poison(model)
    assert calibrate(model, labels_of(model), rows)


def test_the_first_row_that_overflows_is_named(
    model: ir.Model, make_row: MakeRow, rows: list[Row]
) -> None:
    poison(model)
    bad = [make_row(f"bad-{i}", np.array([9, POISON])) for i in range(2)]
    with pytest.raises(InputError, match="on calibration row bad-0"):
        calibrate(model, labels_of(model), [rows[0], *bad])


@pytest.mark.parametrize(
    ("weight", "label"),
    [
        ("ffn.weight_transposed", "encoder iteration 0, ffn_output, input"),
        ("attention.value.weight_transposed", "encoder iteration 0, probabilities x value"),
        ("pooler.weight_transposed", "classifier, input"),
    ],
)
def test_the_first_operator_that_is_not_finite_is_named(
    weight: str, label: str, model: ir.Model, rows: list[Row]
) -> None:
    def edit(array: npt.NDArray[np.float32]) -> None:
        array[:] = np.nan

    change(model, weight, edit)
    with pytest.raises(InputError, match=f"^{label}.*row-0"):
        calibrate(model, labels_of(model), rows)


def test_no_rows_is_an_error(model: ir.Model) -> None:
    with pytest.raises(InputError, match="no calibration rows"):
        calibrate(model, labels_of(model), [])


def test_calibration_is_the_same_again_and_in_any_order(model: ir.Model, rows: list[Row]) -> None:
    wanted = calibrate(model, labels_of(model), rows)
    same(calibrate(model, labels_of(model), rows), wanted)
    same(calibrate(model, labels_of(model), rows[::-1]), wanted)


def test_every_activation_of_every_token_is_counted(model: ir.Model, rows: list[Row]) -> None:
    labels = labels_of(model)
    found = calibrate(model, labels, iter(rows))
    assert {name: s.label for name, s in found.items()} == labels
    lengths = [row.feeds["input_ids"].shape[1] for row in rows]
    by_label = {s.label: s for s in found.values()}
    # Hidden size 32, four heads; what follows the last keys and values sees one token.
    assert by_label["encoder iteration 2, ffn, input"].total == 32 * sum(lengths)
    assert by_label["encoder iteration 2, ffn_output, input"].total == 64 * sum(lengths)
    probabilities = by_label["encoder iteration 2, probabilities x value, input 1"]
    assert probabilities.total == 4 * sum(n * n for n in lengths)
    assert probabilities.peaks.shape == (1,)
    assert 0 <= probabilities.minimum <= probabilities.maximum <= 1
    assert by_label["encoder iteration 2, attention.dense, input"].peaks.shape == (32,)
    assert by_label["classifier, input"].total == 32 * len(rows)


def test_statistics_are_those_of_the_activations(model: ir.Model, rows: list[Row]) -> None:
    labels = labels_of(model)
    found = calibrate(model, labels, rows)
    (name,) = (n for n, label in labels.items() if label == "encoder iteration 2, ffn, input")
    with tapped(model, [name]) as session:
        tokens = np.concatenate([session.run(row.feeds)[name][0] for row in rows])
    np.testing.assert_array_equal(found[name].peaks, np.abs(tokens).max(axis=0))
    assert (found[name].minimum, found[name].maximum) == (tokens.min(), tokens.max())


def test_extremes_alone_are_those_of_the_full_statistics(model: ir.Model, rows: list[Row]) -> None:
    labels = labels_of(model)
    full = calibrate(model, labels, rows)
    for name, statistics in calibrate(model, labels, rows, histograms=False).items():
        assert statistics.peak == full[name].peak
        assert (statistics.minimum, statistics.maximum) == (full[name].minimum, full[name].maximum)
        assert statistics.total == 0


def test_watchers_see_every_activation_of_every_row(model: ir.Model, rows: list[Row]) -> None:
    seen: list[str] = []
    labels = labels_of(model)
    calibrate(model, labels, rows[:3], watchers=[lambda name, values: seen.append(name)])
    assert seen == list(labels) * 3


def test_the_graph_is_left_as_it_was(model: ir.Model, make_row: MakeRow, rows: list[Row]) -> None:
    poison(model)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    calibrate(model, labels_of(model), rows)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    with pytest.raises(InputError):
        calibrate(model, labels_of(model), [make_row("bad", np.array([9, POISON]))])
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
