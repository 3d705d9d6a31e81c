"""Who runs on a GPU: PyTorch, ONNX Runtime's CUDA provider and TensorRT, on one model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.export.engine.step import BuildConfig, build
from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.manifest import check_file
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.interleave import Contender, Device, Logits, label
from albert_deploy.validation.bench.peers import compile_reference
from albert_deploy.validation.evaluate.reference import TorchSession, open_reference

# Name -> data type of the linear layers' products. The variant of an ONNX file, or the type that
# PyTorch has the weights in, stands before the ``@``.
CONTENDERS: dict[str, str] = {
    "fp16@torch": "fp16",
    "fp16@torch-compile": "fp16",
    "bf16@torch-compile": "bf16",
    "fp32@ort-cuda": "fp32",
    "fp16@ort-cuda": "fp16",
    "fp16@trt": "fp16",
    "fp16@trt-graphs": "fp16",
    "int8-fp16@trt": "int8",
    "fp8-qdq@trt": "fp8",
}
_TYPES = {"fp32": ("float32", 4), "fp16": ("float16", 2), "bf16": ("bfloat16", 2)}
# Of PyTorch.
_DEVICE = "cuda"
# Kernels of the profile for batches are chosen for this many rows, if not for fewer.
_USUAL_BATCH = 32
_Say = Callable[[str], None]


def files(names: list[str]) -> tuple[str, ...]:
    """Return the variants whose files the contenders called so run."""
    return tuple(dict.fromkeys(n.partition("@")[0] for n in names if "@torch" not in n))


def gpu_contenders(
    directory: Path,
    manifest: dict[str, Any],
    config: BenchConfig,
    names: list[str],
    *,
    remark: _Say = lambda _: None,
) -> list[Contender]:
    """Return who is to run; what they need is made and built when they are loaded.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        config: Options.
        names: Keys of ``CONTENDERS``.
        remark: Called with a line about each one that cannot run.

    Raises:
        ContractError: A file is not the one that the manifest records.
    """
    found = []
    for name in names:
        variant, _, engine = name.partition("@")
        if engine.startswith("torch"):
            if config.torch:
                found.append(_torch(manifest, config, name))
            continue
        if variant not in manifest["variants"]:
            remark(f"{label(name)}: left out, {directory} holds no variant {variant}")
            continue
        file = variant_named(variant).file
        check_file(directory, manifest, file)
        found.append(
            Contender(
                name=name,
                open=partial(_open_file, directory, manifest, config, name),
                bytes=manifest["files"][file]["bytes"] if engine == "ort-cuda" else None,
                sha256=manifest["files"][file]["sha256"],
                file=file,
                variant=variant,
                data_type=CONTENDERS[name],
            )
        )
    return found


def _torch(manifest: dict[str, Any], config: BenchConfig, name: str) -> Contender:
    kind, _, engine = name.partition("@")

    def load() -> Session:
        session = _reference(manifest, config, kind)
        if engine == "torch-compile":
            compile_reference(session, (), mode=config.compile_mode)
        return session

    return Contender(
        name=name,
        open=load,
        bytes=manifest["parameter_bytes"] // 4 * _TYPES[kind][1],
        sha256=manifest["source"]["sha256"],
        data_type=CONTENDERS[name],
    )


def _reference(manifest: dict[str, Any], config: BenchConfig, kind: str) -> TorchSession:
    import torch

    # The attention that transformers itself would choose: the fastest that PyTorch has.
    session = open_reference(manifest, config.source, attention="sdpa")
    session.move(_DEVICE, getattr(torch, _TYPES[kind][0]))
    return session


def _open_file(
    directory: Path, manifest: dict[str, Any], config: BenchConfig, name: str
) -> Session:
    variant, _, engine = name.partition("@")
    if engine == "ort-cuda":
        return open_session(directory, variant=variant, engine=engine)
    from albert_deploy.runtime.trt.context import TrtConfig
    from albert_deploy.runtime.trt.session import open_trt

    build(directory, BuildConfig(variants=(variant,), profiles=profiles(manifest, config)))
    # Else TensorRT for RTX would be timed while it still compiles its kernels.
    how = TrtConfig(
        cuda_graphs=engine == "trt-graphs",
        timed=True,
        eager_kernels=True,
        cache=directory.parent / f"{directory.name}-kernels",
    )
    return open_trt(directory, variant, how)


def profiles(manifest: dict[str, Any], config: BenchConfig) -> tuple[Profile, ...]:
    """Return a profile for single rows and one for batches, up to the longest rows that are run."""
    limit = int(manifest["contract"]["max_length"])
    longest = limit if config.datasets else min(max(config.lengths), limit)
    usual = min(sorted(config.lengths)[len(config.lengths) // 2], longest)
    largest = max(config.batches)
    found = [(1, 1), (min(_USUAL_BATCH, largest), largest)] if largest > 1 else [(1, 1)]
    return tuple(
        Profile(minimum=(1, 1), optimum=(rows, usual), maximum=(most, longest))
        for rows, most in found
    )


def difference_from_fp32(
    manifest: dict[str, Any], config: BenchConfig, feeds: Feeds
) -> Callable[[Logits], float]:
    """Return what tells by how much logits differ from those of float32 in PyTorch, on the GPU.

    It is ``|found - wanted| / |wanted|`` in the Euclidean norm, over all rows of ``feeds``.
    """
    with _reference(manifest, config, "fp32") as session:
        wanted = session.run(feeds)[session.outputs[0]]
    return lambda found: float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def cuda_device() -> Device:
    """Return the GPU as a bench asks it: PyTorch's current device."""
    import gc

    import torch

    def used() -> int | None:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def release() -> None:
        gc.collect()
        torch.cuda.empty_cache()

    return Device(used_bytes=used, release=release)
