"""Batches of about the same length, in order, read a bounded way ahead."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from albert_deploy.runtime.batching import StreamConfig, answers
from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds, Outputs
from albert_deploy.runtime.tasks.head import Encoded


def row(length: int, value: int = 7, choices: int = 1) -> Feeds:
    return {name: np.full((choices, length), value, np.int64) for name in INPUT_NAMES}


def told(rows: list[Outputs]) -> list[list[int]]:
    return [one["ids"].tolist() for one in rows]


def cut(outputs: Outputs, feeds: Feeds) -> Outputs:
    return {"ids": outputs["ids"][: feeds["input_ids"].shape[1]].copy()}


def encoded(*rows: Feeds) -> Encoded:
    return Encoded(rows=rows, answer=told, keep=cut)


class Engine:
    """Gives back the ids, and keeps the shape and the real tokens of every batch."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.real = 0

    def __call__(self, feeds: Feeds, choices: int) -> Outputs:
        ids = feeds["input_ids"]
        self.shapes.append((ids.shape[0] // choices, ids.shape[1]))
        self.real += int(feeds["attention_mask"].astype(bool).sum())
        return {"ids": ids.reshape(-1, choices, ids.shape[1])[:, 0]}

    @property
    def computed(self) -> int:
        return sum(rows * tokens for rows, tokens in self.shapes)


def config(batch_size: int = 8, tokens: int = 16_384) -> StreamConfig:
    return StreamConfig(batch_size=batch_size, tokens=tokens, pad_id=0)


def lengths(count: int) -> list[int]:
    return random.Random(3).choices(range(3, 129), k=count)


def test_answers_come_in_order_with_little_padding() -> None:
    engine, sizes = Engine(), lengths(1000)
    inputs = (encoded(row(size, value + 1)) for value, size in enumerate(sizes))
    for index, found in enumerate(answers(inputs, engine, config())):
        assert found == [[index + 1] * sizes[index]]
    assert index == 999
    assert all(rows <= 8 for rows, _ in engine.shapes)
    as_they_come = sum(8 * max(sizes[i : i + 8]) for i in range(0, 1000, 8))
    assert engine.real == sum(sizes)
    assert engine.computed < 1.15 * engine.real
    assert as_they_come > 1.6 * engine.real
    assert len(engine.shapes) <= 1.1 * 1000 / 8


def test_an_input_of_several_rows_is_answered_once_with_all() -> None:
    sizes = lengths(60)
    rows = [[row(size, 1 + i + 10 * k) for k in range(i % 4)] for i, size in enumerate(sizes)]
    found = list(answers((encoded(*each) for each in rows), Engine(), config(4)))
    assert found == [[r["input_ids"][0].tolist() for r in each] for each in rows]


def test_questions_of_different_choices_are_not_mixed() -> None:
    engine = Engine()
    inputs = [encoded(row(5 + i % 3, i + 1, choices=2 + i % 2)) for i in range(20)]
    found = list(answers(inputs, engine, config(4)))
    assert [one[0][0] for one in found] == list(range(1, 21))


@pytest.mark.parametrize(("tokens", "most"), [(40, 4), (10, 1), (5, 1)])
def test_a_batch_has_no_more_tokens_than_allowed(tokens: int, most: int) -> None:
    engine = Engine()
    list(answers((encoded(row(10)) for _ in range(30)), engine, config(8, tokens)))
    assert max(rows for rows, _ in engine.shapes) == most


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_no_more_is_read_than_the_window(batch_size: int) -> None:
    read = 0

    def inputs() -> Iterator[Encoded]:
        nonlocal read
        for size in lengths(2000):
            read += 1
            yield encoded(row(size))

    limits, ahead = config(batch_size), 0
    stream = answers(inputs(), Engine(), limits)
    assert read == 0  # Nothing is read before an answer is asked for.
    for taken, _ in enumerate(stream, 1):
        ahead = max(ahead, read - taken + 1)
    assert taken == read == 2000
    assert ahead <= limits.ahead
    assert limits.ahead == (1 if batch_size == 1 else 16 * batch_size)
    assert ahead == limits.ahead  # It is used, too.


def test_an_endless_reader_is_not_read_while_nobody_takes_answers() -> None:
    read = 0

    def inputs() -> Iterator[Encoded]:
        nonlocal read
        while True:
            read += 1
            yield encoded(row(4))

    stream = answers(inputs(), Engine(), config(8))
    for _ in range(10):
        next(stream)
    before = read
    assert before <= 10 + config(8).ahead
    stream.close()  # type: ignore[attr-defined]
    assert read == before


@pytest.mark.medium
def test_memory_does_not_grow_with_the_number_of_texts() -> None:
    sizes = lengths(97)

    def peak(count: int) -> int:
        inputs = (encoded(row(sizes[i % 97])) for i in range(count))
        tracemalloc.start()
        try:
            for _ in answers(inputs, Engine(), config()):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(200)
    slope = (peak(1500) - peak(500)) / 1000
    # One row alone has over 1,000 bytes; the engine keeps a shape for each batch.
    assert slope < 60


def test_an_error_comes_after_the_answers_before_it() -> None:
    def inputs() -> Iterator[Encoded]:
        for size in (3, 9, 4):
            yield encoded(row(size))
        raise InputError("line 4 is no text")

    stream = answers(inputs(), Engine(), config())
    assert [len(next(stream)[0]) for _ in range(3)] == [3, 9, 4]
    with pytest.raises(InputError, match="line 4"):
        next(stream)


def test_what_is_known_already_keeps_its_place() -> None:
    known = [Encoded(rows=[], answer=partial(lambda n, _: n, i)) for i in range(3)]
    inputs = [encoded(row(3)), known[0], known[1], encoded(row(2)), known[2]]
    found = list(answers(inputs, Engine(), config()))
    assert found == [[[7] * 3], 0, 1, [[7] * 2], 2]
    assert list(answers([], Engine(), config())) == []
