"""What a report says of single rows: choices, flips and their kind, and the worst rows."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from albert_deploy.validation.data.rows import ChoiceRow, ClassificationRow, QuestionRow, TokensRow
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.predictions import write_predictions
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.report.record import (
    chosen,
    error_histogram,
    flipped,
    label_of,
    text_of,
    worst_rows,
)

ROWS = [ClassificationRow(id=str(i), text=f"text {i}", pair=None, label=1) for i in range(4)]


def _evidence(source: list[Any], variant: list[Any], *, values: bool = True) -> Evidence:
    both = {SOURCE: source, "int8": variant}
    right = {
        name: np.array([100.0 * (p == row.label) for p, row in zip(found, ROWS, strict=True)])
        for name, found in both.items()
    }
    return Evidence(
        rows=len(ROWS),
        examples=list(ROWS),
        predictions={
            name: {row.id: p for row, p in zip(ROWS, found, strict=True)}
            for name, found in both.items()
        },
        measured={  # type: ignore[arg-type]
            name: {"accuracy": SimpleNamespace(values=right[name] if values else None)}
            for name in both
        },
    )


def test_a_flip_is_better_worse_or_neither() -> None:
    flips = flipped(_evidence([0, 1, 0, 1], [1, 0, 2, 1]), "int8")
    assert flips is not None
    assert [(f["id"], f["kind"]) for f in flips] == [
        ("0", "better"),
        ("1", "worse"),
        ("2", "other"),
    ]
    assert flips[1] == {
        "id": "1",
        "text": "text 1",
        "label": 1,
        "source": 1,
        "variant": 0,
        "kind": "worse",
    }


def test_without_a_score_by_row_a_flip_is_neither() -> None:
    flips = flipped(_evidence([0, 1, 0, 1], [1, 1, 0, 1], values=False), "int8")
    assert flips is not None
    assert [f["kind"] for f in flips] == ["other"]


def test_where_nothing_is_chosen_nothing_flips() -> None:
    assert flipped(_evidence([0.5, 1.0, 0.0, 1.0], [0.4, 1.0, 0.0, 1.0]), "int8") is None
    assert flipped(Evidence(), "int8") is None
    assert flipped(_evidence([0, 1, 0, 1], [0, 1, 0, 1]), "fp16") is None


@pytest.mark.parametrize(
    ("prediction", "wanted"),
    [
        (1, 1),
        (("O", "B-PER"), ["O", "B-PER"]),
        ({"text": "paris", "no_answer": None}, "paris"),
        ({"text": "paris", "no_answer": -0.5}, "paris"),
        ({"text": "paris", "no_answer": 0.5}, ""),
        ([{"top": (7, 3)}, {"top": (9, 7)}], [7, 9]),
    ],
)
def test_what_counts_as_the_choice(prediction: Any, wanted: Any) -> None:
    assert chosen(prediction) == wanted


def test_rows_are_told_for_people() -> None:
    pair = ClassificationRow(id="a", text="one", pair="two", label=0)
    question = QuestionRow(id="b", question="who", context="long", answers=("she", "her"))
    choice = ChoiceRow(
        id="c", context="long", question="which", choices=("x", "y"), label=1, group="high"
    )
    tokens = TokensRow(id="d", words=("Ann", "went"), tags=("B-PER", "O"))
    rows = (pair, question, choice, tokens)
    assert [text_of(row) for row in rows] == ["one | two", "who", "which", "Ann went"]
    assert [label_of(row) for row in rows] == [0, ["she", "her"], 1, ["B-PER", "O"]]


def test_the_worst_rows_come_first_with_their_logits(tmp_path: Path) -> None:
    evidence = Evidence(rows=4, examples=list(ROWS), errors={"int8": [0.1, math.nan, 0.0, 0.5]})
    for model in (SOURCE, "int8"):
        lines = [{"id": row.id, "logits": [float(i), None]} for i, row in enumerate(ROWS)]
        (tmp_path / "predictions").mkdir(exist_ok=True)
        write_predictions(tmp_path / "predictions" / f"{model}.jsonl.gz", lines)
    worst = worst_rows(evidence, "int8", tmp_path)
    # A row without any difference is none of them, and NaN is worse than all numbers.
    assert [row["id"] for row in worst] == ["1", "3", "0"]
    assert worst[1]["error"] == 0.5
    assert worst[1]["source"] == worst[1]["variant"] == {"logits": [3.0, None]}
    assert worst_rows(evidence, "fp16", tmp_path) == []


def test_without_kept_predictions_worst_rows_have_no_logits(tmp_path: Path) -> None:
    evidence = Evidence(rows=4, examples=list(ROWS), errors={"int8": [0.1, 0.2, 0.0, 0.5]})
    worst = worst_rows(evidence, "int8", tmp_path)
    assert [row["source"] for row in worst] == [None, None, None]


@hypothesis.given(st.lists(st.floats(min_value=0) | st.just(math.nan), max_size=40))
def test_a_histogram_counts_every_finite_error_once(errors: list[float]) -> None:
    finite = [error for error in errors if math.isfinite(error)]
    histogram = error_histogram(errors)
    if not finite:
        assert histogram is None
        return
    assert histogram is not None
    edges, counts = histogram["edges"], histogram["counts"]
    assert len(edges) == len(counts) + 1
    assert sum(counts) == len(finite)
    assert all(low < high for low, high in pairwise(edges))
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        last = high == edges[-1]
        assert count == sum(low <= e < high or (last and e >= high) for e in finite)
