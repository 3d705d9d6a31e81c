"""What is timed: rows, batches, buckets, and the operations of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.validation.bench import workload
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.operations import column_operations, operations, through
from albert_deploy.validation.bench.workload import (
    batch_columns,
    dataset_column,
    fitting_lengths,
    make_columns,
    padded,
    random_row,
    spread,
    texts,
    tokens,
)

CHOICES = ["batch", "choices", "sequence"]


def manifest_of(axes: list[str]) -> dict[str, Any]:
    return {
        "contract": {"max_length": 64, "pad_token_id": 9, "inputs": [{"axes": axes}]},
        "source": {"config": {"vocab_size": 7}},
    }


@pytest.fixture(scope="module")
def directory(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("workload") / "deployment"
    export(str(make_checkpoint()), ExportConfig(), out=out)
    return out


@pytest.mark.parametrize(("axes", "shape"), [(["batch", "sequence"], (1, 5)), (CHOICES, (1, 2, 5))])
def test_random_row_is_full_and_repeatable(axes: list[str], shape: tuple[int, ...]) -> None:
    row, again = (random_row(manifest_of(axes), 5, seed=3) for _ in range(2))
    for name, values in row.items():
        assert values.shape == shape
        assert values.dtype == "int64"
        assert (values == again[name]).all()
    assert row["attention_mask"].all()
    assert 0 <= row["input_ids"].min() <= row["input_ids"].max() < 7


def test_lengths_are_split_at_the_limit() -> None:
    assert fitting_lengths((128, 8, 64, 8), 64) == ((8, 64), (128,))
    with pytest.raises(InputError, match="at most 64 tokens: pass shorter"):
        fitting_lengths((65,), 64)


def test_shapes_grow_along_the_columns(tmp_path: Path) -> None:
    config = BenchConfig(batches=(4, 1), lengths=(8, 32))
    found = make_columns(tmp_path, manifest_of(["batch", "sequence"]), config, (8, 32))
    assert [c.name for c in found] == ["8", "4x8", "32", "4x32"]
    assert [c.label for c in found] == ["8 tokens", "8 tokens", "32 tokens", "32 tokens"]
    (four,) = found[-1].rows
    assert four["input_ids"].shape == (4, 32)
    assert len({row.tobytes() for row in four["input_ids"]}) == 4
    assert found[-1].to_json() == {
        "label": "32 tokens",
        "batch": 4,
        "tokens": [32],
        "texts": 4,
        "real_tokens": 128,
        "padding": 1.0,
        "edges": [],
    }


def test_padding_is_masked() -> None:
    rows = [random_row(manifest_of(["batch", "sequence"]), n, seed=n) for n in (3, 5)]
    found = padded(rows, 6, 9)
    assert found["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert found["input_ids"][0, 3:].tolist() == [9, 9, 9]
    assert {value.dtype for value in found.values()} == {np.dtype(np.int64)}
    two = padded([random_row(manifest_of(CHOICES), n, seed=n) for n in (3, 4)], 4, 9)
    assert two["input_ids"].shape == (2, 2, 4)


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=40), size=st.integers(1, 9))
def test_every_text_is_in_one_batch_that_holds_it(lengths: list[int], size: int) -> None:
    manifest = manifest_of(["batch", "sequence"])
    rows = [random_row(manifest, n, seed=0) for n in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "texts", lambda *_, **__: rows)
        come, buckets = batch_columns(Path(), manifest, ("sst2", None), 99, size, 0)
    for column in (come, buckets):
        masks = [mask for feeds in column.rows for mask in feeds["attention_mask"]]
        assert sorted(int(mask.sum()) for mask in masks) == sorted(lengths)
        assert all(len(feeds["input_ids"]) <= size for feeds in column.rows)
        assert column.to_json()["padding"] >= 1
        assert column.batch == size
    widths = [tokens(feeds) for feeds in buckets.rows]
    assert widths == sorted(widths)
    assert set(widths) <= set(buckets.edges)
    assert len(buckets.edges) <= 4
    if size == 1:
        assert come.to_json()["padding"] == 1


@pytest.mark.parametrize("name", ["sst2", "squad"])
def test_the_shipped_samples_give_lengths_and_buckets(directory: Path, name: str) -> None:
    manifest = read_manifest(directory)
    come, buckets = batch_columns(directory, manifest, (name, None), 50, 16, 0)
    assert (come.name, buckets.name) == (name, f"{name}-buckets")
    assert (come.label, buckets.label) == (f"{name}, as it comes", f"{name}, in buckets")
    assert len(come.lengths) == len(buckets.lengths) == 50
    fixed = 50 * buckets.edges[-1] / sum(buckets.lengths)
    assert buckets.to_json()["padding"] < fixed or len(buckets.edges) == 1
    again = batch_columns(directory, manifest, (name, None), 50, 16, 0)[0]
    assert again.lengths == come.lengths


def test_texts_are_spread_over_the_lengths(directory: Path) -> None:
    manifest = read_manifest(directory)
    every = sorted(tokens(row) for row in texts(directory, manifest, None))
    column = dataset_column(directory, manifest, ("sst2", None), 5)
    taken = [tokens(row) for row in column.rows]
    assert column.label == "sst2"
    assert len(taken) == 5
    assert taken == sorted(taken)
    assert taken[2] == every[len(every) // 2]
    assert every[0] <= taken[0] <= taken[-1] <= every[-1]


def test_spread_takes_the_middles() -> None:
    items: Any = list(range(10))
    assert spread(items, 2) == [2, 7]
    assert spread(items, 99) == items


def test_data_of_another_task_or_not_there_is_refused(directory: Path, tmp_path: Path) -> None:
    manifest = read_manifest(directory)
    with pytest.raises(InputError, match="squad is data for question-answering"):
        dataset_column(directory, manifest, ("squad", tmp_path), 2)
    with pytest.raises(InputError, match="does not exist"):
        batch_columns(directory, manifest, ("sst2", tmp_path / "no"), 2, 2, 0)


def test_operations_are_those_of_the_formula(directory: Path) -> None:
    """Tiny ALBERT: embedding 16, hidden 32, inner 64, 3 iterations, 2 labels."""
    manifest = read_manifest(directory)
    rows = [random_row(manifest, n, seed=0) for n in (5, 20)]
    expected = []
    for n in (5, 20):
        layer = 4 * n * 32 * 32 + 2 * n * 32 * 64 + 2 * n * n * 32
        expected.append(2 * (n * 16 * 32 + 3 * layer + 32 * 32 + 32 * 2))
    assert operations(directory / VARIANTS["fp32"].file, rows) == expected


def test_operations_at_any_shape_follow_from_three_lengths(directory: Path) -> None:
    manifest = read_manifest(directory)
    config = BenchConfig(batches=(1, 5), lengths=(61,))
    columns = make_columns(directory, manifest, config, (61,))
    columns.append(dataset_column(directory, manifest, ("sst2", None), 3))
    found = column_operations(directory, manifest, columns)
    for column in columns:
        counted = operations(directory / VARIANTS["fp32"].file, column.rows)
        assert found[column.name] == pytest.approx(sum(counted) / len(counted), rel=1e-12)
    assert through({1: 1, 2: 4, 5: 25}, 9) == pytest.approx(81)
