"""Timing caches: one for each GPU and version, written whole, merged, and required where asked."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.export.engine.timing_cache import cache_path, load_cache, save_cache
from albert_deploy.runtime.errors import ContractError
from albert_deploy.runtime.trt.flavours import Flavour
from albert_deploy.runtime.trt.targets import target_named

sys.path.append(str(Path(__file__).parents[2] / "runtime"))
fake: Any = importlib.import_module("fake_trt")


def _flavour(version: str) -> Flavour:
    return Flavour(name="tensorrt", version=version, module=None, ahead_of_time=False)


def _build(path: Path, *kernels: bytes, required: bool = False) -> dict[str, Any]:
    config = fake.Config()
    use = load_cache(config, path, required=required)
    assert config.cache is use.cache
    use.cache.entries |= set(kernels)
    return save_cache(config, use)


def test_each_target_version_and_gpu_has_its_own(tmp_path: Path) -> None:
    paths = {
        cache_path(tmp_path, _flavour(version), target_named(target), gpu)
        for version in ("10.16.1.11", "11.4.0.106")
        for target in ("sm86", "sm89")
        for gpu in ("NVIDIA L4", "NVIDIA GeForce RTX 4090", None)
    }
    assert len(paths) == 12
    assert tmp_path / "sm89-nvidia-l4-tensorrt-11.4.0.106.timing" in paths


def test_a_second_build_hits(tmp_path: Path) -> None:
    path = tmp_path / "caches" / "x.timing"
    first = _build(path, b"gemm", b"softmax")
    assert first["hit"] is False
    assert path.read_bytes() == b"gemm\nsoftmax"
    second = _build(path, b"gemm")
    assert second == {**first, "hit": True}
    third = _build(path, b"other")
    assert third["hit"] is False
    assert third["sha256"] != first["sha256"]
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_what_another_build_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    config = fake.Config()
    use = load_cache(config, path)
    _build(path, b"theirs")
    use.cache.entries.add(b"ours")
    save_cache(config, use)
    assert path.read_bytes() == b"ours\ntheirs"


def test_builds_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    kernels = [f"kernel {i:02d}".encode() for i in range(24)]
    with ThreadPoolExecutor(6) as pool:
        assert not any(made["hit"] for made in pool.map(lambda k: _build(path, k), kernels))
    assert path.read_bytes().split(b"\n") == kernels


def test_a_cache_of_another_gpu_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    path.write_bytes(b"another GPU")
    made = _build(path, b"gemm")
    assert made["hit"] is False
    assert path.read_bytes() == b"gemm"
    path.write_bytes(b"another GPU")
    with pytest.raises(ContractError, match="of another GPU or version"):
        load_cache(fake.Config(), path, required=True)


def test_a_required_cache_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="there is no timing cache"):
        load_cache(fake.Config(), tmp_path / "x.timing", required=True)
    _build(tmp_path / "x.timing", b"gemm")
    assert _build(tmp_path / "x.timing", required=True)["hit"] is True
