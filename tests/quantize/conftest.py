"""Graphs of tiny checkpoints, exported once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.observe import Row
from albert_deploy.runtime.contract import INPUT_NAMES, VARIANTS

# name -> task, family and configuration: a layer with twelve uses; two groups of two inner layers
# with two uses each; layers of their own; a table that is looked up and multiplied.
GRAPHS: dict[str, tuple[str, str, dict[str, int]]] = {
    "albert": ("text-classification", "albert", {"num_hidden_layers": 12}),
    "grouped": (
        "text-classification",
        "albert",
        {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "bert": ("text-classification", "bert", {"num_hidden_layers": 2}),
    "pretraining": ("pretraining", "albert", {"num_hidden_layers": 2}),
}


@pytest.fixture(scope="session")
def graph_of(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function that returns the float32 file of one of ``GRAPHS``; load it, do not change it."""

    @cache
    def make(name: str) -> Path:
        task, family, config = GRAPHS[name]
        out = tmp_path_factory.mktemp(name) / "out"
        export(str(make_checkpoint(task, family, **config)), ExportConfig(), out=out)
        return out / VARIANTS["fp32"].file

    return make


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Eight texts of random words and of different lengths."""
    generator = np.random.default_rng(0)
    return [row(f"row-{i}", generator.integers(5, 199, 3 + 5 * i)) for i in range(8)]


@pytest.fixture(scope="session")
def make_row() -> Callable[[str, npt.NDArray[np.int64]], Row]:
    """A function that makes an unpadded calibration row of token ids."""
    return row


def row(name: str, ids: npt.NDArray[np.int64]) -> Row:
    arrays = (ids[None], np.ones_like(ids)[None], np.zeros_like(ids)[None])
    return Row(id=name, feeds=dict(zip(INPUT_NAMES, arrays, strict=True)))
