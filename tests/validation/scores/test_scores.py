"""Scores, their values per row and their resamples, against the libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    PlainRow,
    QuestionRow,
    TokensRow,
)
from albert_deploy.validation.data.table import DATASETS
from albert_deploy.validation.scores import metrics
from albert_deploy.validation.scores.measured import Measured, ranks, times
from albert_deploy.validation.scores.metrics import entities
from albert_deploy.validation.scores.scores import LEAST_LOG_PROB, measure

TAGS = ("O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC")


def classified(name: str, labels: Any, found: Any) -> dict[str, Measured]:
    rows = [
        ClassificationRow(id=str(i), text="a", pair=None, label=label)
        for i, label in enumerate(labels)
    ]
    return measure(name, rows, {str(i): value for i, value in enumerate(found)})


def check(
    measured: Measured, score: Callable[[npt.NDArray[np.int64]], float], seed: int = 0
) -> None:
    """Check a score, its resamples one by one and together, and its values if it is a mean."""
    everything = np.arange(measured.rows)
    random = np.random.default_rng(seed)
    resamples = random.integers(0, measured.rows, (8, measured.rows))
    resamples[0] = everything
    resamples[1] = everything[-1]
    wanted = [score(index) for index in resamples]
    assert measured.score == pytest.approx(score(everything), rel=0, abs=1e-10)
    assert [measured.at(index) for index in resamples] == pytest.approx(wanted, rel=0, abs=1e-9)
    assert measured.many(resamples) == pytest.approx(np.array(wanted), rel=0, abs=1e-9)
    shorter = resamples[:, : max(1, measured.rows // 2)]
    assert measured.many(shorter) == pytest.approx([score(i) for i in shorter], rel=0, abs=1e-9)
    if measured.values is not None:
        assert measured.values.shape == (measured.rows,)
        assert measured.values.mean() == pytest.approx(measured.score, rel=0, abs=1e-12)


@settings(max_examples=12)  # scikit-learn takes a while
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60),
    st.integers(0, 99),
)
def test_two_classes_equal_the_libraries(rows: list[tuple[int, int]], seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, found = (np.array(side) for side in zip(*rows, strict=True))
    scores = classified("mrpc", labels, found)
    assert list(scores) == ["accuracy", "f1"]
    check(scores["accuracy"], lambda i: 100 * sklearn.accuracy_score(labels[i], found[i]), seed)
    check(
        scores["f1"], lambda i: 100 * sklearn.f1_score(labels[i], found[i], zero_division=0.0), seed
    )
    (matthews,) = classified("cola", labels, found).values()
    assert matthews.name == "matthews"
    check(matthews, lambda i: metrics.matthews(labels[i], found[i]), seed)
    assert classified("qqp", labels, found)["f1"].score == scores["f1"].score


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.2, 1.0, 2.5, 3.8, 5.0]),
            st.one_of(st.sampled_from([0.0, 1.5, 4.0]), st.floats(-(2.0**100), 2.0**100, width=32)),
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 99),
)
def test_correlations_equal_scipy(rows: list[tuple[float, float]], seed: int) -> None:
    labels, found = (np.array(side) for side in zip(*rows, strict=True))
    scores = classified("stsb", labels, found)
    assert list(scores) == ["pearson", "spearman"]
    check(scores["spearman"], lambda i: metrics.spearman(labels[i], found[i]), seed)
    away = np.abs(found - found.mean()).max()
    if away > 1e-6 * np.abs(found).max():  # else SciPy warns that its value is inexact
        everything = np.arange(len(labels))
        wanted = metrics.pearson(labels, found)
        assert scores["pearson"].score == wanted
        assert scores["pearson"].at(everything) == pytest.approx(wanted, rel=0, abs=1e-9)


def test_correlations_of_resamples_equal_scipy() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 26, 500) / 5
    found = labels + random.normal(size=500)
    scores = classified("stsb", labels, found)
    check(scores["pearson"], lambda i: metrics.pearson(labels[i], found[i]))
    check(scores["spearman"], lambda i: metrics.spearman(labels[i], found[i]))
    assert classified("stsb", labels, np.full(500, 2.0))["pearson"].score == 0.0


def test_predictions_that_are_none_or_nan_are_wrong() -> None:
    for wrong in (None, math.nan, 7, -1):
        scores = classified("mrpc", [1, 1, 0, 0], [1, wrong, 0, wrong])
        assert scores["accuracy"].score == 50.0
        assert scores["f1"].score == pytest.approx(100 * 2 * 1 / (2 + 2))
        assert classified("cola", [1, 0], [wrong, wrong])["matthews"].score == pytest.approx(-100)
        assert classified("mnli", [0, 2, 1], [0, wrong, 2])["accuracy"].score == pytest.approx(
            100 / 3
        )
    for wrong in (None, math.nan, math.inf, -math.inf):
        found = classified("stsb", [0.0, 5.0, 4.0], [wrong, 5.0, 4.0])["pearson"].score
        assert found == classified("stsb", [0.0, 5.0, 4.0], [5.0, 5.0, 4.0])["pearson"].score
    rows = [ClassificationRow(id="0", text="a", pair=None, label=1)]
    assert measure("sst2", rows, {})["accuracy"].score == 0.0
    with pytest.raises(InputError, match="no rows of sst2 to score"):
        measure("sst2", [], {})


def test_squad_v1_takes_texts_and_dicts() -> None:
    rows = [
        QuestionRow(id=str(i), question="Q", context="red sea", answers=("red sea",))
        for i in range(3)
    ]
    scores = measure("squad", rows, {"0": "the red sea", "1": {"text": "red", "no_answer": None}})
    assert list(scores) == ["exact_match", "f1"]
    values = {"exact_match": [100, 0, 0], "f1": [100, 200 / 3, 0]}
    for name, wanted in values.items():
        assert scores[name].values == pytest.approx(wanted)
        check(scores[name], lambda i, wanted=wanted: float(np.mean(np.array(wanted)[i])))


def test_race_by_group() -> None:
    groups = ["middle", "high", "high"]
    rows = [
        ChoiceRow(id=str(i), context="c", question="q", choices=tuple("abcd"), label=3, group=group)
        for i, group in enumerate(groups)
    ]
    scores = measure("race", rows, {"0": 3, "1": 3, "2": 0})
    assert {name: (m.score, m.rows) for name, m in scores.items()} == {
        "accuracy": (pytest.approx(200 / 3), 3),
        "accuracy_middle": (100.0, 1),
        "accuracy_high": (50.0, 2),
    }
    assert list(measure("race", rows[1:], {})) == ["accuracy", "accuracy_high"]


def spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Entities by trying every stretch of words: joined inside and cut at both ends."""

    def cut(place: int) -> bool:
        """Whether an entity cannot go on from the word before ``place`` to the one at it."""
        if not 0 < place < len(tags):
            return True
        before, after = tags[place - 1], tags[place]
        return before[0] in "OESLU" or after[0] in "OBSU" or before[2:] != after[2:]

    return {
        (tags[first][2:], first, last)
        for first in range(len(tags))
        for last in range(first, len(tags))
        if "O" not in tags[first : last + 1]
        and cut(first)
        and cut(last + 1)
        and not any(cut(place) for place in range(first + 1, last + 1))
    }


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("I-PER I-PER B-PER", {("PER", 0, 1), ("PER", 2, 2)}),  # IOB1
        ("B-PER I-LOC", {("PER", 0, 0), ("LOC", 1, 1)}),
        ("B-PER E-PER I-PER S-PER", {("PER", 0, 1), ("PER", 2, 2), ("PER", 3, 3)}),
        ("B-PER L-PER U-PER U-LOC", {("PER", 0, 1), ("PER", 2, 2), ("LOC", 3, 3)}),  # BILOU
        ("O O", set()),
    ],
)
def test_entities_of_a_sentence(tags: str, found: set[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == spans(tags.split()) == found


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=6),
        min_size=1,
        max_size=8,
    )
)
def test_entities_are_scored_as_conll_does(sentences: list[list[tuple[str, str]]]) -> None:
    wanted = [[tag for tag, _ in sentence] for sentence in sentences]
    found = [[tag.lower() for _, tag in sentence] for sentence in sentences]
    rows = [
        TokensRow(id=str(i), words=("w",) * len(tags), tags=tuple(tags))
        for i, tags in enumerate(wanted)
    ]
    scores = measure("conll2003", rows, {str(i): tuple(tags) for i, tags in enumerate(found)})

    def score(index: npt.NDArray[np.int64]) -> float:
        there = [spans(wanted[i]) for i in index]
        got = [spans([tag.upper() for tag in found[i]]) for i in index]
        right = sum(len(a & b) for a, b in zip(there, got, strict=True))
        total = sum(map(len, there)) + sum(map(len, got))
        return 200 * right / total if total else 0.0

    assert list(scores) == ["f1"]
    check(scores["f1"], score)


def test_tags_have_to_fit() -> None:
    rows = [TokensRow(id="7", words=("a", "b"), tags=("B-PER", "O"))]
    assert measure("conll2003", rows, {})["f1"].score == 0.0
    with pytest.raises(InputError, match="row 7 has 2 words and 1 predicted tags"):
        measure("conll2003", rows, {"7": ("O",)})
    with pytest.raises(InputError, match="row 7 has the predicted tag 'LABEL_1', wanted O"):
        measure("conll2003", rows, {"7": ("O", "LABEL_1")})


def position(wanted: int, *top: int, log_prob: float = -1.0) -> dict[str, Any]:
    return {"top": top, "wanted": wanted, "log_prob": log_prob}


def test_masked_tokens() -> None:
    rows = [PlainRow(id=str(i), text="t", following=None) for i in range(3)]
    found = {
        "0": [position(5, 5, 1, 2, 3, 4, log_prob=-0.5), position(5, 1, 2, 3, 4, 5, log_prob=-1.5)],
        "1": [position(9, 1, 2, 3, 4, 5, 9, log_prob=-4.0)],
        "2": [],
    }
    scores = measure("mlm", rows, found)
    sums = np.array([[1, 2, -2.0, 2], [0, 0, -4.0, 1], [0, 0, 0.0, 0]])
    assert [scores["top1"].score, scores["top5"].score] == pytest.approx([100 / 3, 200 / 3])
    assert scores["pseudo_perplexity"].score == pytest.approx(math.exp(2.0))
    assert not scores["pseudo_perplexity"].higher_is_better
    assert scores["top1"].higher_is_better
    assert all(measured.values is None for measured in scores.values())
    index = np.array([0, 0, 1])
    top1, top5, negative, count = sums[index].sum(axis=0)
    assert scores["top1"].at(index) == pytest.approx(100 * top1 / count)
    assert scores["top5"].many(index[np.newaxis])[0] == pytest.approx(100 * top5 / count)
    assert scores["pseudo_perplexity"].at(index) == pytest.approx(math.exp(-negative / count))
    empty = np.array([2, 2])
    assert scores["top1"].at(empty) == 0.0
    assert scores["pseudo_perplexity"].at(empty) == pytest.approx(math.exp(-LEAST_LOG_PROB))
    with pytest.raises(InputError, match="no row has a masked position"):
        measure("mlm", rows[2:], found)


@pytest.mark.parametrize("log_prob", [math.nan, -math.inf, None])
def test_masked_tokens_without_a_number_are_the_worst(log_prob: float | None) -> None:
    rows = [PlainRow(id="0", text="t", following=None)]
    found = {} if log_prob is None else {"0": [position(5, 1, log_prob=log_prob)]}
    score = measure("mlm", rows, found)["pseudo_perplexity"].score
    assert score == pytest.approx(math.exp(-LEAST_LOG_PROB))
    assert math.isfinite(score)


def test_sentence_order() -> None:
    rows = [PlainRow(id=str(i), text="a", following="b", label=i % 2) for i in range(4)]
    (accuracy,) = measure("sop", rows, {"0": 0, "1": 1, "2": 1, "3": None}).values()
    assert (accuracy.name, accuracy.score) == ("accuracy", 50.0)


def test_every_published_metric_is_made_of_full_data() -> None:
    for name, dataset in DATASETS.items():
        assert len(set(dataset.metrics)) == len(dataset.metrics), name


def test_times_and_ranks() -> None:
    indices = np.array([[0, 0, 2], [1, 1, 1]])
    assert times(indices, 4).tolist() == [[2, 0, 1, 0], [0, 3, 0, 0]]
    assert ranks(np.array([5.0, 1.0, 9.0]), indices).tolist() == [[1.5, 1.5, 3], [2, 2, 2]]
