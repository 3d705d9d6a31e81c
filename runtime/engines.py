"""The engines that run models, one literal table: package, how to open a file, what it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from albert_deploy.runtime.errors import InputError

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
    from albert_deploy.runtime.ort import open_ort

    if precision not in (None, "f32"):
        raise InputError(f"ort runs what a file says, not {precision}; use another engine for it")
    return open_ort(path, threads=threads)


def _open_openvino(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.ov import open_ov

    return open_ov(path, threads=threads, precision=precision)


def _open_ort_cuda(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.ort_cuda import open_ort_cuda

    if precision not in (None, "f32"):
        raise InputError(f"ort-cuda runs what a file says, not {precision}; use another variant")
    return open_ort_cuda(path)


def _open_trt(path: Path, threads: int, precision: str | None) -> Session:
    from albert_deploy.runtime.trt import TrtConfig, open_trt

    if precision is not None:
        raise InputError(f"a plan has its precision, it cannot run {precision}; use another one")
    if path.suffix != ".plan":
        raise InputError(f"trt runs plans, got {path}; build one of it: albert-deploy build DIR")
    return open_trt(path.parent.parent, path.stem, TrtConfig(policy="pad"))


def _lacks_ort_cuda() -> str | None:
    from albert_deploy.runtime.ort_cuda import lacks

    return lacks()


def _lacks_trt() -> str | None:
    from albert_deploy.runtime import gpu
    from albert_deploy.runtime.plan_machine import installed_flavours

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
