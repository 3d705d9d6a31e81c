"""Divergence and rank agreement of outputs against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import kendalltau

from albert_deploy.validation.parity.difference import Difference, alike, divergences

RANDOM = np.random.default_rng(3)


def _pair(rows: int, classes: int, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    a = RANDOM.normal(size=(rows, classes)) * 3
    return a, a + RANDOM.normal(size=a.shape) * noise


@pytest.mark.parametrize("classes", [2, 3, 40, 1000])
def test_the_divergence_is_that_of_the_softmax(classes: int) -> None:
    a, b = _pair(7, classes)
    p, q = log_softmax(a, axis=-1), log_softmax(b, axis=-1)
    assert divergences(a, b) == pytest.approx((np.exp(p) * (p - q)).sum(axis=-1), rel=1e-9)
    assert divergences(a + 1e4, b - 1e4) == pytest.approx(divergences(a, b), rel=1e-6)
    assert divergences(a, a).max() == 0


@pytest.mark.parametrize("classes", [3, 9, 100])
def test_up_to_a_hundred_classes_it_is_kendalls_tau(classes: int) -> None:
    a, b = _pair(5, classes)
    wanted = [(kendalltau(x, y).statistic + 1) / 2 for x, y in zip(a, b, strict=True)]
    assert alike(a, b) == pytest.approx(wanted)


def test_above_it_is_the_overlap_of_the_best_five() -> None:
    a = np.arange(500.0)[None]
    b = a.copy()
    b[0, 499] = -1
    b[0, 0] = 1000
    assert alike(a, b) == pytest.approx([0.8])
    assert alike(a, a) == pytest.approx([1.0])


def test_with_two_classes_rank_agreement_is_the_agreement() -> None:
    a, b = (x.astype(np.float32) for x in _pair(50, 2, noise=3.0))
    difference = Difference("argmax")
    for i in range(0, 50, 10):
        difference.add(a[i : i + 10], b[i : i + 10])
    assert difference.agreement is not None
    assert 0 < difference.agreement < 1
    assert difference.rank_agreement == pytest.approx(difference.agreement)
    found = difference.to_json()
    assert found["kl"] == pytest.approx(
        divergences(a.astype(np.float64), b.astype(np.float64)).mean()
    )
    assert found["rank_agreement"] == difference.rank_agreement


@pytest.mark.parametrize("decision", ["sign", None])
def test_what_is_no_choice_has_neither(decision: str | None) -> None:
    difference = Difference(decision)
    difference.add(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert difference.to_json()["kl"] is None
    assert difference.to_json()["rank_agreement"] is None


def test_values_that_are_not_finite_leave_the_figures_of_the_others() -> None:
    difference = Difference("argmax")
    good = np.array([[1.0, 2.0]], np.float32)
    difference.add(good, good + np.array([[0.0, 1.0]], np.float32))
    before = difference.kl
    difference.add(good, np.array([[np.nan, 1.0]], np.float32))
    assert difference.kl == before
    assert not difference.finite
