"""Rows to calibrate on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from albert_deploy.quantize.calibration.observe import Row
from albert_deploy.runtime.contract import INPUT_NAMES


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
