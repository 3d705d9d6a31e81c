"""The export's own tests: each one traces."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def exports_are_made_once() -> None:
    """Leave the export as it is."""
