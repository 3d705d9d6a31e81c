from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.contract import TASKS
from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.datasets import parse_dataset_option, read_dataset
from albert_deploy.validation.data.rows import ClassificationRow, QuestionRow
from albert_deploy.validation.data.table import DATASETS

SQUAD: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Rivers",
            "paragraphs": [
                {
                    "context": "The Rhine is long. The Po is warm.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": " Which is long?",
                            "answers": [
                                {"text": "The Rhine", "answer_start": 0},
                                {"text": "Rhine", "answer_start": 4},
                            ],
                        },
                        {
                            "id": "q2",
                            "question": "Which is warm?",
                            "answers": [{"text": "The Po", "answer_start": 19}],
                        },
                    ],
                }
            ],
        }
    ],
}


@pytest.fixture
def tsv(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "dev.tsv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def texts(name: str, path: Path, split: str = "dev") -> list[tuple[str, int]]:
    rows = read_dataset(name, path, split=split)
    return [(row.text, row.label) for row in rows if isinstance(row, ClassificationRow)]


def fails(name: str, path: Path, *wanted: str, split: str = "dev") -> None:
    """Check that reading raises one line that has all of ``wanted``."""
    with pytest.raises(InputError) as caught:
        read_dataset(name, path, split=split)
    message = str(caught.value)
    assert "\n" not in message
    for part in wanted:
        assert part in message


def squad_with(path: Path, place: str, value: object) -> Path:
    """Write the sample with one field of its only paragraph or a question of it replaced."""
    sample = copy.deepcopy(SQUAD)
    record: Any = sample["data"][0]["paragraphs"][0]
    *folders, field = place.split("/")
    for folder in folders:
        record = record[int(folder) if folder.isdigit() else folder]
    if value is None:
        del record[field]
    else:
        record[field] = value
    path.write_text(json.dumps(sample))
    return path


def test_table_is_consistent() -> None:
    for dataset in DATASETS.values():
        assert dataset.task in TASKS
        assert {"dev", "train"} <= set(dataset.files)
        assert dataset.metrics
        if dataset.task == "text-classification":
            assert bool(dataset.labels) != bool(dataset.values)
            assert len(dataset.names) == len(dataset.labels)


def test_option_is_a_name_with_or_without_a_path() -> None:
    assert parse_dataset_option("sst2") == ("sst2", None)
    assert parse_dataset_option("squad=/some/a=b") == ("squad", Path("/some/a=b"))
    for option in ("sst3", "sst3=/x", "", "=/x", "SST2"):
        with pytest.raises(InputError, match=r"use one of: sst2, cola, .*squad"):
            parse_dataset_option(option)
    with pytest.raises(InputError, match="without a path"):
        parse_dataset_option("sst2=")


def test_sst2_rows(tsv: Callable[[str], Path]) -> None:
    path = tsv("sentence\tlabel\nit 's \"warm \t1\na\u2028b\x85c\t0\n")
    wanted = [
        ClassificationRow(id="0", text="it 's \"warm ", pair=None, label=1),
        ClassificationRow(id="1", text="a\u2028b\x85c", pair=None, label=0),
    ]
    assert read_dataset("sst2", path) == wanted
    assert read_dataset("sst2", path.parent) == wanted


def test_sst2_takes_other_line_ends_column_orders_and_a_mark(tsv: Callable[[bytes], Path]) -> None:
    path = tsv(b"\xef\xbb\xbflabel\tindex\tsentence\r\n1\t7\twarm\r\n0\t8\tcold\r\n\r\n")
    assert texts("sst2", path) == [("warm", 1), ("cold", 0)]


def test_split_chooses_the_file_of_a_folder(tsv: Callable[[str], Path]) -> None:
    path = tsv("sentence\tlabel\nwarm\t1\n")
    (path.parent / "train.tsv").write_text("sentence\tlabel\ncold\t0\n")
    assert texts("sst2", path.parent, "train") == [("cold", 0)]
    fails("sst2", path.parent, "no split 'test'", "dev, train", split="test")
    fails("squad", path.parent, "dev-v1.1.json", "does not exist")
    fails("sst2", path.parent / "nowhere", "nowhere does not exist", "dev.tsv")
    fails("imdb", path.parent, "unknown data set 'imdb'", "sst2, cola", "squad")
    (path.parent / "sub" / "dev.tsv").mkdir(parents=True)
    fails("sst2", path.parent / "sub", "cannot read", "dev.tsv")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("", ["line 1", "lacks sentence and label"]),
        ("warm\t1\ncold\t0\n", ["line 1", "lacks sentence and label"]),
        ("index\tsentence\n0\twarm\n", ["line 1", "lacks label", "labelled split"]),
        ("sentence,label\nwarm,1\n", ["line 1", "tabs"]),
        ("sentence\tlabel\n", ["no rows"]),
        ("sentence\tlabel\nwarm\t1\ncold\n", ["line 3: 1 columns, wanted 2"]),
        ("sentence\tlabel\nwarm\t1\n\ncold\t0\n", ["line 3: 1 columns, wanted 2"]),
        ("sentence\tlabel\nwa\trm\t1\n", ["line 2: 3 columns"]),
        ("sentence\tlabel\nwarm\t\n", ["line 2: label is ''", "0 or 1"]),
        ("sentence\tlabel\nwarm\tgood\n", ["line 2: label is 'good'"]),
        ("sentence\tlabel\nwarm\t0.5\n", ["line 2: label is '0.5'"]),
        ("sentence\tlabel\nwarm\t2\n", ["line 2: label is '2'"]),
        ("sentence\tlabel\nwarm\t-1\n", ["line 2: label is '-1'"]),
        ("sentence\tlabel\nwarm\t1\n \t0\n", ["line 3: sentence is empty"]),
        (b"sentence\tlabel\nwarm\t1\ncaf\xe9\t0\n", ["line 3: byte 0xe9 is not UTF-8"]),
    ],
)
def test_sst2_errors_name_the_line(
    tsv: Callable[[str | bytes], Path], content: str | bytes, wanted: list[str]
) -> None:
    path = tsv(content)
    fails("sst2", path, str(path), *wanted)


def test_squad_rows(tmp_path: Path) -> None:
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(SQUAD))
    context = "The Rhine is long. The Po is warm."
    wanted = [
        QuestionRow(
            id="q1", question=" Which is long?", context=context, answers=("The Rhine", "Rhine")
        ),
        QuestionRow(id="q2", question="Which is warm?", context=context, answers=("The Po",)),
    ]
    assert read_dataset("squad", tmp_path) == wanted
    assert read_dataset("squad", tmp_path / "dev-v1.1.json") == wanted


@pytest.mark.parametrize(
    ("place", "value", "wanted"),
    [
        ("qas/1/answers", [], ["paragraphs[0].qas[1]", "q2 has no answers"]),
        ("qas/1/answers", None, ["qas[1]", "'answers' is missing"]),
        (
            "qas/1/answers/0/text",
            "The Rhône",
            ["'The Rhône', an answer to q2", "not in its context"],
        ),
        ("qas/1/answers/0/text", "", ["qas[1].answers[0]", "'text' is ''"]),
        ("qas/1/answers", ["The Po"], ["qas[1].answers[0]", "'text' is missing"]),
        ("qas/1/id", "q1", ["qas[1]: id 'q1' is there twice"]),
        ("qas/1/id", None, ["qas[1]: 'id' is missing"]),
        ("qas/1/id", 7, ["qas[1]: 'id' is 7, wanted text"]),
        ("qas/0/question", "  ", ["qas[0]: 'question' is '  '"]),
        ("context", "", ["paragraphs[0]: 'context' is ''"]),
        ("qas", {"id": "q1"}, ["paragraphs[0]: 'qas' is", "wanted a list"]),
        ("qas", [], ["no questions"]),
    ],
)
def test_squad_errors_name_the_question(
    tmp_path: Path, place: str, value: object, wanted: list[str]
) -> None:
    path = squad_with(tmp_path / "mine.json", place, value)
    fails("squad", path, str(path), *wanted)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is not JSON"),
        (b'{"data": [', "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b"[]", "'data' is missing, wanted a list"),
        (b'{"data": []}', "no questions"),
        (b'{"data": "\xff"}', "line 1: byte 0xff is not UTF-8"),
    ],
)
def test_squad_refuses_other_files(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "dev-v1.1.json"
    path.write_bytes(content)
    fails("squad", path, str(path), wanted)


def test_real_sst2(shared: Path) -> None:
    folder = shared / "data" / "glue" / "SST-2"
    rows = texts("sst2", folder)
    assert len(rows) == 872
    assert sum(label for _, label in rows) == 444
    assert len(read_dataset("sst2", folder, split="train")) == 67349


def test_squad_v2_is_told_apart(shared: Path) -> None:
    fails("squad", shared / "data" / "squad" / "dev-v2.0.json", "no answers", "SQuAD v1.1")
