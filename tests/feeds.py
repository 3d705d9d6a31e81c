"""What tests give to models, and a way to run a graph on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import INPUT_NAMES

if TYPE_CHECKING:
    import onnx_ir as ir

Feeds = dict[str, npt.NDArray[np.int64]]


def whole(ids: npt.NDArray[np.int64]) -> Feeds:
    """Feeds of ids [batch, sequence] of the first type, none of them padding."""
    return dict(zip(INPUT_NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def feeds(batch: int = 2, length: int = 7, *, seed: int = 0) -> Feeds:
    return whole(np.random.default_rng(seed).integers(0, 200, (batch, length)))


def rows_of(*lengths: int, seed: int = 0) -> list[Feeds]:
    """Random rows of these lengths, one by one."""
    random = np.random.default_rng(seed)
    return [whole(random.integers(5, 200, (1, length))) for length in lengths]


def masked(length: int = 24, choices: int = 0) -> Feeds:
    """One row per mask: full, right, left, holed, all but one, all masked."""
    mask = np.ones((6, length), np.int64)
    mask[1, length // 2 :] = mask[2, : length // 3] = mask[3, 1::3] = 0
    mask[4, 1:] = mask[5] = 0
    ids = np.random.default_rng(0).integers(5, 200, mask.shape)
    types = np.broadcast_to(np.arange(length) >= length // 2, mask.shape).astype(np.int64)
    arrays = (ids, mask, types)
    if choices:
        arrays = tuple(np.repeat(a[:, None], choices, axis=1) for a in arrays)
    return dict(zip(INPUT_NAMES, arrays, strict=True))


def run_each(
    model: ir.Model, rows: Iterable[Feeds], folder: Path
) -> list[dict[str, npt.NDArray[Any]]]:
    """Write a graph into the folder and run it on each of the rows, in ONNX Runtime."""
    from albert_deploy.export.graph.file import save
    from albert_deploy.runtime.engines.ort import open_ort

    save(model, folder / "model.onnx")
    with open_ort(folder / "model.onnx", threads=1) as session:
        return [session.run(row) for row in rows]


def run_one(model: ir.Model, row: Feeds, folder: Path) -> dict[str, npt.NDArray[Any]]:
    return run_each(model, [row], folder)[0]
