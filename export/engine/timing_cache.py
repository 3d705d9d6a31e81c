"""Timing caches: what TensorRT measured of kernels, kept for the next build on the same GPU.

One file for each target, flavour, version and model of GPU. TensorRT for RTX has none: it
measures nothing while it builds.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import ContractError
from albert_deploy.runtime.manifest import writing
from albert_deploy.runtime.trt.flavours import Flavour
from albert_deploy.runtime.trt.targets import Target


@dataclass(frozen=True, kw_only=True)
class CacheUse:
    """A timing cache that a build works with.

    Attributes:
        path: Its file.
        cache: TensorRT's object.
        before: Bytes that it held at the start; empty where there was no file.
        required: Whether the build fails where anything is timed anew.
    """

    path: Path
    cache: Any
    before: bytes
    required: bool = False


def cache_path(folder: Path, flavour: Flavour, target: Target, gpu: str | None) -> Path:
    """Return the file of a timing cache.

    Args:
        folder: Where caches are kept.
        flavour: Who builds; caches of other versions cannot be read.
        target: For what.
        gpu: What the GPU calls itself: timings of one model are not those of another.
    """
    model = re.sub(r"[^a-z0-9]+", "-", (gpu or "unknown").lower()).strip("-")
    return folder / f"{target.sm}-{model}-{flavour.name}-{flavour.version}.timing"


def load_cache(config: Any, path: Path, *, required: bool = False) -> CacheUse:
    """Give a builder configuration the cache in ``path``, or an empty one.

    Args:
        config: TensorRT's builder configuration.
        path: Result of ``cache_path``.
        required: Fail where there is no such cache, or it is not of this GPU and version.

    Raises:
        ContractError: It is required and cannot be used.
    """
    before = path.read_bytes() if path.is_file() else b""
    if required and not before:
        raise ContractError(
            f"there is no timing cache {path}, and a hit is required; build once without "
            "`require_cache_hit=True` on this GPU, or bring the cache of that build"
        )
    cache = config.create_timing_cache(before)
    if before and (cache is None or not config.set_timing_cache(cache, False)):
        if required:
            raise ContractError(
                f"the timing cache {path} is damaged or of another GPU or version, and a hit is "
                "required; remove it and build once without `require_cache_hit=True`"
            )
        before = b""
        cache = config.create_timing_cache(b"")
    if not before:
        config.set_timing_cache(cache, False)
    return CacheUse(path=path, cache=cache, before=before, required=required)


def save_cache(config: Any, use: CacheUse) -> dict[str, Any]:
    """Write what a build measured, together with what others wrote in the meantime.

    Writers take turns, and a reader finds the old file or the new one.

    Args:
        config: The configuration that was built with.
        use: Result of ``load_cache``.

    Returns:
        ``file``, ``sha256``, and ``hit``: whether the cache had all that the build needed.
    """
    after = bytes(use.cache.serialize())
    hit = use.required or (bool(use.before) and after == use.before)
    if not hit:
        with _turn(use.path):
            theirs = use.path.read_bytes() if use.path.is_file() else b""
            if theirs and theirs != use.before:
                other = config.create_timing_cache(theirs)
                if other is not None and use.cache.combine(other, False):
                    after = bytes(use.cache.serialize())
            with writing(use.path) as file:
                file.write(after)
    return {"file": use.path.name, "sha256": hashlib.sha256(after).hexdigest(), "hit": hit}


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait until no other process writes the cache; where locks are missing, do not wait."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
