"""Who runs in a bench: the source in PyTorch, each variant in each engine, and peers.

What follows is of processors; who runs on a GPU is in ``gpu``.

Names are ``MODEL@ENGINE``, with ``-bf16`` where OpenVINO is to run in it what a file leaves in
float32. Ours are the variants other than fp32; an engine with the float32 graph is a peer, as it
is what one has without a quantizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS, variant_named
from albert_deploy.runtime.engines.table import ENGINES, open_session
from albert_deploy.runtime.errors import AlbertDeployError, InputError, MachineError
from albert_deploy.runtime.manifest import check_file, file_record, model_files
from albert_deploy.runtime.session import Session
from albert_deploy.validation.bench import gpu, peers, workload
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.interleave import Contender, label

TORCH, COMPILED = "torch", "torch-compile"
DYNAMIC, NNCF = "quantize-dynamic@ort", "nncf-int8@openvino"
BF16 = "-bf16"
# Worth running so too; the precision of other variants is in their files.
_ALSO_BF16 = ("fp32", "int8-qdq")
_Say = Callable[[str], None]


def names(variants: Sequence[str], patterns: Sequence[str] | None = None) -> list[str]:
    """Return the names of all contenders on a processor, or of those that a pattern asks for.

    Args:
        variants: Variants that the directory holds.
        patterns: See ``fitting``.

    Raises:
        InputError: A pattern fits none.
    """
    every = [TORCH, COMPILED]
    for variant in variants:
        for engine in variant_named(variant).engines:
            every.append(f"{variant}@{engine}")
            if engine == "openvino" and variant in _ALSO_BF16:
                every.append(f"{variant}@{engine}{BF16}")
    return fitting([*every, DYNAMIC, NNCF, f"{NNCF}{BF16}"], patterns)


def fitting(every: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """Return the names that a pattern asks for, in their order.

    Args:
        every: Names of contenders.
        patterns: Shell patterns of names, such as ``int8*@openvino``, or of what stands before
            the ``@``; None for all.

    Raises:
        InputError: A pattern fits none.
    """
    wanted: set[str] = set()
    for pattern in ("*",) if patterns is None else patterns:
        found = {
            n for n in every if fnmatchcase(n, pattern) or fnmatchcase(n.partition("@")[0], pattern)
        }
        if not found:
            raise InputError(f"no contender is called {pattern}; there are: {', '.join(every)}")
        wanted |= found
    return [n for n in every if n in wanted]


def contenders(
    directory: Path,
    manifest: dict[str, Any],
    config: BenchConfig,
    *,
    threads: int = 1,
    work: Path,
    remark: _Say = lambda _: None,
) -> list[Contender]:
    """Return who can run, the baseline first: PyTorch or, without it, the first variant.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        config: Which of them.
        threads: Their threads; 0 for one per core.
        work: Folder for the peers' files, which must stay until the sessions are closed. What
            an earlier call has left there is used again.
        remark: Called with a line about each one that cannot run.

    Raises:
        InputError: A variant is not in the directory, ``config.source`` cannot be used, or
            nobody is left.
        ContractError: A file is not the one that the manifest records.
        MachineError: PyTorch was asked for by ``config.source`` and is not installed.
    """
    if config.on_gpu:
        chosen = fitting(list(gpu.CONTENDERS), config.contenders)
        return _some(gpu.gpu_contenders(directory, manifest, config, chosen, remark=remark))
    variants = config.variants or tuple(n for n in VARIANTS if n in manifest["variants"])
    missing = [n for n in variants if n not in manifest["variants"]]
    if missing or not variants:
        raise InputError(
            f"{directory} holds no variant {', '.join(missing)}; it holds: "
            f"{', '.join(manifest['variants'])}"
        )
    builders: dict[str, Callable[[], Contender]] = {
        TORCH: lambda: _source(manifest, config.source),
        COMPILED: lambda: _compiled(manifest, config),
        DYNAMIC: lambda: _dynamic(directory, manifest, work, threads),
        NNCF: lambda: _nncf(NNCF, directory, manifest, work, threads),
        f"{NNCF}{BF16}": lambda: _nncf(f"{NNCF}{BF16}", directory, manifest, work, threads),
    }
    found = []
    for name in names(variants, config.contenders):
        if name in (TORCH, COMPILED) and not config.torch:
            remark(f"{label(name)}: left out as asked")
            continue
        # A bad file of ours is never a remark, nor is the lack of what was asked for.
        forgiven: tuple[type[AlbertDeployError], ...] = (MachineError,)
        if name in builders:
            forgiven = () if name == TORCH and config.source is not None else (AlbertDeployError,)
        try:
            _check_engine(name)
            if name in builders:
                found.append(builders[name]())
            else:
                found.append(_variant(directory, manifest, name, threads=threads))
        except forgiven as error:
            remark(f"{label(name)}: left out, {error}")
    return _some(found)


def _some(found: list[Contender]) -> list[Contender]:
    if not found:
        raise InputError("no contender can run here; install an engine or choose other contenders")
    return found


def _engine(name: str) -> str:
    return name.partition("@")[2].removesuffix(BF16)


def _check_engine(name: str) -> None:
    engine = ENGINES.get(_engine(name))
    if engine is not None and not engine.installed:
        raise MachineError(f"not installed; run: pip install 'albert-deploy[{engine.extra}]'")
    if name.endswith(BF16):
        from albert_deploy.runtime.engines.ov import precisions

        if "bf16" not in precisions():
            raise MachineError("this processor has no bf16")


def _source(manifest: Mapping[str, Any], source: str | None) -> Contender:
    _reference(manifest, source).close()
    return Contender(
        name=TORCH,
        open=lambda: _reference(manifest, source),
        bytes=manifest["parameter_bytes"],
        sha256=manifest["source"]["sha256"],
    )


def _compiled(manifest: Mapping[str, Any], config: BenchConfig) -> Contender:
    session = _reference(manifest, config.source)
    limit = int(manifest["contract"]["max_length"])
    rows = [workload.random_row(manifest, n, seed=0) for n in (limit // 2, limit // 4)]
    seconds = peers.compile_reference(session, rows, mode=config.compile_mode)
    return Contender(
        name=COMPILED,
        open=lambda: session,
        bytes=manifest["parameter_bytes"],
        sha256=manifest["source"]["sha256"],
        load_ms=seconds * 1e3,
    )


def _reference(manifest: Mapping[str, Any], source: str | None) -> Session:
    try:
        from albert_deploy.validation.evaluate.reference import open_reference

        return open_reference(dict(manifest), source)
    except ImportError as error:
        raise MachineError(
            f"PyTorch or transformers is not installed ({error}); "
            "run: pip install 'albert-deploy[export]'"
        ) from error


def _variant(directory: Path, manifest: dict[str, Any], name: str, *, threads: int) -> Contender:
    variant = name.partition("@")[0]
    file = variant_named(variant).file
    check_file(directory, manifest, file)
    files = model_files(manifest, file)
    precision = "bf16" if name.endswith(BF16) else None
    return Contender(
        name=name,
        open=lambda: open_session(
            directory, variant=variant, threads=threads, engine=_engine(name), precision=precision
        ),
        bytes=sum(manifest["files"][f]["bytes"] for f in files),
        sha256=manifest["files"][file]["sha256"],
        file=file,
        variant=variant,
        data_type="int8" if "int8" in variant else "bf16" if "bf16" in name else "f32",
    )


def _dynamic(directory: Path, manifest: dict[str, Any], work: Path, threads: int) -> Contender:
    path = work / "quantize_dynamic.onnx"
    if not path.is_file():
        source = check_file(directory, manifest, VARIANTS["fp32"].file)
        peers.quantize_dynamic_file(source, path)
    return Contender(
        name=DYNAMIC,
        open=lambda: ENGINES["ort"].open(path, threads, None),
        data_type="int8",
        **file_record(path),
    )


def _nncf(
    name: str, directory: Path, manifest: dict[str, Any], work: Path, threads: int
) -> Contender:
    path = work / "nncf.xml"
    weights = path.with_suffix(".bin")
    if not path.is_file():
        source = check_file(directory, manifest, VARIANTS["fp32"].file)
        rows = workload.texts(directory, manifest, None, split="train")
        peers.nncf_file(source, path, workload.spread(rows, peers.NNCF_ROWS))
    precision = "bf16" if name.endswith(BF16) else None
    return Contender(
        name=name,
        open=lambda: ENGINES["openvino"].open(path, threads, precision),
        bytes=path.stat().st_size + weights.stat().st_size,
        sha256=file_record(weights)["sha256"],
        data_type="int8",
    )
