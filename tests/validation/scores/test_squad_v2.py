"""SQuAD v2.0's scores against the official figures and a search over all thresholds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from albert_deploy.validation.data.datasets import read_dataset
from albert_deploy.validation.data.rows import QuestionRow
from albert_deploy.validation.scores.measured import Measured
from albert_deploy.validation.scores.scores import measure
from albert_deploy.validation.scores.squad_v2 import exact_match, f1

CASES = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(["", "red sea", "red", "blue"]),
        st.floats(-5, 5, width=16),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


def question(row_id: str, *answers: str) -> QuestionRow:
    return QuestionRow(id=row_id, question="Q", context="red sea", answers=answers)


def scored(cases: list[tuple[bool, str, float, bool]]) -> dict[str, Measured]:
    """Rows that can be answered, or not, texts, no-answer scores and whether there is one."""
    rows = [question(str(i), *(["red sea"] * case[0])) for i, case in enumerate(cases)]
    found = {
        str(i): {"text": text, "no_answer": score}
        for i, (_, text, score, there) in enumerate(cases)
        if there
    }
    return measure("squad_v2", rows, found)


def value(name: str, answerable: bool, text: str) -> float:
    metric = exact_match if "exact" in name else f1
    return metric(text, ("red sea",) if answerable else ())


def test_an_empty_answer_is_right_where_there_is_none() -> None:
    assert exact_match("", ()) == f1("", ()) == exact_match("the", ()) == f1("the", ()) == 1.0
    assert exact_match("red", ()) == f1("red", ()) == 0.0
    assert exact_match("", ("red",)) == f1("", ("red",)) == f1("the", ("red",)) == 0.0
    assert f1("red sea", ("the", "red")) == pytest.approx(2 / 3)
    assert exact_match("the", ("a",)) == f1("the", ("a",)) == 1.0


def test_the_empty_answer_is_taken_above_0() -> None:
    cases = [
        (True, "red sea", -1.0, True),
        (True, "red", 0.5, True),
        (False, "red", 0.5, True),
        (False, "red", 0.0, True),
        (False, "", -9.0, True),
    ]
    scores = {name: measured.score for name, measured in scored(cases).items()}
    assert scores == {
        "exact": 60.0,
        "f1": 60.0,
        "HasAns_exact": 50.0,
        "HasAns_f1": 50.0,
        "NoAns_exact": pytest.approx(200 / 3),
        "NoAns_f1": pytest.approx(200 / 3),
        "best_exact": 80.0,
        "best_f1": 80.0,
    }


def test_parts_without_questions_and_scores_without_a_null_are_left_out() -> None:
    rows = [question("a", "red"), question("b", "red sea")]
    found: dict[str, Any] = {"a": {"text": "red", "no_answer": None}, "b": "sea"}
    scores = measure("squad_v2", rows, found)
    assert list(scores) == ["exact", "f1", "HasAns_exact", "HasAns_f1"]
    assert scores["exact"].score == 50.0
    assert measure("squad_v2", [question("a")], {"a": ""})["NoAns_exact"].score == 100.0


def test_no_usable_prediction_is_wrong_at_any_threshold() -> None:
    rows = [question("a"), question("b"), question("c", "red")]
    found = {"a": None, "b": {"text": "", "no_answer": math.nan}}
    scores = measure("squad_v2", rows, found)
    assert {name: measured.score for name, measured in scores.items()} == dict.fromkeys(scores, 0.0)
    assert "best_f1" in scores


@given(CASES)
def test_best_score_is_reached_by_no_other_threshold(
    cases: list[tuple[bool, str, float, bool]],
) -> None:
    """Without ties, the search is the best over all thresholds, tried one by one."""
    spread = [(a, t, s + i * 1e-3, there) for i, (a, t, s, there) in enumerate(cases)]
    scores = scored(spread)
    for name in ("best_exact", "best_f1"):
        tried = {}
        thresholds = (scores[name].threshold, -math.inf, *(score for _, _, score, _ in spread))
        for threshold in thresholds:
            points = [
                value(name, answerable, "" if score > threshold else text) * there
                for answerable, text, score, there in spread
            ]
            tried[threshold] = 100 * sum(points) / len(points)
        assert scores[name].score == pytest.approx(max(tried.values()), abs=1e-9)
        assert tried[scores[name].threshold] == pytest.approx(scores[name].score, abs=1e-9)


@given(CASES, st.integers(0, 99))
def test_resamples_are_scored_like_rows(
    cases: list[tuple[bool, str, float, bool]], seed: int
) -> None:
    indices = np.random.default_rng(seed).integers(0, len(cases), (4, len(cases)))
    scores = scored(cases)
    for index, row in zip(indices, range(4), strict=True):
        again = scored([cases[i] for i in index])
        for name in ("exact", "f1", "best_exact", "best_f1"):
            # Equal no-answer scores are visited in the order of the rows, here another one.
            if name.startswith("best") and len({case[2] for case in cases}) < len(cases):
                continue
            assert scores[name].at(index) == pytest.approx(again[name].score, abs=1e-9)
            assert scores[name].many(indices)[row] == pytest.approx(again[name].score, abs=1e-9)


def test_published_system(shared: Path) -> None:
    folder = shared / "data" / "squad"
    rows = read_dataset("squad_v2", folder)
    name = "v2.0-bidaf-elmo.json"
    found = json.loads((folder / "predictions" / name).read_text(encoding="utf-8"))
    expected = json.loads((folder / "predictions" / "expected.json").read_text(encoding="utf-8"))
    wanted = {k: v for k, v in expected[name].items() if k not in ("dataset", "note")}
    scores = measure("squad_v2", rows, found)
    assert len(wanted) == 5
    for metric, score in wanted.items():
        assert scores[metric].score == pytest.approx(score, rel=0, abs=1e-6)


@pytest.mark.parametrize("name", ["v1.1-match-lstm.json", "v1.1-logistic-regression.json"])
def test_published_systems_of_v1(shared: Path, name: str) -> None:
    folder = shared / "data" / "squad"
    found = json.loads((folder / "predictions" / name).read_text(encoding="utf-8"))
    expected = json.loads((folder / "predictions" / "expected.json").read_text(encoding="utf-8"))
    scores = measure("squad", read_dataset("squad", folder), found)
    for metric in ("exact_match", "f1"):
        assert scores[metric].score == pytest.approx(expected[name][metric], rel=0, abs=1e-6)
