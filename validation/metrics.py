"""Scores of classifications, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError


def accuracy(
    labels: Sequence[int] | npt.NDArray[Any], predictions: Sequence[int] | npt.NDArray[Any]
) -> float:
    """Return the share of predictions that equal their label, in percent.

    Args:
        labels: Class ids, [rows].
        predictions: Class ids, [rows].

    Raises:
        InputError: There are no rows, or not one prediction for each label.
    """
    wanted, got = np.asarray(labels), np.asarray(predictions)
    if wanted.ndim != 1 or wanted.shape != got.shape:
        raise InputError(
            f"got labels of shape {wanted.shape} and predictions of shape {got.shape}; "
            "give one class id per row in each"
        )
    if not len(wanted):
        raise InputError("got no rows to score, wanted at least one; check the data set")
    return 100.0 * int(np.count_nonzero(wanted == got)) / len(wanted)
