"""Rows of one shape run together, in groups that depend on the rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.rows import Row
from albert_deploy.validation.evaluate.batches import BatchConfig, groups, run_feeds
from albert_deploy.validation.evaluate.timeout import TimedSession


def feeds(length: int, value: int = 1) -> dict[str, Any]:
    return {"input_ids": np.full((1, length), value, np.int64)}


def row(number: int, *lengths: int) -> Row:
    return Row(id=str(number), feeds=[feeds(length, number) for length in lengths])


def numbers(given: list[Row], **config: Any) -> list[list[int]]:
    return [[n for n, _ in group] for group in groups(given, BatchConfig(**config))]


class Summing:
    engine = "sum"
    outputs = ("logits",)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, given: Any) -> dict[str, Any]:
        self.shapes.append(given["input_ids"].shape)
        return {"logits": given["input_ids"].sum(axis=-1, keepdims=True).astype(np.float32)}

    def close(self) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_only_rows_of_equal_length_are_grouped() -> None:
    rows = [row(i, length) for i, length in enumerate((5, 3, 5, 4, 3, 5))]
    assert numbers(rows) == [[1, 4], [3], [0, 2, 5]]
    assert numbers(rows, rows=2) == [[1, 4], [3], [0, 2], [5]]
    assert numbers(rows, tokens=6) == [[1, 4], [3], [0], [2], [5]]
    assert numbers(rows, pool=3) == [[1], [0, 2], [4], [3], [5]]
    assert numbers([row(0, 5, 2), row(1, 5, 3), row(2, 5, 2)]) == [[0, 2], [1]]
    assert numbers([]) == []


def test_answers_come_back_in_the_order_of_the_inputs() -> None:
    session = Summing()
    given = [feeds(3, 1), feeds(2, 5), feeds(3, 2), feeds(3, 3)]
    found = run_feeds(TimedSession(session, "fp32"), given, 2, ["0", "1", "2", "3"])
    assert [o["logits"].tolist() for o in found] == [[[3.0]], [[10.0]], [[6.0]], [[9.0]]]
    assert session.shapes == [(2, 3), (1, 3), (1, 2)]


def test_a_dynamically_quantized_variant_runs_row_by_row() -> None:
    config = BatchConfig()
    assert config.most("int8", feeds(3)) == 1
    assert config.most("fp32", feeds(3)) == 8
    assert config.most("fp32", feeds(400)) == 2
    assert config.most("fp32", feeds(4000)) == 1


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        BatchConfig(rows=0)
