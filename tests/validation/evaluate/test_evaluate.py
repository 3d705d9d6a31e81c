"""Rows become feeds, outputs become predictions, and data that does not fit is refused."""

from __future__ import annotations

import gzip
import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from tokenizers import Tokenizer

from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.validation.evaluate.evaluate import (
    EvaluateConfig,
    Storage,
    decisions,
    evaluate,
    run_grid,
)
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.parity.difference import Case

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

    engine = "count"
    outputs = ("logits",)

    def __init__(self, threshold: int, *, spoil: Any = None) -> None:
        self.threshold, self.spoil = threshold, spoil
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.shapes.append(feeds["input_ids"].shape)
        rows, length = feeds["input_ids"].shape
        if isinstance(self.spoil, Exception) and length >= self.threshold:
            raise self.spoil
        answer = [0, 1] if length >= self.threshold else [1, 0]
        logits = np.array([answer] * rows, np.float32)
        if isinstance(self.spoil, float) and length >= self.threshold:
            logits[:] = self.spoil
        if isinstance(self.spoil, threading.Event) and length >= self.threshold:
            self.spoil.wait()
        return {"logits": logits}

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\nwarm\t0\nthe film was long\t1\na film\t1\na river\t0\n")
    return path


def _run(
    tokenizer: Tokenizer,
    data: Path,
    contract: dict[str, Any] = CONTRACT,
    task: str = "text-classification",
    *,
    sessions: dict[str, Any] | None = None,
    config: EvaluateConfig | None = None,
    storage: Storage | None = None,
) -> tuple[Evidence, dict[str, Any]]:
    sessions = sessions or {SOURCE: Counting(4), "int8": Counting(5)}
    evidence = evaluate(
        sessions,
        contract=contract,
        task=task,
        tokenizer=tokenizer,
        decide={"logits": "argmax"},
        dataset=("sst2", data),
        config=config or EvaluateConfig(),
        storage=storage,
    )
    return evidence, sessions


def test_every_row_runs_unpadded_and_int8_alone(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    evidence, sessions = _run(tiny_tokenizer, reviews)
    # [CLS] and [SEP] around one word, two words twice and four words.
    assert sessions[SOURCE].shapes == [(1, 3), (2, 4), (1, 6)]
    assert sessions["int8"].shapes == [(1, 3), (1, 4), (1, 4), (1, 6)]
    assert evidence.predictions == {
        SOURCE: {"0": 0, "1": 1, "2": 1, "3": 1},
        "int8": {"0": 0, "1": 1, "2": 0, "3": 0},
    }
    assert evidence.metrics == {SOURCE: {"accuracy": 75.0}, "int8": {"accuracy": 75.0}}
    assert evidence.errors["int8"] == [0.0, 0.0, 1.0, 1.0]
    assert evidence.differences["int8"]["logits"].agreement == 0.5
    assert [len(text) for text in evidence.texts] == [3, 6, 4, 4]
    assert [row.id for row in evidence.examples] == ["0", "1", "2", "3"]
    assert evidence.failures == {}
    assert evidence.files == []


def test_predictions_and_logits_are_kept(
    tiny_tokenizer: Tokenizer, reviews: Path, tmp_path: Path
) -> None:
    storage = Storage(reports=tmp_path / "reports", models={SOURCE: "a", "int8": "b"})
    stale = tmp_path / "reports" / "predictions" / "fp16.jsonl.gz"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an earlier validation")
    evidence, _ = _run(tiny_tokenizer, reviews, storage=storage)
    assert [file.name for file in evidence.files] == ["source.jsonl.gz", "int8.jsonl.gz"]
    assert not stale.exists()
    lines = [json.loads(x) for x in gzip.decompress(evidence.files[1].read_bytes()).splitlines()]
    assert [line["id"] for line in lines] == ["0", "1", "2", "3"]
    assert lines[1] == {"id": "1", "label": 1, "logits": [0.0, 1.0], "prediction": 1}
    assert evidence.journal is not None
    assert evidence.journal.is_file()
    evidence.finish()
    assert not evidence.journal.parent.exists()
    first = [file.read_bytes() for file in evidence.files]
    again, _ = _run(tiny_tokenizer, reviews, storage=storage)
    assert [file.read_bytes() for file in again.files] == first


def test_a_variant_that_raises_is_a_failure_and_the_others_go_on(
    tiny_tokenizer: Tokenizer, reviews: Path, tmp_path: Path
) -> None:
    sessions = {
        SOURCE: Counting(4),
        "int8": Counting(4, spoil=RuntimeError("bad node")),
        "fp16": Counting(5),
    }
    storage = Storage(reports=tmp_path, models=dict.fromkeys(sessions, "x"))
    evidence, _ = _run(tiny_tokenizer, reviews, sessions=sessions, storage=storage)
    assert list(evidence.failures) == ["int8"]
    assert "int8 (count) failed on row 2: bad node" in evidence.failures["int8"]
    for found in (evidence.predictions, evidence.metrics):
        assert list(found) == [SOURCE, "fp16"]
    assert list(evidence.differences) == list(evidence.errors) == ["fp16"]
    assert [file.name for file in evidence.files] == ["source.jsonl.gz", "fp16.jsonl.gz"]
    assert len(sessions["int8"].shapes) == 2  # It is not asked again.


def test_a_hung_variant_is_a_failure(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    going_on = threading.Event()
    sessions = {SOURCE: Counting(4), "int8": Counting(4, spoil=going_on)}
    evidence, _ = _run(
        tiny_tokenizer, reviews, sessions=sessions, config=EvaluateConfig(timeout_s=2)
    )
    going_on.set()
    assert "gave no answer within 2 s on row 2;" in evidence.failures["int8"]
    assert evidence.metrics == {SOURCE: {"accuracy": 75.0}}


def test_nan_is_a_wrong_answer_and_no_crash(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    sessions = {SOURCE: Counting(4), "int8": Counting(4, spoil=math.nan)}
    evidence, _ = _run(tiny_tokenizer, reviews, sessions=sessions)
    assert evidence.failures == {}
    assert evidence.differences["int8"]["logits"].finite is False
    assert evidence.predictions["int8"] == {"0": 0, "1": None, "2": None, "3": None}
    assert evidence.metrics["int8"] == {"accuracy": 25.0}
    assert evidence.errors["int8"] == [0.0, math.inf, math.inf, math.inf]


def test_an_output_of_another_shape_is_a_failure(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    class Wide(Counting):
        def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
            return {"logits": np.zeros((len(feeds["input_ids"]), 3), np.float32)}

    sessions = {SOURCE: Counting(4), "int8": Wide(4)}
    evidence, _ = _run(tiny_tokenizer, reviews, sessions=sessions)
    assert (
        "row 0: logits has the shape (1, 3), that of the source (1, 2)"
        in (evidence.failures["int8"])
    )


def test_a_source_that_fails_is_an_error(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    sessions = {SOURCE: Counting(4, spoil=RuntimeError("bad")), "int8": Counting(4)}
    with pytest.raises(ContractError, match=r"source \(count\) failed on rows 2, 3: bad"):
        _run(tiny_tokenizer, reviews, sessions=sessions)


def test_a_failure_on_the_grid_is_entered() -> None:
    feeds = {"input_ids": np.ones((1, 4), np.int64)}
    cases = [Case(name="batch 1", feeds=feeds)]
    sessions = {
        SOURCE: Counting(4),
        "int8": Counting(4, spoil=RuntimeError("bad")),
        "fp16": Counting(4),
        "gone": Counting(4),
    }
    failures = {"gone": "cannot be opened"}
    found = run_grid(sessions, cases, {"logits": "argmax"}, failures=failures)
    assert list(found) == ["fp16"]
    assert list(failures) == ["gone", "int8"]
    assert "failed on batch 1" in failures["int8"]
    with pytest.raises(ContractError, match="failed on batch 1"):
        run_grid(sessions, cases, {"logits": "argmax"})


def test_workers_need_what_opens_the_models(tiny_tokenizer: Tokenizer, reviews: Path) -> None:
    with pytest.raises(InputError, match="use 1 worker"):
        _run(tiny_tokenizer, reviews, config=EvaluateConfig(workers=2))


@pytest.mark.parametrize("change", [{"n_best": 0}, {"workers": 0}, {"timeout_s": 0.0}])
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="use"):
        EvaluateConfig(**change)


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


def test_classes_in_another_order_are_mapped_by_name(
    tiny_tokenizer: Tokenizer, reviews: Path
) -> None:
    swapped, _ = _run(tiny_tokenizer, reviews, CONTRACT | {"labels": ["POSITIVE", "NEGATIVE"]})
    assert swapped.predictions[SOURCE] == {"0": 1, "1": 0, "2": 0, "3": 0}
    assert swapped.metrics[SOURCE] == {"accuracy": 25.0}
    order = EvaluateConfig(label_order=("positive", "negative"))
    plain = CONTRACT | {"labels": ["LABEL_0", "LABEL_1"]}
    ordered, _ = _run(tiny_tokenizer, reviews, plain, config=order)
    assert ordered.predictions == swapped.predictions
    unnamed, _ = _run(tiny_tokenizer, reviews, plain)
    assert unnamed.metrics[SOURCE] == {"accuracy": 75.0}


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
    contract = CONTRACT | {"problem_type": problem, "family": "albert"}
    assert decisions(contract, "text-classification") == {"logits": wanted}
    assert set(decisions(contract, "feature-extraction").values()) == {None}
