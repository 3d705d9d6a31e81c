"""Fixtures of this folder, and the way to the helpers beside its tests."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

_TAGS = ("O", "B-PER", "I-PER", "B-LOC")


@pytest.fixture(scope="session")
def exported_task(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A deployment directory of a task; nobody changes it."""
    from albert_deploy.export.step import ExportConfig, export

    @functools.cache
    def make(task: str) -> Path:
        config: dict[str, Any] = {}
        if task == "token-classification":
            config["id2label"] = dict(enumerate(_TAGS))
            config["label2id"] = {tag: i for i, tag in enumerate(_TAGS)}
        out = tmp_path_factory.mktemp(f"served-{task}") / "out"
        export(str(make_checkpoint(task, **config)), ExportConfig(task=task), out=out)
        return out

    return make
