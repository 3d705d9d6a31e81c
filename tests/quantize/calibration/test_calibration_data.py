"""Calibration texts: what is read, what is refused, and which rows are drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from models import SHALLOW

from albert_deploy.quantize.calibration.texts import (
    LEAST_ROWS,
    CalibrationConfig,
    Texts,
    parse_calibration,
    read_texts,
    sampled,
)
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest, sha256_of
from albert_deploy.runtime.tasks.tokenize import load_tokenizer

Read = Callable[..., Texts]
WORDS = ("the", "a", "film", "river", "is", "was", "long", "warm", "who", "what")


@pytest.fixture(scope="module")
def read(make_export: Callable[..., Path]) -> Read:
    """A function that reads calibration texts for a model of a task."""

    @cache
    def directory(name: str) -> Path:
        task, family, sizes = SHALLOW[name]
        return make_export(task, family, **sizes)

    def make(config: CalibrationConfig, *, task: str = "text-classification") -> Texts:
        out = directory(task)
        return read_texts(out, read_manifest(out), config)

    make.directory = directory  # type: ignore[attr-defined]
    return make


def lines(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 1 + i % 9)) + f" {i}" for i in range(count)]


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def text(path: Path, **options: object) -> CalibrationConfig:
    return CalibrationConfig(name="text", path=path, **options)


def glue(folder: Path, *, train: int = 40, dev: int = 40) -> Path:
    """SST-2's layout; both splits are equal where they have as many rows."""
    folder.mkdir(exist_ok=True)
    for split, count in (("train", train), ("dev", dev)):
        rows = [f"{line}\t{i % 2}" for i, line in enumerate(lines(count))]
        write(folder / f"{split}.tsv", ["sentence\tlabel", *rows])
    return folder


def ids(texts: Texts) -> list[str]:
    return [row.id for row in texts.rows]


def contents(texts: Texts) -> list[tuple[int, ...]]:
    return [tuple(row.feeds["input_ids"].reshape(-1).tolist()) for row in texts.rows]


def test_fewer_than_32_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"31 calibration texts .*`samples` 32 or more"):
        text(tmp_path, samples=31)
    assert text(tmp_path, samples=31, allow_few=True).samples == 31
    assert text(tmp_path, samples=32).samples == LEAST_ROWS


def test_a_file_with_fewer_than_32_texts_is_refused(read: Read, tmp_path: Path) -> None:
    file = write(tmp_path / "few.txt", [*lines(31), "", "  "])
    with pytest.raises(InputError, match=r"few\.txt has 31 texts.*`allow_few=True`"):
        read(text(file))
    assert len(read(text(file, allow_few=True)).rows) == 31
    assert len(read(text(write(file, lines(32)))).rows) == 32


def test_a_train_split_with_fewer_than_32_rows_is_refused(read: Read, tmp_path: Path) -> None:
    folder = glue(tmp_path / "sst2", train=31)
    with pytest.raises(InputError, match=r"train\.tsv has 31 texts"):
        read(CalibrationConfig(name="sst2", path=folder))
    assert len(read(CalibrationConfig(name="sst2", path=folder, allow_few=True)).rows) == 31


def test_the_train_split_is_read(read: Read, tmp_path: Path) -> None:
    folder = glue(tmp_path / "sst2", train=50)
    texts = read(CalibrationConfig(name="sst2", path=folder))
    assert len(texts.rows) == 50
    tokens = sum(row.feeds["input_ids"].size for row in texts.rows)
    assert texts.origin | {"source_sha256": ""} == {
        "name": "sst2",
        "file": "train.tsv",
        "sha256": sha256_of(folder / "train.tsv"),
        "texts": 50,
        "rows": 50,
        "tokens": tokens,
        "seed": 0,
        "source_sha256": "",
    }


def test_the_dev_split_is_refused_by_its_name(read: Read, tmp_path: Path) -> None:
    file = glue(tmp_path / "sst2", train=50) / "dev.tsv"
    with pytest.raises(InputError, match=r"dev\.tsv is the evaluation split.*`allow_eval"):
        read(CalibrationConfig(name="sst2", path=file))
    config = CalibrationConfig(name="sst2", path=file, allow_evaluation=True)
    assert len(read(config).rows) == 40


def test_the_dev_split_is_refused_under_another_name(read: Read, tmp_path: Path) -> None:
    folder = glue(tmp_path / "sst2")
    shutil.copy(folder / "dev.tsv", folder / "mine.tsv")
    for path in (folder, folder / "mine.tsv"):
        with pytest.raises(InputError, match="is the evaluation split"):
            read(CalibrationConfig(name="sst2", path=path))
        config = CalibrationConfig(name="sst2", path=path, allow_evaluation=True)
        assert len(read(config).rows) == 40


def test_rows_are_as_long_as_their_texts(read: Read, tmp_path: Path) -> None:
    file = write(tmp_path / "texts.txt", lines(40))
    texts = read(text(file))
    tokenizer = load_tokenizer(read.directory("text-classification"))  # type: ignore[attr-defined]
    assert contents(texts) == [tuple(tokenizer.encode(line).ids) for line in lines(40)]
    assert ids(texts) == [f"line {i}" for i in range(1, 41)]
    for row in texts.rows:
        assert row.feeds["attention_mask"].all()
        assert not row.feeds["token_type_ids"].any()


def test_a_tab_makes_a_pair(read: Read, tmp_path: Path) -> None:
    rows = [f"{line}\tit was {i}" for i, line in enumerate(lines(40))]
    rows[3] = "alone"
    texts = read(text(write(tmp_path / "pairs.txt", rows)))
    assert [bool(row.feeds["token_type_ids"].any()) for row in texts.rows] == [
        i != 3 for i in range(40)
    ]


def test_questions_have_their_context_behind_a_tab(read: Read, tmp_path: Path) -> None:
    rows = [f"what is {i}\t{line}" for i, line in enumerate(lines(40))]
    rows[0] = "what is it\t" + "the river is long and warm " * 20
    file = write(tmp_path / "questions.txt", rows)
    texts = read(text(file), task="question-answering")
    assert texts.origin["texts"] == 40
    # The long context has several windows, each a row of its own.
    assert texts.origin["rows"] == len(texts.rows) > 40
    for row in texts.rows:
        assert row.feeds["input_ids"].shape[1] <= 64
        assert row.feeds["attention_mask"].all()
        assert row.feeds["token_type_ids"].any()
    write(file, [*rows, "what is it"])
    with pytest.raises(InputError, match=r"line 41 has no context; write question, tab, context"):
        read(text(file), task="question-answering")


def test_choices_are_rows_without_padding(read: Read, tmp_path: Path) -> None:
    texts = read(text(write(tmp_path / "texts.txt", lines(40))), task="multiple-choice")
    assert len(texts.rows) == 2 * 40
    for row in texts.rows:
        assert {array.shape[:2] for array in row.feeds.values()} == {(1, 1)}
        assert row.feeds["attention_mask"].all()
        assert (row.feeds["input_ids"] != 0).all()
    assert len({row.feeds["input_ids"].shape[2] for row in texts.rows}) > 2
    assert len(set(ids(texts))) == 80


def test_over_long_texts_are_cut_unless_asked(read: Read, tmp_path: Path) -> None:
    file = write(tmp_path / "long.txt", [*lines(39), "film " * 100])
    assert max(row.feeds["input_ids"].shape[1] for row in read(text(file)).rows) == 64
    with pytest.raises(InputError, match=r"row line 40 has 102 tokens"):
        read(text(file, truncate=False))


@pytest.mark.parametrize("name", ["sst2", "squad"])
def test_data_of_another_task_is_refused(read: Read, name: str, tmp_path: Path) -> None:
    other = {"sst2": "question-answering", "squad": "text-classification"}[name]
    config = CalibrationConfig(name=name, path=tmp_path)
    with pytest.raises(InputError, match=rf"the checkpoint is for {other}; .*text=FILE"):
        read(config, task=other)


def test_a_file_that_is_not_utf_8_is_refused(read: Read, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9\n" * 40)
    with pytest.raises(InputError, match=r"cannot read .*latin\.txt.*UTF-8"):
        read(text(file))
    with pytest.raises(InputError, match=r"cannot read .*absent\.txt"):
        read(text(tmp_path / "absent.txt"))
    with pytest.raises(InputError, match="cannot read"):
        read(text(tmp_path))


def test_the_draw_follows_the_seed(read: Read, tmp_path: Path) -> None:
    file = write(tmp_path / "texts.txt", lines(300))
    drawn = [read(text(file, samples=40, seed=seed)) for seed in (0, 0, 1)]
    assert ids(drawn[0]) == ids(drawn[1])
    assert contents(drawn[0]) == contents(drawn[1])
    assert drawn[0].origin == drawn[1].origin
    assert set(ids(drawn[0])) != set(ids(drawn[2]))
    assert drawn[2].origin["seed"] == 1
    numbers = [int(name.removeprefix("line ")) for name in ids(drawn[0])]
    assert len(set(numbers)) == 40
    assert numbers == sorted(numbers)
    # Not the beginning of the file alone.
    assert max(numbers) > 200


def test_sampled_takes_all_where_there_are_fewer() -> None:
    assert sampled(5, 32, 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("given", ["imdb=here", "text", "text=", "statistics", "sst2=", ""])
def test_a_bad_option_is_refused(given: str) -> None:
    with pytest.raises(InputError, match=r"use one of: sst2, .*statistics|=PATH"):
        parse_calibration(given)


def test_good_options_are_split() -> None:
    assert parse_calibration("sst2") == ("sst2", None)
    assert parse_calibration("text=a=b") == ("text", Path("a=b"))
