"""Who runs in a bench: the source in PyTorch, the variants, and a peer's quantizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.contract import VARIANTS, variant_named
from albert_deploy.runtime.errors import AlbertDeployError, InputError, MachineError
from albert_deploy.runtime.manifest import check_file, file_record
from albert_deploy.runtime.ort import open_ort
from albert_deploy.runtime.session import Session, open_session

if TYPE_CHECKING:
    from albert_deploy.validation.latency import BenchConfig

TORCH, PEER = "torch", "ort-quantize-dynamic"
_LABELS = {
    TORCH: "torch eager",
    PEER: "ORT quantize_dynamic",
    "fp32": "fp32 (ONNX Runtime)",
}
_Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run the model.

    Args:
        name: Key in the report.
        open: Loads it: a session.
        bytes: Size of its files; of the unique float32 parameters for PyTorch.
        file: Path in the deployment directory; None where it has none there.
        sha256: Of the file or the checkpoint.
    """

    name: str
    open: Callable[[], Session]
    bytes: int
    sha256: str
    file: str | None = None

    @property
    def label(self) -> str:
        """Name for people."""
        return _LABELS.get(self.name, self.name)

    def to_json(self) -> dict[str, Any]:
        """Return the form that the report holds."""
        return {
            "label": self.label,
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.bytes,
        }


def contenders(
    directory: Path,
    manifest: dict[str, Any],
    config: BenchConfig,
    *,
    work: Path,
    remark: _Say = lambda _: None,
) -> list[Contender]:
    """Return who can run, the baseline first: PyTorch or, without it, the first variant.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        config: Which of them, and their threads.
        work: Folder for the peer's file, which must stay until the sessions are closed.
        remark: Called with a line about each one that cannot run.

    Raises:
        InputError: A variant is not in the directory, or ``config.source`` cannot be used.
        ContractError: A file is not the one that the manifest records.
        MachineError: PyTorch was asked for by ``config.source`` and is not installed.
    """
    names = config.variants or tuple(n for n in VARIANTS if n in manifest["variants"])
    missing = [n for n in names if n not in manifest["variants"]]
    if missing or not names:
        raise InputError(
            f"{directory} holds no variant {', '.join(missing)}; it holds: "
            f"{', '.join(manifest['variants'])}"
        )
    found = [_variant(directory, manifest, name, threads=config.threads) for name in names]
    if config.torch:
        with _or_remark(remark, "torch eager", fatal=config.source is not None):
            found.insert(0, _source(manifest, config.source))
    else:
        remark("torch eager: left out as asked")
    if config.peer:
        path = work / "quantize_dynamic.onnx"
        with _or_remark(remark, _LABELS[PEER], fatal=False):
            _quantize_dynamic(check_file(directory, manifest, VARIANTS["fp32"].file), path)
            record = file_record(path)
            threads = config.threads
            found.append(
                Contender(name=PEER, open=lambda: open_ort(path, threads=threads), **record)
            )
    return found


def _source(manifest: dict[str, Any], source: str | None) -> Contender:
    from albert_deploy.validation.reference import open_reference

    def load() -> Session:
        try:
            return open_reference(manifest, source)
        except ImportError as error:
            raise MachineError(
                f"PyTorch or transformers is not installed ({error}); "
                "run: pip install 'albert-deploy[export]'"
            ) from error

    load().close()
    return Contender(
        name=TORCH,
        open=load,
        bytes=manifest["parameter_bytes"],
        sha256=manifest["source"]["sha256"],
    )


def _variant(directory: Path, manifest: dict[str, Any], name: str, *, threads: int) -> Contender:
    file = variant_named(name).file
    check_file(directory, manifest, file)
    files = [f for f in (file, f"{file}_data") if f in manifest["files"]]
    return Contender(
        name=name,
        open=lambda: open_session(directory, variant=name, threads=threads),
        bytes=sum(manifest["files"][f]["bytes"] for f in files),
        sha256=manifest["files"][file]["sha256"],
        file=file,
    )


def _quantize_dynamic(source: Path, target: Path) -> None:
    """Quantize as onnxruntime does it, with its defaults.

    Raises:
        MachineError: The packages are not installed, or onnxruntime cannot do it.
    """
    try:
        import onnx
        from onnxruntime.quantization import quantize_dynamic
    except ImportError as error:
        raise MachineError(f"the onnx package is not installed ({error})") from error
    # A path would have onnxruntime write a second file beside it, into the directory.
    model = onnx.load(source)
    # Its own mark that shapes are inferred; without it, a warning goes to the root logger.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    try:
        quantize_dynamic(model, target)
    # It raises whatever it meets; a peer that cannot do it is a result, not a reason to stop.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise MachineError(f"{type(error).__name__}: {reason}") from error


@contextlib.contextmanager
def _or_remark(remark: _Say, label: str, *, fatal: bool) -> Iterator[None]:
    try:
        yield
    except AlbertDeployError as error:
        if fatal:
            raise
        remark(f"{label}: left out, {error}")
