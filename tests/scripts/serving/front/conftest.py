"""The stand-in for Triton lies beside the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def any_body(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any bytes pass for JSON where a test is about how they travel."""
    if request.module.__name__.rpartition(".")[2] != "test_bodies":
        from albert_deploy.scripts.serving.front import reading

        monkeypatch.setattr(reading, "bad_body", lambda body, generate: None)
