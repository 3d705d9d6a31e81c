"""Data sets from small files in their official layouts, and the real ones that are here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.datasets import data_file, read_data, read_dataset
from albert_deploy.validation.data.layouts import digest, halves, ordered
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    PlainRow,
    QuestionRow,
    TokensRow,
)
from albert_deploy.validation.data.table import DATASETS

WIDE = [
    "index",
    "promptID",
    "pairID",
    "genre",
    "sentence1_binary_parse",
    "sentence2_binary_parse",
    "sentence1_parse",
    "sentence2_parse",
    "sentence1",
    "sentence2",
    "label1",
    "label2",
    "gold_label",
]


def write(path: Path, *rows: Sequence[str], mark: str = "", end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = mark + "".join("\t".join(row) + end for row in rows)
    path.write_bytes(text.encode())
    return path


def labelled(name: str, path: Path) -> list[tuple[str, str | None, float]]:
    rows = read_dataset(name, path)
    found = [(r.text, r.pair, r.label) for r in rows if isinstance(r, ClassificationRow)]
    assert len(found) == len(rows)
    return found


def refused(name: str, path: Path, *wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        read_data(name, path)
    message = str(caught.value)
    assert "\n" not in message
    for part in wanted:
        assert part in message


def wide(index: str, first: str, second: str, label: str) -> list[str]:
    return [
        index,
        "1",
        "1e",
        "slate",
        "( a )",
        "( b )",
        "(S a)",
        "(S b)",
        first,
        second,
        "",
        label,
        label,
    ]


def test_cola_has_no_header(tmp_path: Path) -> None:
    path = write(
        tmp_path / "CoLA" / "dev.tsv",
        ["gj04", "1", "", 'He said "go.'],
        ["gj04", "0", "*", "Go he\u2028said."],
        end="\r\n",
    )
    wanted = [('He said "go.', None, 1), ("Go he\u2028said.", None, 0)]
    assert labelled("cola", path) == labelled("cola", tmp_path) == wanted
    refused("cola", write(path, ["gj04", "1", "a"]), "line 1: 3 columns, wanted 4 (source, label")
    refused("cola", write(path, ["a", "1", "", "b"], ["a", "2", "", "b"]), "line 2: label is '2'")
    refused("cola", write(path), "has no rows")


def test_mrpc_in_official_columns_with_a_mark(tmp_path: Path) -> None:
    header = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
    path = write(
        tmp_path / "dev.tsv",
        header,
        ["1", "7", "8", "He ran.", '"He ran'],
        mark="\ufeff",
        end="\r\n",
    )
    assert labelled("mrpc", path) == [("He ran.", '"He ran', 1)]
    refused("mrpc", write(path, header, ["1", "7", "8", "a", " "]), "line 2: #2 String is empty")


def test_stsb_rows_may_have_more_columns(tmp_path: Path) -> None:
    header = [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ]
    row = ["0", "news", "MSRpar", "2012", "1", "none", "none", "A cat.", "A dog."]
    path = write(
        tmp_path / "dev.tsv", header, [*row, "3.800"], [*row, "http://a", "http://b", "0.000"]
    )
    assert labelled("stsb", path) == [("A cat.", "A dog.", 3.8), ("A cat.", "A dog.", 0.0)]
    for score in ("5.1", "-1", "nan", "inf", "high", ""):
        refused(
            "stsb",
            write(path, header, [*row, score]),
            f"line 2: score is {score!r}, wanted a number from 0 to 5",
        )
    refused("stsb", write(path, header, row), "line 2: 9 columns, wanted 10")


def test_qqp_leaves_incomplete_rows_out_and_counts_them(tmp_path: Path) -> None:
    header = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
    path = write(
        tmp_path / "QQP" / "dev.tsv",
        header,
        ["1", "3", "4", "Why?", "How?", "0"],
        ["2", "5", "6", "Where?"],
        ["3", "7", "8", "", "When?", "0"],
        ["4", "9", "10", "Who?", "Who is it?", "1"],
    )
    data = read_data("qqp", tmp_path)
    assert [(row.id, row.label) for row in data.rows if isinstance(row, ClassificationRow)] == [
        ("0", 0),
        ("3", 1),
    ]
    assert data.skipped == 2
    assert "line 3: 4 of 6 columns" in data.reasons[0]
    assert "line 4: question1 is empty" in data.reasons[1]
    assert data.file == path
    refused("qqp", write(path, header, ["1", "3", "4", "a", "b", "yes"]), "line 2: is_duplicate")
    refused("qqp", write(path, header, ["1", "3", "4", "a", "b", "c", "1"]), "line 2: 7 columns")


def test_mnli_wide_slim_and_mismatched(tmp_path: Path) -> None:
    folder = tmp_path / "MNLI"
    write(
        folder / "dev_mismatched.tsv",
        WIDE,
        wide("0", "A cat sat.", "It sat.", "entailment"),
        wide("1", "A cat sat.", "It ran.", "contradiction"),
        wide("2", "A cat sat.", "It slept.", "-"),
    )
    data = read_data("mnli_mm", tmp_path)
    assert data.rows == [
        ClassificationRow(id="0", text="A cat sat.", pair="It sat.", label=0),
        ClassificationRow(id="1", text="A cat sat.", pair="It ran.", label=2),
    ]
    assert data.skipped == 1
    assert "line 4: gold_label is '-'" in data.reasons[0]
    refused("mnli", tmp_path, "dev_matched.tsv does not exist; give mnli=PATH")
    slim = write(
        folder / "dev_matched.slim.tsv",
        ["index", "sentence1", "sentence2", "gold_label"],
        ["0", "A cat sat.", "A dog.", "neutral"],
    )
    assert labelled("mnli", folder) == [("A cat sat.", "A dog.", 1)]
    assert data_file("mnli", folder) == slim
    write(folder / "dev_matched.tsv", WIDE, wide("0", "A", "B", "entailment"))
    assert labelled("mnli", folder) == [("A", "B", 0)]
    refused(
        "mnli",
        write(slim, WIDE, wide("0", "a", "b", "maybe")),
        "line 2: gold_label is 'maybe', wanted entailment, neutral or contradiction",
    )


@pytest.mark.parametrize(
    ("name", "columns", "labels"),
    [
        ("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        ("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
        ("wnli", ("sentence1", "sentence2"), ("0", "1")),
    ],
)
def test_pairs(
    tmp_path: Path, name: str, columns: tuple[str, str], labels: tuple[str, str]
) -> None:
    header = ["index", *columns, "label"]
    path = write(
        tmp_path / "dev.tsv", header, ["0", "a", "b", labels[1]], ["1", "c", "d", labels[0]]
    )
    assert labelled(name, path) == [("a", "b", 1), ("c", "d", 0)]
    refused(name, write(path, header, ["0", "a", "b", "x"]), f"wanted {labels[0]} or {labels[1]}")


def test_bad_rows_are_skipped_and_counted_where_asked(tmp_path: Path) -> None:
    path = write(
        tmp_path / "dev.tsv",
        ["sentence", "label"],
        ["a"],
        ["b", "1"],
        ["c", "x"],
        ["", "0"],
        ["d", "0"],
    )
    refused("sst2", path, "line 2: 1 columns")
    data = read_data("sst2", path, skip_bad_rows=True)
    assert [row.id for row in data.rows] == ["1", "4"]
    assert data.skipped == 3
    assert [reason.split(": ")[0][-6:] for reason in data.reasons] == ["line 2", "line 4", "line 5"]
    write(path, ["sentence", "label"], *[["a"]] * 20)
    with pytest.raises(InputError, match=r"none of its 20 rows .* line 2: 1 columns"):
        read_data("sst2", path, skip_bad_rows=True)


def squad(*questions: dict[str, Any]) -> str:
    paragraph = {"context": "The Rhine is long.", "qas": list(questions)}
    return json.dumps({"version": "v2.0", "data": [{"title": "R", "paragraphs": [paragraph, {}]}]})


def asked(row_id: str, *answers: str, **extra: Any) -> dict[str, Any]:
    return {"id": row_id, "question": "Q?", "answers": [{"text": a} for a in answers], **extra}


def test_squad_v2_questions_without_answers(tmp_path: Path) -> None:
    path = tmp_path / "dev-v2.0.json"
    path.write_text(
        squad(
            asked("a", "Rhine", is_impossible=False),
            asked("b", is_impossible=True),
            asked("c"),
            asked("d", "Rhine", is_impossible=True),
            asked("e", is_impossible=False),
            asked("f", "Elbe"),
        )
    )
    refused("squad_v2", path, "qas[3]: 'is_impossible' of d is True and it has 1 answers")
    data = read_data("squad_v2", tmp_path, skip_bad_rows=True)
    rows = [row for row in data.rows if isinstance(row, QuestionRow)]
    assert [(row.id, row.answers) for row in rows] == [("a", ("Rhine",)), ("b", ()), ("c", ())]
    assert data.skipped == 4  # d, e, f and the paragraph without a context
    assert "paragraphs[1]: 'context' is missing" in data.reasons[3]
    refused("squad", path, "question b has no answers", "give this file as squad_v2")


def passage(**fields: Any) -> str:
    record = {
        "id": "high7.txt",
        "article": "It rained.",
        "questions": ["What fell?", "It _ ."],
        "options": [["rain", "snow", "hail", "sun"], ["rained", "ran", "sat", "ate"]],
        "answers": ["A", "D"],
    }
    return json.dumps(record | fields)


def test_race(tmp_path: Path) -> None:
    for group, name in (("high", "10"), ("high", "9"), ("middle", "3")):
        file = tmp_path / "RACE" / "dev" / group / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(passage())
    rows = read_dataset("race", tmp_path)
    assert [row.id for row in rows] == [
        f"{place}-{i}" for place in ("middle/3", "high/9", "high/10") for i in (0, 1)
    ]
    assert rows[1] == ChoiceRow(
        id="middle/3-1",
        context="It rained.",
        question="It _ .",
        choices=("rained", "ran", "sat", "ate"),
        label=3,
        group="middle",
    )
    folder = tmp_path / "RACE" / "dev"
    assert rows == read_dataset("race", folder.parent) == read_dataset("race", folder)
    assert data_file("race", tmp_path) == data_file("race", folder) == folder
    refused("race", folder / "high", "high/dev does not exist; give race=PATH", "dev/middle/*.txt")
    refused("race", folder / "high" / "9.txt", "no folder middle or high")
    refused("race", tmp_path / "nowhere", "nowhere does not exist; give race=PATH")
    before = digest(folder)
    (folder / "high" / "9.txt").write_text(passage(answers=["A", "C"]))
    assert digest(folder) != before


@pytest.mark.parametrize(
    ("content", "wanted", "skipped"),
    [
        ("{", "is not JSON", 1),
        (passage(article=None), "'article' is missing", 1),
        (passage(answers=["A"]), "2 questions, 2 options and 1 answers", 1),
        (passage(answers=["A", "E"]), "questions[1]: the answer is 'E', wanted A, B, C, D", 1),
        (passage(answers=["AB", ""]), "questions[0]: the answer is 'AB'", 2),
        (passage(questions=["What?", 7]), "questions[1] is 7, wanted text", 1),
        (passage(options=[["a", "b", "c"], []]), "questions[0]: the options are ['a'", 2),
    ],
)
def test_race_errors_name_file_and_question(
    tmp_path: Path, content: str, wanted: str, skipped: int
) -> None:
    for name, text in (("1.txt", content), ("2.txt", passage())):
        (tmp_path / "dev" / "middle").mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / "middle" / name).write_text(text)
    refused("race", tmp_path, str(tmp_path / "dev" / "middle" / "1.txt"), wanted)
    data = read_data("race", tmp_path, skip_bad_rows=True)
    assert data.skipped == skipped
    assert data.rows[-1].id == "middle/2-1"


CONLL = (
    "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n"
    "Peter NNP B-NP I-PER\r\nBlackburn NNP I-NP I-PER\r\n"
)


@pytest.mark.parametrize("file", ["valid.txt", "testa.txt", "eng.testa", "dev.txt"])
def test_conll(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(CONLL.encode())
    assert read_dataset("conll2003", tmp_path) == [
        TokensRow(id="0", words=("EU", "rejects"), tags=("B-ORG", "O")),
        TokensRow(id="1", words=("Peter", "Blackburn"), tags=("I-PER", "I-PER")),
    ]


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("rejects VBZ B-VP O", "rejects VBZ O", "line 4: 3 columns, wanted 4"),
        ("VBZ B-VP O", "VBZ B-VP 7", "line 4: the tag is '7', wanted O or"),
        ("B-VP O", "B-VP B-", "line 4: the tag is 'B-'"),
    ],
)
def test_conll_errors_name_the_line(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    path = tmp_path / "valid.txt"
    path.write_text(CONLL.replace(old, new))
    refused("conll2003", path, str(path), wanted)
    data = read_data("conll2003", path, skip_bad_rows=True)
    assert [row.id for row in data.rows] == ["1"]
    assert data.skipped == 1


def test_conll_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "valid.txt"
    path.write_text("just\nwords\n")
    refused("conll2003", path, "line 1: 'just' has one column")
    path.write_text("-DOCSTART- -X- -X- O\n\n")
    refused("conll2003", path, "no rows")


def test_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_bytes("One. \r\n\r\n  Two\u2028three\n".encode())
    assert read_dataset("mlm", tmp_path) == [
        PlainRow(id="0", text="One.", following=None),
        PlainRow(id="1", text="Two\u2028three", following=None),
    ]
    (tmp_path / "dev.txt").write_text("\n \n")
    refused("mlm", tmp_path, "has no rows")
    assert DATASETS["mlm"].fits("pretraining")
    assert DATASETS["mlm"].fits("fill-mask")
    assert not DATASETS["sop"].fits("fill-mask")


def test_segments_are_cut_between_sentences() -> None:
    assert halves("A b c. D e f.") == ("A b c.", "D e f.")
    assert halves("One is here. Two! Three is the longest of all.") == (
        "One is here. Two!",
        "Three is the longest of all.",
    )
    assert halves('He said "go." Then he went.') == ('He said "go."', "Then he went.")
    assert halves("One sentence.") is None
    assert halves("") is None


def test_order_pairs(tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    path.write_text("First one. First two.\nAlone.\n\nThird.\nFourth.\nFifth.\n")
    rows = [row for row in read_dataset("sop", path) if isinstance(row, PlainRow)]
    pairs = [(r.text, r.following) if not r.label else (r.following, r.text) for r in rows]
    assert pairs == [("First one.", "First two."), ("Third.", "Fourth.")]
    assert [row.id for row in rows] == ["0", "1"]
    assert rows == read_dataset("sop", path)
    path.write_text("Alone.\n\nAlone too.\n")
    refused("sop", path, "no two sentences in a row")


def test_about_half_of_the_pairs_are_swapped() -> None:
    labels = Counter(ordered(str(i), f"First {i}.", f"Second {i}.").label for i in range(2000))
    assert set(labels) == {0, 1}
    assert 900 < labels[1] < 1100  # four standard deviations are 89
    moved = [ordered(str(i), f"First {i}.", f"Second {i}.", seed=1).label for i in range(100)]
    assert moved != [ordered(str(i), f"First {i}.", f"Second {i}.").label for i in range(100)]


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        ("sst2", "train", 67349),
        ("sst2", "dev", 872),
        ("cola", "train", 8551),
        ("cola", "dev", 1043),
        ("mrpc", "train", 3668),
        ("mrpc", "dev", 408),
        ("stsb", "train", 5749),
        ("stsb", "dev", 1500),
        ("rte", "train", 2490),
        ("rte", "dev", 277),
        ("wnli", "train", 635),
        ("wnli", "dev", 71),
        ("qnli", "dev", 5463),
        ("mnli", "dev", 9815),
        ("squad", "dev", 10570),
        ("squad_v2", "dev", 11873),
    ],
)
def test_real_data_has_its_known_count(shared: Path, name: str, split: str, count: int) -> None:
    folder = shared / "data" / ("squad" if name.startswith("squad") else "glue")
    data = read_data(name, folder, split=split)
    assert len(data.rows) == count
    assert data.skipped == 0
    assert len({row.id for row in data.rows}) == count


def test_real_squad_v2_has_its_unanswerable_questions(shared: Path) -> None:
    rows = read_dataset("squad_v2", shared / "data" / "squad")
    assert sum(isinstance(row, QuestionRow) and not row.answers for row in rows) == 5945
