from __future__ import annotations

import json
from pathlib import Path

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.datasets import read_dataset
from albert_deploy.validation.data.rows import QuestionRow
from albert_deploy.validation.scores.scores import measure
from albert_deploy.validation.scores.squad import exact_match, f1, normalize


def question(row_id: str, *answers: str) -> QuestionRow:
    return QuestionRow(id=row_id, question="Who?", context=" ".join(answers), answers=answers)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Cat, an ANIMAL!\n", "cat animal"),
        ("a.b", "ab"),
        ("theatre and a", "theatre and"),
        ("well-known “quote”", "wellknown “quote”"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalize(text: str, wanted: str) -> None:
    assert normalize(text) == wanted


def test_scores_take_the_closest_answer() -> None:
    assert exact_match("the Broncos.", ["Panthers", "Broncos"]) == 1.0
    assert exact_match("Denver Broncos", ["Broncos", "Denver"]) == 0.0
    assert f1("Denver Broncos", ["Panthers", "Broncos"]) == pytest.approx(2 / 3)
    assert f1("x x y", ["x y y z"]) == pytest.approx(4 / 7)
    assert f1("red", ["blue"]) == 0.0


def test_no_words_on_both_sides_match_exactly_and_share_nothing() -> None:
    assert exact_match("the", ["a"]) == 1.0
    assert f1("the", ["a"]) == 0.0


def test_a_missing_prediction_counts_as_wrong() -> None:
    rows = [question("1", "red sea"), question("2", "blue")]
    found = measure("squad", rows, {"1": "Red", "3": "blue"})
    assert found["exact_match"].score == 0.0
    assert found["f1"].score == pytest.approx(100 / 3)
    found = measure("squad", rows, {"1": "red sea", "2": "blue"})
    assert [one.score for one in found.values()] == [100.0, 100.0]


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        measure("squad", [], {})
    with pytest.raises(InputError, match="without answers"):
        measure("squad", [question("1")], {"1": "red"})


@pytest.mark.parametrize("name", ["v1.1-match-lstm.json", "v1.1-logistic-regression.json"])
def test_score_reproduces_published_systems(shared: Path, name: str) -> None:
    folder = shared / "data" / "squad"
    rows = [row for row in read_dataset("squad", folder) if isinstance(row, QuestionRow)]
    assert len(rows) == 10570
    predictions = json.loads((folder / "predictions" / name).read_text(encoding="utf-8"))
    expected = json.loads((folder / "predictions" / "expected.json").read_text(encoding="utf-8"))
    found = measure("squad", rows, predictions)
    assert set(found) == {"exact_match", "f1"}
    for metric, one in found.items():
        assert one.score == pytest.approx(expected[name][metric], rel=0, abs=1e-6)
