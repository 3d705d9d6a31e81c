"""The comparison's figures against their definitions, and the edge grid's shape."""

from __future__ import annotations

import math

import numpy as np
import pytest

from albert_deploy.validation.parity.difference import BATCHES, Difference, edge_grid

RANDOM = np.random.default_rng(0)


def _contract(axes: list[str], max_length: int = 512) -> dict[str, object]:
    return {"max_length": max_length, "inputs": [{"name": "input_ids", "axes": axes}]}


def test_figures_over_several_runs_equal_those_of_all_values_together() -> None:
    a = RANDOM.normal(size=(5, 7)).astype(np.float32)
    b = (a + RANDOM.normal(size=a.shape) * 0.01).astype(np.float32)
    difference = Difference("argmax")
    largest = [difference.add(a[i : i + 1], b[i : i + 1]) for i in range(5)]
    got = difference.to_json()
    error = a.astype(np.float64) - b
    assert got["max_abs"] == pytest.approx(np.abs(error).max()) == pytest.approx(max(largest))
    assert got["mean_abs"] == pytest.approx(np.abs(error).mean())
    assert got["relative"] == pytest.approx(np.abs(error).max() / np.abs(a).max())
    assert got["sqnr_db"] == pytest.approx(
        10 * math.log10((a.astype(np.float64) ** 2).sum() / (error**2).sum()), abs=0.01
    )
    norms = np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64))
    assert got["cosine"] == pytest.approx((a.astype(np.float64) * b).sum() / norms)
    assert got["agreement"] == (a.argmax(-1) == b.argmax(-1)).mean()


def test_an_exact_match_has_no_noise() -> None:
    difference = Difference("argmax")
    difference.add(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
    assert difference.sqnr_db == math.inf
    assert difference.to_json()["sqnr_db"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_seen(bad: float) -> None:
    difference = Difference(None)
    assert difference.add(np.ones(2, np.float32), np.array([1, bad], np.float32)) == math.inf
    assert not difference.finite
    assert difference.relative == math.inf
    assert difference.to_json()["relative"] is None


def test_decisions_by_sign() -> None:
    difference = Difference("sign")
    difference.add(np.array([[1, -1, 1, -1]], np.float32), np.array([[2, -3, -1, -1]], np.float32))
    assert difference.agreement == 0.75


def test_the_grid_has_every_batch_length_and_mask() -> None:
    config = {"type_vocab_size": 2}
    texts = [np.arange(20, 29), np.arange(30, 50)]
    cases = edge_grid(_contract(["batch", "sequence"]), config, texts)
    shapes = {case.feeds["input_ids"].shape for case in cases}
    assert shapes == {(b, n) for b in BATCHES for n in (1, 2, 17, 128, 512)}
    wide = next(c for c in cases if c.feeds["input_ids"].shape == (7, 17)).feeds["attention_mask"]
    full, right, left, holed, empty = wide[:5]
    assert full.all()
    assert not empty.any()
    assert right[0]
    assert not right[-1]
    assert left[-1]
    assert not left[0]
    assert 0 < holed.sum() < 17
    alone = {tuple(c.feeds["attention_mask"][0]) for c in cases if len(c.name.split("+")) == 1}
    assert len(alone) > 5
    for case in cases:
        joined = case.feeds["input_ids"].reshape(-1, case.feeds["input_ids"].shape[-1])
        assert {int(row[0]) for row in joined} <= {20, 30}
        assert {int(n) for n in np.unique(np.diff(joined))} <= {1, 2, -8, -19, -29}
        assert set(np.unique(case.feeds["token_type_ids"])) <= {0, 1}


def test_the_grid_follows_the_model() -> None:
    cases = edge_grid(
        _contract(["batch", "choices", "sequence"], 17), {"type_vocab_size": 1}, [np.arange(9)]
    )
    assert {c.feeds["input_ids"].shape for c in cases} == {
        (b, 2, n) for b in BATCHES for n in (1, 2, 17)
    }
    assert not any(c.feeds["token_type_ids"].any() for c in cases)
