"""Errors against float64: their figures, and which changed decisions they explain."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from albert_deploy.validation.parity.rounding import FLOOR, Rounding

RANDOM = np.random.default_rng(0)
EXACT = RANDOM.normal(size=(6, 5))


def _noisy(size: float) -> npt.NDArray[np.float32]:
    noise = RANDOM.uniform(-1, 1, EXACT.shape)
    return (EXACT + size * noise / np.abs(noise).max()).astype(np.float32)


def test_figures_over_several_runs_equal_those_of_all_values_together() -> None:
    source, variant = _noisy(1e-4), _noisy(3e-4)
    rounding = Rounding("argmax")
    for i in range(0, 6, 2):
        rounding.add(*(x[i : i + 2] for x in (EXACT, source, variant)))
    got, peak = rounding.to_json(), np.abs(EXACT).max()
    own, error = source - EXACT, variant - EXACT
    assert got["source_max"] == pytest.approx(np.abs(own).max() / peak)
    assert got["variant_max"] == pytest.approx(np.abs(error).max() / peak)
    assert got["source_rms"] == pytest.approx(math.sqrt((own**2).mean()) / peak)
    assert got["variant_rms"] == pytest.approx(math.sqrt((error**2).mean()) / peak)
    largest = np.abs(error).max() / np.abs(own).max()
    mean = math.sqrt((error**2).sum() / (own**2).sum())
    assert got["ratio"] == rounding.ratio == pytest.approx(max(largest, mean))
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_a_source_that_is_exact_has_the_floor() -> None:
    exact = np.ones((2, 3))
    source = exact.astype(np.float32)
    rounding = Rounding(None)
    rounding.add(exact, source, source)
    assert rounding.ratio == 0
    rounding.add(exact, source, source + np.float32(2 * FLOOR))
    assert rounding.ratio == pytest.approx(2)


def test_one_large_error_and_many_small_ones_both_show() -> None:
    # The source has one outlier; the variant has its size everywhere.
    exact = np.linspace(-1, 1, 1000).reshape(1, 1000)
    source = exact.astype(np.float32)
    source[0, 7] += np.float32(1e-3)
    rounding = Rounding(None)
    rounding.add(exact, source, (exact + 1e-3).astype(np.float32))
    assert rounding.ratio > 20


@pytest.mark.parametrize(("decision", "rank"), [("argmax", 2), ("sign", 1)])
def test_a_change_counts_by_what_float64_decides(decision: str, rank: int) -> None:
    exact = np.array([[1e-5, 0.0]])[:, :rank]
    source = np.array([[2e-5, 0.0]], np.float32)[:, :rank]
    near = np.array([[-1e-6, 0.0]], np.float32)[:, :rank]
    rounding = Rounding(decision)
    rounding.add(exact, source, source)
    assert (rounding.changed, rounding.changed_ratio) == (0, 0)
    rounding.add(exact, source, near)
    assert rounding.changed == 1
    # A tie of two classes is broken by half of their distance in each.
    assert rounding.changed_ratio == pytest.approx(0.5 if rank == 2 else 1, rel=1e-3)
    # Far more certain than the source's error there.
    certain = np.array([[1.0, 0.0]])[:, :rank]
    rounding.add(certain, certain.astype(np.float32), near)
    assert rounding.changed == 2
    assert rounding.changed_ratio > 1e5 / rank


@pytest.mark.parametrize("where", ["exact", "variant"])
def test_what_is_not_finite_has_no_ratio(where: str) -> None:
    exact, variant = np.ones((1, 2)), np.ones((1, 2), np.float32)
    (exact if where == "exact" else variant)[0, 0] = np.nan
    rounding = Rounding("argmax")
    rounding.add(exact, np.ones((1, 2), np.float32), variant)
    assert rounding.ratio == math.inf
    assert rounding.to_json()["ratio"] is None
