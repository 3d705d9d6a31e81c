"""Rows of the hub become the rows that files give; no network is used."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.validation.data.datasets import read_data
from albert_deploy.validation.data.hub import table_rows
from albert_deploy.validation.data.layouts import Bad, Dropped
from albert_deploy.validation.data.rows import ChoiceRow, ClassificationRow, QuestionRow, TokensRow
from albert_deploy.validation.data.table import DATASETS

datasets = pytest.importorskip("datasets", reason="needs the datasets library")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def table(rows: list[dict[str, Any]], **classes: list[str]) -> Any:
    made = datasets.Dataset.from_list(rows)
    for column, names in classes.items():
        made = made.cast_column(column, datasets.ClassLabel(names=names))
    return made


def converted(name: str, made: Any) -> list[Any]:
    return list(table_rows(DATASETS[name], made))


def test_sst2() -> None:
    rows = [{"sentence": "warm ", "label": 1, "idx": 0}, {"sentence": "cold", "label": 0, "idx": 1}]
    wanted = [
        ClassificationRow(id="0", text="warm ", pair=None, label=1),
        ClassificationRow(id="1", text="cold", pair=None, label=0),
    ]
    assert converted("sst2", table(rows, label=["negative", "positive"])) == wanted
    assert converted("sst2", table(rows)) == wanted


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("mrpc", ("sentence1", "sentence2")),
        ("qqp", ("question1", "question2")),
        ("mnli", ("premise", "hypothesis")),
        ("mnli_mm", ("premise", "hypothesis")),
        ("qnli", ("question", "sentence")),
        ("rte", ("sentence1", "sentence2")),
        ("wnli", ("sentence1", "sentence2")),
    ],
)
def test_pairs(name: str, columns: tuple[str, str]) -> None:
    row = {columns[0]: "a", columns[1]: "b", "label": 1, "idx": 5}
    wanted = [ClassificationRow(id="0", text="a", pair="b", label=1)]
    assert converted(name, table([row], label=list(DATASETS[name].names))) == wanted


def test_classes_are_told_by_name() -> None:
    row = {"premise": "a", "hypothesis": "b", "label": 0, "idx": 0}
    found = converted("mnli", table([row], label=["contradiction", "entailment", "neutral"]))
    assert found[0].label == DATASETS["mnli"].names.index("contradiction")
    with pytest.raises(InputError, match=r"classes of nyu-mll/glue are yes, no, maybe"):
        converted("mnli", table([row], label=["yes", "no", "maybe"]))


def test_regression_and_rows_that_cannot_be_used() -> None:
    row = {"sentence1": "a", "sentence2": "b", "label": 3.8, "idx": 0}
    assert converted("stsb", table([row]))[0].label == 3.8
    assert isinstance(converted("stsb", table([row | {"label": 7.0}]))[0], Bad)
    test_split = [{"sentence": "warm", "label": -1, "idx": 0}]
    assert isinstance(converted("sst2", table(test_split))[0], Bad)
    empty = [{"question1": "", "question2": "b", "label": 0, "idx": 0}]
    assert isinstance(converted("qqp", table(empty))[0], Dropped)
    with pytest.raises(
        InputError, match=r"glue lacks sentence, wanted the columns sentence, label"
    ):
        converted("sst2", table([{"text": "warm", "label": 1}]))


def test_questions() -> None:
    def row(row_id: str, *answers: str) -> dict[str, Any]:
        starts = [0] * len(answers)
        return {
            "id": row_id,
            "title": "R",
            "context": "The Rhine",
            "question": "Which?",
            "answers": {"text": list(answers), "answer_start": starts},
        }

    made = table([row("a", "Rhine", "The Rhine"), row("b"), row("c", "Elbe")])
    first = QuestionRow(
        id="a", question="Which?", context="The Rhine", answers=("Rhine", "The Rhine")
    )
    found = converted("squad_v2", made)
    assert found[0] == first
    assert found[1].answers == ()
    assert "'Elbe', an answer, is not in its context" in found[2].reason
    assert "question b has no answers" in converted("squad", made)[1].reason


def test_race_and_tokens() -> None:
    row = {
        "example_id": "high132.txt",
        "article": "It rained.",
        "answer": "C",
        "question": "What fell?",
        "options": ["snow", "hail", "rain", "sun"],
    }
    assert converted("race", table([row])) == [
        ChoiceRow(
            id="high/132-0",
            context="It rained.",
            question="What fell?",
            choices=("snow", "hail", "rain", "sun"),
            label=2,
            group="high",
        )
    ]
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"])),
        }
    )
    sentences = [
        {"id": "0", "tokens": ["Peter", "left"], "ner_tags": [1, 0]},
        {"id": "1", "tokens": [], "ner_tags": []},
    ]
    found = converted("conll2003", datasets.Dataset.from_list(sentences, features=features))
    assert found[0] == TokensRow(id="0", words=("Peter", "left"), tags=("B-PER", "O"))
    assert isinstance(found[1], Bad)


class Info:
    sha = COMMIT


def stub(monkeypatch: pytest.MonkeyPatch, load: Any) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def info(_self: object, repository: str, *, revision: str | None = None) -> Info:
        calls.append((repository, revision))
        return Info()

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_what_is_read_is_always_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []

    def load(*arguments: Any, **options: Any) -> Any:
        loads.append((arguments, options))
        return table([{"sentence": "warm", "label": 1}, {"sentence": " ", "label": 1}])

    calls = stub(monkeypatch, load)
    data = read_data("sst2", None, skip_bad_rows=True)
    assert data.revision == COMMIT
    assert data.file is None
    assert (len(data.rows), data.skipped) == (1, 1)
    read_data("sst2", None, revision="main", split="train", skip_bad_rows=True)
    other = COMMIT[::-1]
    assert read_data("sst2", None, revision=other, skip_bad_rows=True).revision == other
    assert calls == [("nyu-mll/glue", None), ("nyu-mll/glue", "main")]
    assert loads == [
        (("nyu-mll/glue", "sst2"), {"split": split, "revision": revision})
        for split, revision in (("validation", COMMIT), ("train", COMMIT), ("validation", other))
    ]
    with pytest.raises(InputError, match="row 1: sentence is ' ', wanted text"):
        read_data("sst2", None)


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to host")

    stub(monkeypatch, load)
    with pytest.raises(MachineError, match=r"no route to host.*give sst2=PATH"):
        read_data("sst2", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MachineError, match=r"albert-deploy\[hub\]'|install datasets"):
        read_data("sst2", None)


def test_what_the_hub_cannot_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    stub(monkeypatch, None)
    with pytest.raises(InputError, match=r"give a file with mlm=PATH"):
        read_data("mlm", None)
    with pytest.raises(InputError, match=r"no split 'test'; use one of: dev, train"):
        read_data("sst2", None, split="test")
    with pytest.raises(InputError, match=r"a revision is one of the Hugging Face hub"):
        read_data("sst2", tmp_path, revision="main")


def test_every_data_set_of_the_hub_names_its_columns() -> None:
    for name, dataset in DATASETS.items():
        if dataset.hub is None:
            assert dataset.layout in ("lines", "order"), name
            continue
        if dataset.layout == "tsv":
            assert len(dataset.hub.columns) == 1 + (dataset.pair is not None)
