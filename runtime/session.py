"""The one way to run a model: a ``Session``, whatever the engine behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.engines import ENGINES
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import check_file, read_manifest
from albert_deploy.runtime.onnx_locations import external_files

__all__ = [
    "AUTO",
    "ENGINES",
    "Array",
    "Feeds",
    "Session",
    "check_feeds",
    "choose_engine",
    "open_file",
    "open_session",
]

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, npt.NDArray[np.int64]]


class Session(Protocol):
    """A loaded model.

    Attributes:
        engine: Who runs it: a key of ``ENGINES``, or ``torch`` for the source.
        outputs: Names of its outputs, in the order of the contract.
    """

    engine: str
    outputs: tuple[str, ...]

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """Run once.

        Args:
            feeds: ``input_ids``, ``attention_mask``, ``token_type_ids``, int64, all
                [batch, sequence] or [batch, choices, sequence].

        Returns:
            Every output by name, float32.

        Raises:
            InputError: A feed is missing, unknown, of the wrong shape or not int64.
        """
        ...

    def close(self) -> None:
        """Free the model; the session cannot run any more."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


AUTO = "auto"
# Other variants leave float32 what has to stay float32.
_OPENVINO_PRECISIONS = {"bf16": "bf16"}

# ONNX Runtime takes FP8 Q/DQ for INT8's, fuses it into an integer kernel and refuses its own work.
_ORT_UNFUSED = {"fp8-qdq"}


def open_session(
    directory: Path,
    *,
    variant: str = "fp32",
    threads: int = 0,
    engine: str = AUTO,
    precision: str | None = None,
) -> Session:
    """Open a variant of a deployment directory after comparing its SHA-256.

    Args:
        directory: Deployment directory.
        variant: Key of ``VARIANTS``.
        threads: Threads inside one operator; 0 takes one per core.
        engine: Key of ``ENGINES``, or ``auto``: on a GPU where this machine has one and the
            means to use it, see ``choose_engine``.
        precision: For ``openvino`` alone: ``f32`` or ``bf16``, in which it runs what the file
            leaves in float32; None for that of the variant. See ``runtime.ov.open_ov``.

    Raises:
        InputError: No such directory, variant, engine or precision, or the engine does not run
            the variant.
        ContractError: The file is not the one that the manifest records, or the engine
            refuses it.
        MachineError: The engine is not installed, or there is no GPU for it.
    """
    row = variant_named(variant)
    manifest = read_manifest(directory)
    chosen = choose_engine(manifest, variant, engine, directory=directory)
    if chosen == "trt":
        from albert_deploy.runtime.trt import TrtConfig, open_trt

        # What a file runs in one piece, its plan may have to run in several.
        return open_trt(directory, variant, TrtConfig(policy="pad"))
    path = check_file(directory, manifest, row.file)
    for name in sorted(external_files(path)):
        check_file(directory, manifest, str(PurePosixPath(row.file).with_name(name)))
    return open_file(path, variant, chosen, threads=threads, precision=precision)


def open_file(
    path: Path, variant: str, engine: str, *, threads: int = 0, precision: str | None = None
) -> Session:
    """Open a variant's file, or one made from it, without looking at any manifest.

    Args:
        path: ONNX file.
        variant: Key of ``VARIANTS``.
        engine: Result of ``choose_engine``.
        threads: See ``open_session``.
        precision: See ``open_session``.

    Raises:
        InputError: The engine does not run the precision.
        ContractError: The engine refuses the file.
    """
    if precision is None and engine == "openvino":
        precision = _OPENVINO_PRECISIONS.get(variant)
    if engine == "ort" and variant in _ORT_UNFUSED:
        from albert_deploy.runtime.ort import open_ort

        return open_ort(path, threads=threads, fuse_qdq=False)
    return ENGINES[engine].open(path, threads, precision)


def choose_engine(
    manifest: Mapping[str, Any],
    variant: str,
    engine: str = AUTO,
    *,
    directory: Path | None = None,
) -> str:
    """Return the engine that runs a variant here.

    ``auto`` is the one that ``albert-deploy bench --tune`` found the fastest for the very file
    that is there now, else the first of ``VARIANTS[variant].engines``; of those installed. With
    a directory, what runs on a GPU goes before these: ``trt`` where a verified plan of the
    directory runs here, then ``ort-cuda``.

    Args:
        manifest: Of a deployment directory.
        variant: Key of ``VARIANTS``.
        engine: Key of ``ENGINES``, or ``auto``.
        directory: The deployment directory; None to choose for the ONNX file alone, on the CPU,
            which is the same on each machine.

    Raises:
        InputError: Unknown variant or engine, or one that does not run the variant.
        MachineError: The engine, or each of them, is not installed.
    """
    row = variant_named(variant)
    if engine == AUTO:
        if directory is not None and (found := _on_gpu(directory, manifest, variant)):
            return found
        tuned = manifest.get("tuned", {}).get(variant, {})
        current = manifest["files"].get(row.file, {}).get("sha256")
        first = tuned.get("engine") if tuned.get("sha256") == current else None
        for name in sorted(row.engines, key=lambda name: name != first):
            if ENGINES[name].installed:
                return name
        remedy = " or ".join(ENGINES[name].remedy for name in row.engines)
        raise MachineError(f"no engine that runs {variant} is installed; run: {remedy}")
    if engine not in ENGINES:
        known = ", ".join((AUTO, *ENGINES))
        raise InputError(f"unknown engine {engine!r}; use one of: {known}")
    running = (*row.engines, *row.gpu_engines)
    if engine not in running:
        raise InputError(
            f"{engine} does not run {variant}; use {AUTO} or one of: {', '.join(running)}"
        )
    if why := ENGINES[engine].missing:
        raise MachineError(f"{engine} {why}")
    return engine


def _on_gpu(directory: Path, manifest: Mapping[str, Any], variant: str) -> str | None:
    """Return the engine that runs a variant on a GPU of this machine; None without one."""
    for name in variant_named(variant).gpu_engines:
        if not ENGINES[name].installed:
            continue
        if name != "trt":
            return name
        from albert_deploy.runtime.plan_machine import look
        from albert_deploy.runtime.plans import find_plan

        if find_plan(directory, manifest, variant, look())[0] is not None:
            return name
    return None


def check_feeds(feeds: Feeds, ranks: Mapping[str, int]) -> None:
    """Fail where feeds are not what a model takes, in every engine alike.

    Args:
        feeds: What was given.
        ranks: Number of axes of each input of the model, which share one shape.

    Raises:
        InputError: A feed is missing, unknown, of the wrong shape or not int64.
    """
    shapes = {name: np.shape(value) for name, value in feeds.items()}
    if set(shapes) != set(ranks):
        raise InputError(f"got inputs {', '.join(sorted(shapes))}; wanted {', '.join(ranks)}")
    if len(set(shapes.values())) > 1 or any(len(s) != ranks[n] for n, s in shapes.items()):
        rank = next(iter(ranks.values()))
        raise InputError(f"got shapes {shapes}; wanted one common shape of rank {rank}")
    kinds = {name: str(np.asarray(value).dtype) for name, value in feeds.items()}
    if set(kinds.values()) != {"int64"}:
        raise InputError(f"got data types {kinds}; wanted int64: convert with .astype('int64')")
