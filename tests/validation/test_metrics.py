from __future__ import annotations

import numpy as np
import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.metrics import accuracy


def test_accuracy_is_in_percent() -> None:
    assert accuracy([0, 1, 1, 0], [0, 1, 0, 0]) == 75.0
    assert accuracy(np.array([2, 1, 0]), [2, 1, 0]) == 100.0
    assert accuracy([1], np.array([0])) == 0.0


def test_accuracy_wants_one_prediction_per_label() -> None:
    with pytest.raises(InputError, match=r"\(2,\).*\(1,\)"):
        accuracy([0, 1], [0])
    with pytest.raises(InputError, match="one class id per row"):
        accuracy([0, 1], np.zeros((2, 2)))
    with pytest.raises(InputError, match="no rows"):
        accuracy([], [])
