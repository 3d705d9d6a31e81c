"""Fixtures of this folder, and the way to the fakes beside its tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def _built(make_checkpoint: Callable[..., Path], made_once: Callable[..., Path]) -> Path:
    pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'albert-deploy[rtx]'"
    )
    from albert_deploy.export.engine.step import BuildConfig, build
    from albert_deploy.export.step import ExportConfig, export
    from albert_deploy.runtime.trt.profiles import parse_profiles

    config = BuildConfig(
        targets=("sm89",),
        variants=("fp32",),
        flavour="tensorrt_rtx",
        profiles=parse_profiles("1x1:2x8:4x32", 2),
    )

    def make(out: Path) -> None:
        export(str(make_checkpoint()), ExportConfig(), out=out)
        build(out, config)

    return made_once("runtime-plan", make)


@pytest.fixture
def built(_built: Path, tmp_path: Path) -> Path:
    """A deployment directory with a real plan of TensorRT-RTX for sm89; the test's own copy."""
    return shutil.copytree(_built, tmp_path / "deployment")
