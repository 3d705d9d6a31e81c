"""Rows become feeds, outputs become predictions, and data that does not fit is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from tokenizers import Tokenizer

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.evaluate import (
    SOURCE,
    EvaluateConfig,
    Evidence,
    decisions,
    evaluate,
)

CONTRACT: dict[str, Any] = {
    "inputs": [{"name": "input_ids", "axes": ["batch", "sequence"]}],
    "outputs": [{"name": "logits"}],
    "labels": ["negative", "positive"],
    "problem_type": "single_label_classification",
    "max_length": 16,
    "pad_token_id": 0,
}


class Counting:
    """A session whose answer depends on the number of tokens alone."""

    outputs = ("logits",)

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.shapes.append(feeds["input_ids"].shape)
        long = feeds["input_ids"].shape[1] >= self.threshold
        return {"logits": np.array([[0, 1] if long else [1, 0]], np.float32)}

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\nwarm\t0\nthe film was long\t1\na film\t1\n")
    return path


def _run(
    tokenizer: Tokenizer, data: Path, contract: dict[str, Any], task: str = "text-classification"
) -> tuple[Evidence, dict[str, Counting]]:
    sessions = {SOURCE: Counting(4), "int8": Counting(5)}
    evidence = evaluate(
        sessions,
        contract=contract,
        task=task,
        tokenizer=tokenizer,
        decide={"logits": "argmax"},
        dataset=("sst2", data),
        config=EvaluateConfig(),
    )
    return evidence, sessions


def test_every_row_runs_alone_and_unpadded(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    evidence, sessions = _run(tiny_tokenizer, reviews, CONTRACT)
    # [CLS] and [SEP] around w-a-r-m's one word, four words and two words.
    assert sessions[SOURCE].shapes == sessions["int8"].shapes == [(1, 3), (1, 6), (1, 4)]
    assert evidence.predictions == {
        SOURCE: {"0": 0, "1": 1, "2": 1},
        "int8": {"0": 0, "1": 1, "2": 0},
    }
    assert evidence.metrics[SOURCE] == {"accuracy": 100.0}
    assert evidence.metrics["int8"]["accuracy"] == pytest.approx(200 / 3)
    assert evidence.errors["int8"] == [0.0, 0.0, 1.0]
    assert evidence.differences["int8"]["logits"].agreement == pytest.approx(2 / 3)
    assert [len(text) for text in evidence.texts] == [3, 6, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["a", "b", "c"]},
        {"labels": ["a"], "problem_type": "regression"},
        {"problem_type": "multi_label_classification"},
    ],
)
def test_a_head_with_other_classes_is_refused(
    change: dict[str, Any], tiny_tokenizer: Tokenizer, reviews: Path
) -> None:
    with pytest.raises(InputError, match="sst2 has 2 classes"):
        _run(tiny_tokenizer, reviews, CONTRACT | change)


def test_the_same_classes_in_another_order_are_refused(
    tiny_tokenizer: Tokenizer, reviews: Path
) -> None:
    with pytest.raises(InputError, match="in this order"):
        _run(tiny_tokenizer, reviews, CONTRACT | {"labels": ["POSITIVE", "NEGATIVE"]})
    _run(tiny_tokenizer, reviews, CONTRACT | {"labels": ["LABEL_0", "LABEL_1"]})


def test_data_for_another_task_is_refused(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    with pytest.raises(InputError, match="sst2 is data for text-classification"):
        _run(tiny_tokenizer, reviews, CONTRACT, task="fill-mask")


def test_an_over_long_row_is_named(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    with pytest.raises(InputError, match="row 1 has 6 tokens, the limit is 5"):
        _run(tiny_tokenizer, reviews, CONTRACT | {"max_length": 5})


@pytest.mark.parametrize(
    ("problem", "wanted"),
    [
        ("single_label_classification", "argmax"),
        ("multi_label_classification", "sign"),
        ("regression", None),
        (None, "argmax"),
    ],
)
def test_how_an_output_becomes_a_prediction(problem: str | None, wanted: str | None) -> None:
    contract = CONTRACT | {"problem_type": problem}
    assert decisions(contract, {"logits": True}) == {"logits": wanted}
    assert decisions(contract, {"logits": False}) == {"logits": None}
