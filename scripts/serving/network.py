"""The network of an ensemble in Triton: in ONNX Runtime, as a TensorRT plan, or in our runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from albert_deploy.runtime.contract import BATCH, CHOICES, VARIANTS
from albert_deploy.runtime.engines.external_data import external_files
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import check_file
from albert_deploy.runtime.serving.settings import Settings, parameters
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.runtime.trt.record import PlanRecord, read_record, record_file
from albert_deploy.scripts.serving.model_config import ServedModel, Tensor
from albert_deploy.scripts.serving.options import RepositoryConfig

_LENGTHS = (16, 32, 64, 128, 256, 384, 512)
_MODULE = "albert_deploy.runtime.serving"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The middle of an ensemble.

    Attributes:
        model: Its configuration.
        files: Name in the version's folder to where it lies, or to what it holds.
        lengths: Tokens that rows are padded to, ascending.
    """

    model: ServedModel
    files: Mapping[str, Path | str]
    lengths: tuple[int, ...]


def plan_for(directory: Path, manifest: dict[str, Any], config: RepositoryConfig) -> PlanRecord:
    """Return the record of the plan to serve.

    Raises:
        InputError: There is none, several where none was named, or one that Triton cannot load.
        ContractError: It is not the one that the manifest records.
    """
    names = [config.plan] if config.plan else list(manifest.get("engines", {}))
    records = [read_record(directory, name) for name in names]
    found = [one for one in records if config.plan or one.variant == config.variant]
    if len(found) != 1:
        told = ", ".join(one.name for one in found) or "none"
        raise InputError(
            f"{directory} has {told} for {config.variant}; name one with --plan, or build one on "
            f"the GPU: albert-deploy build {directory} --target local"
        )
    (record,) = found
    if record.variant != config.variant:
        raise InputError(f"{record.name} is of {record.variant}; add --variants {record.variant}")
    if record.flavour != "tensorrt":
        raise InputError(
            f"{record.name} was built with {record.flavour}, and Triton loads plans of TensorRT "
            "alone; build it on the GPU server with the TensorRT of its Triton, or use "
            "--triton-model onnxruntime or direct"
        )
    check_file(directory, manifest, record_file(record.name))
    now = manifest["files"].get(record.onnx_file, {}).get("sha256")
    if now != record.onnx_sha256:
        raise ContractError(
            f"{record.name} was built from another {record.onnx_file} than {directory} holds now; "
            f"build it again: albert-deploy build {directory} --variants {record.variant}"
        )
    return record


def _tensorrt(
    directory: Path, manifest: Mapping[str, Any], config: RepositoryConfig, _: str
) -> Network:
    record = plan_for(directory, dict(manifest), config)
    lengths = _plan_lengths(record, config)
    rows = min(max(p.maximum[0] for p in record.profiles if _takes(p, n)) for n in lengths)
    best = {p.optimum[0] for p in record.profiles} - {1}
    warm = {(min(p.optimum[0], rows), *p.optimum[1:]) for p in record.profiles if p.minimum[0] == 1}
    model = ServedModel(
        name=f"{config.name}_model",
        platform="tensorrt_plan",
        max_batch=rows,
        inputs=tuple(_tensor(one.name, one.dtype, one.axes) for one in record.inputs),
        outputs=tuple(_tensor(one.name, one.dtype, one.axes) for one in record.outputs),
        instances=config.instances,
        gpu=True,
        profiles=tuple(range(len(record.profiles))),
        preferred=tuple(n for n in config.preferred or sorted(best) if n <= rows),
        delay_us=config.delay_us,
        queue=config.queue,
        warmup=tuple(sorted(warm, key=lambda shape: shape[-1])),
    )
    files = {"model.plan": check_file(directory, dict(manifest), record.file)}
    return Network(model=model, files=files, lengths=lengths)


def _plan_lengths(record: PlanRecord, config: RepositoryConfig) -> tuple[int, ...]:
    """Return the lengths to pad to, each of which some profile takes from one row on."""
    taken = [p for p in record.profiles if p.minimum[0] == 1]
    usual = {n for p in taken for n in (p.optimum[-1], p.maximum[-1])}
    if not usual:
        raise InputError(f"{record.name} takes no single row; build it with a --profile from 1 on")
    longest = max(usual)
    lengths = {n for n in config.lengths or usual if any(_takes(p, n) for p in taken)}
    return tuple(sorted(lengths | {longest}))


def _takes(profile: Profile, length: int) -> bool:
    return profile.minimum[-1] <= length <= profile.maximum[-1]


def _onnxruntime(
    directory: Path, manifest: Mapping[str, Any], config: RepositoryConfig, _: str
) -> Network:
    row = VARIANTS[config.variant]
    # It would make FP8 an integer kernel, and Triton has no setting against that.
    if "ort" not in row.engines or config.variant == "fp8-qdq":
        raise InputError(
            f"Triton's ONNX Runtime does not run {config.variant}; use --triton-model direct or "
            "another of --variants"
        )
    file = row.file
    path = check_file(directory, dict(manifest), file)
    files: dict[str, Path | str] = {"model.onnx": path}
    for name in external_files(path):
        files[name] = check_file(
            directory, dict(manifest), str(PurePosixPath(file).with_name(name))
        )
    model = replace(
        _network(manifest, config),
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        parameters={"intra_op_thread_count": str(config.threads)} if config.threads else {},
    )
    return Network(model=model, files=files, lengths=_lengths(manifest, config))


def _python(
    directory: Path, manifest: Mapping[str, Any], config: RepositoryConfig, location: str
) -> Network:
    settings = Settings(
        directory=Path(location),
        variant=config.variant,
        engine=config.engine,
        threads=config.threads,
    )
    model = replace(_network(manifest, config), backend="python", parameters=parameters(settings))
    files = {"model.py": code("network", "tokens to outputs")}
    return Network(model=model, files=files, lengths=_lengths(manifest, config))


# Form -> makes its network: ``make(directory, manifest, config, location)``.
NETWORKS: dict[str, Callable[[Path, Mapping[str, Any], RepositoryConfig, str], Network]] = {
    "python": _python,
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
}


def _network(manifest: Mapping[str, Any], config: RepositoryConfig) -> ServedModel:
    contract = manifest["contract"]
    lengths = _lengths(manifest, config)
    rank = (2,) if CHOICES in contract["inputs"][0]["axes"] else ()
    return ServedModel(
        name=f"{config.name}_model",
        max_batch=config.max_batch,
        inputs=tuple(_tensor(**one) for one in contract["inputs"]),
        outputs=tuple(_tensor(**one) for one in contract["outputs"]),
        instances=config.instances,
        preferred=config.preferred,
        delay_us=config.delay_us,
        queue=config.queue,
        warmup=tuple((size, *rank, lengths[0]) for size in config.preferred or (1,)),
    )


def _lengths(manifest: Mapping[str, Any], config: RepositoryConfig) -> tuple[int, ...]:
    most = int(manifest["contract"]["max_length"])
    asked = config.lengths or _LENGTHS
    return (*(n for n in asked if n < most), most)


def _tensor(name: str, dtype: str, axes: Any, **_: Any) -> Tensor:
    sizes = (axis if isinstance(axis, int) else -1 for axis in axes if axis != BATCH)
    return Tensor(name=name, dtype=dtype, dims=tuple(sizes) or (1,))


def code(module: str, what: str) -> str:
    """Return the ``model.py`` of a module of ``runtime.serving``."""
    return (
        f'"""From {what}; the code is that of the installed package albert-deploy."""\n\n'
        f"from {_MODULE}.{module} import TritonPythonModel\n\n"
        '__all__ = ["TritonPythonModel"]\n'
    )
