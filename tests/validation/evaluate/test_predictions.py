"""Outputs become predictions, and files of them have the same bytes each time."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    Example,
    PlainRow,
    Row,
    TokensRow,
)
from albert_deploy.validation.evaluate.predictions import (
    Heads,
    compared,
    heads,
    predict,
    value_of,
    write_predictions,
)

HOW = Heads(
    classes=(1, 0),
    labels=("O", "B-PER"),
    vocabulary=("logits",),
    output="logits",
    regression=False,
    answerable=True,
    max_answer_tokens=30,
    n_best=20,
    max_context=False,
)
FEEDS = {"input_ids": np.ones((1, 4), np.int64)}


def logits(*values: Any) -> list[dict[str, Any]]:
    return [{"logits": np.array([values], np.float32)}]


def row(**more: Any) -> Row:
    return Row(id="r", feeds=[FEEDS], **more)


TEXT = ClassificationRow(id="r", text="a", pair=None, label=1)


def test_a_class_is_the_datas_and_logits_keep_the_checkpoints_order() -> None:
    line = predict(TEXT, row(), logits(0.1, -2.5), HOW)
    assert line == {"id": "r", "label": 1, "logits": [0.1, -2.5], "prediction": 1}
    score = predict(replace(TEXT, label=2.5), row(), logits(2.25), replace(HOW, regression=True))
    assert score["prediction"] == 2.25
    example = ChoiceRow(id="r", context="", question="", choices=("a",), label=2, group="high")
    assert predict(example, row(), logits(0, 1, 3), HOW)["prediction"] == 2


def test_words_have_the_tag_of_their_first_token() -> None:
    example = TokensRow(id="r", words=("a", "b", "c"), tags=("O", "O", "O"))
    marks = np.array([1, -1, 2])
    line = predict(example, row(marks=marks), logits([9, 0], [0, 1], [2, 0]), HOW)
    assert line["logits"] == [[0.0, 1.0], None, [2.0, 0.0]]
    assert value_of(line) == ("B-PER", "O", "O")


def test_masked_tokens_have_their_best_tokens_and_the_wanted_ones_probability() -> None:
    example = PlainRow(id="r", text="a", following=None)
    marked = row(marks=np.array([2]), wanted=np.array([4]))
    line = predict(example, marked, logits([0.0, 1.0, 5.0, 2.0, 3.0, 4.0, -1.0]), HOW)
    (value,) = value_of(line)
    total = sum(math.exp(x) for x in (0, 1, 5, 2, 3, 4, -1))
    assert value["top"] == (2, 5, 4, 3, 1)
    assert value["wanted"] == 4
    assert value["log_prob"] == pytest.approx(3 - math.log(total))
    assert line["logits"] == [{"top": [5.0, 4.0, 3.0, 2.0, 1.0], "wanted": 3.0}]
    assert line["label"] == [4]


@pytest.mark.parametrize(
    "example",
    [
        TEXT,
        PlainRow(id="r", text="a", following=None),
        TokensRow(id="r", words=("a",), tags=("O",)),
    ],
)
def test_nan_is_no_prediction(example: Example) -> None:
    marked = row(marks=np.array([0]), wanted=np.array([0]))
    values = [math.nan, 1.0] if example is TEXT else [[math.nan, 1.0]]
    line = predict(example, marked, logits(*values), HOW)
    assert line["prediction"] is None
    assert value_of(line) is None


def test_the_logits_of_a_vocabulary_are_compared_at_some_positions() -> None:
    wide = {"logits": np.arange(40, dtype=np.float32).reshape(1, 20, 2), "other": np.ones((1, 2))}
    marked = compared(row(marks=np.array([3, 5])), wide, ("logits",), labelled=True)
    assert marked["logits"].tolist() == [[[6, 7], [10, 11]]]
    assert marked["other"] is wide["other"]
    spread = compared(row(), wide, ("logits",), labelled=True)
    assert spread["logits"][0, :, 0].tolist() == [0, 4, 10, 16, 20, 26, 32, 38]
    assert compared(row(), wide, ("logits",), labelled=False) is wide


def test_files_have_the_same_bytes(tmp_path: Path) -> None:
    lines = [{"id": "é", "logits": [0.1, None], "prediction": 1}]
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_predictions(tmp_path / name, lines)
    first = tmp_path / "a.jsonl.gz"
    assert first.read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    found = gzip.decompress(first.read_bytes()).splitlines()
    assert [json.loads(line) for line in found] == lines


def test_data_for_another_task_is_refused() -> None:
    contract = {"outputs": [{"name": "logits"}], "labels": ["a", "b"], "problem_type": None}
    limits = {"max_answer_tokens": 30, "n_best": 20}
    with pytest.raises(InputError, match="mlm is data for fill-mask or pretraining"):
        heads("mlm", "text-classification", contract, **limits)
    assert heads("mlm", "fill-mask", contract, **limits).output == "logits"
    both = {"name": "prediction_logits"}, {"name": "sop_logits"}
    pretraining = contract | {"outputs": list(both)}
    assert heads("mlm", "pretraining", pretraining, **limits).output == "prediction_logits"
    assert heads("sop", "pretraining", pretraining, **limits).output == "sop_logits"
