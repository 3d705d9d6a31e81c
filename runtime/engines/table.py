"""The engines that run models, one literal table: package, how to open a file, what it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.engines.external_data import external_files
from albert_deploy.runtime.errors import InputError, MachineError, check_known
from albert_deploy.runtime.manifest import check_file, read_manifest

if TYPE_CHECKING:
    from albert_deploy.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A library that runs models.

    Args:
        package: What is imported.
        extra: Of this project, which brings the package.
        open: Loads a file: ``open(path, threads, precision)``. It is an ONNX file, but for
            ``trt``, which takes a plan.
        lacks: Tells what else this machine lacks, and what to do; None where there is nothing.
    """

    package: str
    extra: str
    open: Callable[[Path, int, str | None], Session]
    lacks: Callable[[], str | None] = lambda: None

    @property
    def installed(self) -> bool:
        """Tell whether it can run here, without importing the package."""
        return self.missing is None

    @property
    def missing(self) -> str | None:
        """Return why not, as ``is not installed; …`` or ``cannot run here: …``; None if it can."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"is not installed; run: {self.remedy}"
        why = self.lacks()
        return None if why is None else f"cannot run here: {why}"

    @property
    def remedy(self) -> str:
        """Return the command that installs it."""
        return f"pip install 'albert-deploy[{self.extra}]'"


def _open_ort(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.engines.ort import open_ort

    if precision not in (None, "f32"):
        raise InputError(f"ort runs what a file says, not {precision}; use another engine for it")
    return open_ort(path, threads=threads)


def _open_openvino(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.engines.ov import open_ov

    return open_ov(path, threads=threads, precision=precision)


def _open_ort_cuda(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.engines.ort_cuda import open_ort_cuda

    if precision not in (None, "f32"):
        raise InputError(f"ort-cuda runs what a file says, not {precision}; use another variant")
    return open_ort_cuda(path)


def _open_trt(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.trt.context import TrtConfig
    from albert_deploy.runtime.trt.session import open_trt

    if precision is not None:
        raise InputError(f"a plan has its precision, it cannot run {precision}; use another one")
    if path.suffix != ".plan":
        raise InputError(f"trt runs plans, got {path}; build one of it: albert-deploy build DIR")
    return open_trt(path.parent.parent, path.stem, TrtConfig(policy="pad"))


def _lacks_ort_cuda() -> str | None:
    from albert_deploy.runtime.engines.ort_cuda import lacks

    return lacks()


def _lacks_trt() -> str | None:
    from albert_deploy.runtime.trt import gpu
    from albert_deploy.runtime.trt.machine import installed_flavours

    if not installed_flavours():
        return "TensorRT is not installed; run: pip install 'albert-deploy[gpu]'"
    found = gpu.probe()
    return None if found.devices else found.why


ENGINES: dict[str, Engine] = {
    "ort": Engine(package="onnxruntime", extra="cpu", open=_open_ort),
    "openvino": Engine(package="openvino", extra="openvino", open=_open_openvino),
    "ort-cuda": Engine(
        package="onnxruntime", extra="gpu", open=_open_ort_cuda, lacks=_lacks_ort_cuda
    ),
    # Of two packages: its own look tells which is there.
    "trt": Engine(package="", extra="gpu", open=_open_trt, lacks=_lacks_trt),
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
        engine: Key of ``ENGINES``, or ``auto``: on a GPU where this machine has one and the
            means to use it, see ``choose_engine``.
        precision: For ``openvino`` alone: ``f32`` or ``bf16``, in which it runs what the file
            leaves in float32; None for that of the variant. See ``runtime.engines.ov.open_ov``.

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
        from albert_deploy.runtime.trt.context import TrtConfig
        from albert_deploy.runtime.trt.session import open_trt

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
        from albert_deploy.runtime.engines.ort import open_ort

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
    check_known(engine, (AUTO, *ENGINES), "engine")
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
        from albert_deploy.runtime.trt.machine import this_machine
        from albert_deploy.runtime.trt.plans import find_plan

        if find_plan(directory, manifest, variant, this_machine())[0] is not None:
            return name
    return None
