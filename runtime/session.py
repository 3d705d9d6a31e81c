"""The one way to run a model: a ``Session``, whatever the engine behind it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import check_file, read_manifest

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


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A library that runs ONNX files.

    Args:
        package: What is imported.
        extra: Of this project, which brings the package.
        open: Loads a file: ``open(path, threads, precision)``.
    """

    package: str
    extra: str
    open: Callable[[Path, int, str | None], Session]

    @property
    def installed(self) -> bool:
        """Tell whether the package is there, without importing it."""
        return importlib.util.find_spec(self.package) is not None


def _open_ort(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.ort import open_ort

    if precision not in (None, "f32"):
        raise InputError(f"ort runs what a file says, not {precision}; use another engine for it")
    return open_ort(path, threads=threads)


def _open_openvino(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.ov import open_ov

    return open_ov(path, threads=threads, precision=precision)


ENGINES: dict[str, Engine] = {
    "ort": Engine(package="onnxruntime", extra="cpu", open=_open_ort),
    "openvino": Engine(package="openvino", extra="openvino", open=_open_openvino),
}
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
        engine: Key of ``ENGINES``, or ``auto``, see ``choose_engine``.
        precision: For ``openvino`` alone: ``f32`` or ``bf16``, in which it runs what the file
            leaves in float32; None for that of the variant. See ``runtime.ov.open_ov``.

    Raises:
        InputError: No such directory, variant, engine or precision, or the engine does not run
            the variant.
        ContractError: The file is not the one that the manifest records, or the engine
            refuses it.
        MachineError: The engine is not installed.
    """
    row = variant_named(variant)
    manifest = read_manifest(directory)
    chosen = choose_engine(manifest, variant, engine)
    path = check_file(directory, manifest, row.file)
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


def choose_engine(manifest: Mapping[str, Any], variant: str, engine: str = AUTO) -> str:
    """Return the engine that runs a variant here.

    ``auto`` is the one that ``albert-deploy bench --tune`` found the fastest for the very file
    that is there now, else the first of ``VARIANTS[variant].engines``; of those installed.

    Args:
        manifest: Of a deployment directory.
        variant: Key of ``VARIANTS``.
        engine: Key of ``ENGINES``, or ``auto``.

    Raises:
        InputError: Unknown variant or engine, or one that does not run the variant.
        MachineError: The engine, or each of them, is not installed.
    """
    row = variant_named(variant)
    if engine == AUTO:
        tuned = manifest.get("tuned", {}).get(variant, {})
        current = manifest["files"].get(row.file, {}).get("sha256")
        first = tuned.get("engine") if tuned.get("sha256") == current else None
        for name in sorted(row.engines, key=lambda name: name != first):
            if ENGINES[name].installed:
                return name
        remedy = " or ".join(_remedy(name) for name in row.engines)
        raise MachineError(f"no engine that runs {variant} is installed; run: {remedy}")
    if engine not in ENGINES:
        known = ", ".join((AUTO, *ENGINES))
        raise InputError(f"unknown engine {engine!r}; use one of: {known}")
    if engine not in row.engines:
        raise InputError(
            f"{engine} does not run {variant}; use {AUTO} or one of: {', '.join(row.engines)}"
        )
    if not ENGINES[engine].installed:
        raise MachineError(f"{engine} is not installed; run: {_remedy(engine)}")
    return engine


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


def _remedy(engine: str) -> str:
    return f"pip install 'albert-deploy[{ENGINES[engine].extra}]'"
