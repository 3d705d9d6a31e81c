"""Fixtures of this folder, and the way to the helpers beside its tests."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tagged

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def exported_task(make_export: Callable[..., Path]) -> Callable[[str], Path]:
    """A deployment directory of a task; nobody changes it."""

    @functools.cache
    def make(task: str) -> Path:
        return make_export(task, **tagged(task))

    return make
