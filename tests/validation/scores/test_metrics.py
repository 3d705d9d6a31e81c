from __future__ import annotations

import sys
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.validation.scores.metrics import (
    entity_counts,
    entity_f1,
    f1,
    matthews,
    pearson,
    spearman,
)

BITS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@pytest.mark.parametrize("metric", [f1, matthews, pearson, spearman])
def test_scores_want_one_prediction_per_label(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(InputError, match=r"\(2,\).*\(1,\)"):
        metric([0, 1], [0])
    with pytest.raises(InputError, match="one class id per row"):
        metric([0, 1], np.zeros((2, 2)))
    with pytest.raises(InputError, match="no rows"):
        metric([], [])


@given(BITS)
def test_two_class_scores_by_hand(rows: list[tuple[int, int]]) -> None:
    labels, found = zip(*rows, strict=True)
    right = sum(label and got for label, got in rows)
    assert f1(labels, found) == pytest.approx(200 * right / max(1, sum(labels) + sum(found)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of a constant side
        wanted = np.corrcoef(labels, found)[0, 1] * 100
    assert matthews(labels, found) == pytest.approx(np.nan_to_num(wanted), abs=1e-9)


def test_constant_sides_score_0() -> None:
    assert f1([0, 0], [0, 0]) == matthews([0, 0], [0, 0]) == 0.0
    assert f1([1, 1], [1, 1]) == 100.0
    assert matthews([1, 1], [1, 1]) == matthews([0, 1], [1, 1]) == matthews([1], [0]) == 0.0
    for correlation in (pearson, spearman):
        assert correlation([1, 2, 3], [2, 2, 2]) == correlation([2, 2], [1, 3]) == 0.0
        assert correlation([1.0], [2.0]) == 0.0


def test_correlations() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(100)
    assert pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-100)
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(100)
    assert pearson([1, 2, 3], [1e30, -1e30, 1e30]) == pytest.approx(0, abs=1e-9)
    nearly = [1.0, 1.0, np.nextafter(1.0, 2.0)]
    assert spearman([1, 2, 3], nearly) == pytest.approx(86.60254)
    assert np.isfinite(pearson([1, 2, 3], nearly))


def test_entities() -> None:
    wanted = [["B-PER", "I-PER", "O"], ["B-LOC", "O"], ["O"]]
    assert entity_f1(wanted, wanted) == 100.0
    # One of two right, the type of the other is wrong, and an I- opens a third.
    found = [["B-PER", "I-PER", "O"], ["B-ORG", "O"], ["I-ORG"]]
    assert entity_f1(wanted, found) == pytest.approx(100 * 2 * 1 / (3 + 2))
    assert entity_counts(wanted, found).tolist() == [[1, 1, 1], [0, 1, 1], [0, 1, 0]]
    assert entity_f1([["O"]], [["O"]]) == 0.0
    # An entity does not go on in the next sentence.
    assert entity_counts([["B-PER"], ["I-PER"]], [["O"], ["O"]])[:, 2].tolist() == [1, 1]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MachineError, match=r"computed by sklearn, .*pip install 'albert-deploy\["):
        f1([0, 1], [0, 1])
