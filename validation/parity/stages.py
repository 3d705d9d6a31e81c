"""Which stage the error of an artifact comes from: export, conversion, or the engine that runs it.

Each stage is one comparison of two sessions on the same rows, so the stages' errors are measured,
not estimated from one another: PyTorch against the fp32 file, the fp32 file against the variant's
file, the variant's file against the engine that a deployment takes for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import (
    AUTO,
    ENGINES,
    choose_engine,
    open_file,
    open_session,
)
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import check_file
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.validation.parity.difference import Difference

EXPORT, CONVERT, ENGINE = "export", "quantize", "engine"
# Runs a file as it is written, without fusing Q/DQ into integer products.
_AS_WRITTEN = "ort"


def attribute(
    directory: Path,
    manifest: Mapping[str, Any],
    variants: Sequence[str],
    rows: Sequence[Feeds],
    source: Session,
    *,
    engine: str = AUTO,
) -> dict[str, list[dict[str, Any]]]:
    """Measure each stage of each variant.

    Where ONNX Runtime does not run a variant (bfloat16), its conversion and its engine cannot be
    told apart, and one row, ``quantize``, holds both.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variants: Keys of ``VARIANTS``.
        rows: Inputs, int64 [batch, sequence] or [batch, choices, sequence] each.
        source: The fp32 PyTorch checkpoint.
        engine: See ``open_variant``.

    Returns:
        By variant a list of rows: ``stage`` (``export``, ``quantize`` or ``engine``), ``output``,
        ``sqnr_db`` (None where nothing differs or not all is finite), ``max_abs``, ``finite``.

    Raises:
        InputError: There are no rows.
        ContractError: A file is not the one that the manifest records, or is refused.
        MachineError: No engine for a variant is installed.
    """
    if not rows:
        raise InputError("got no rows to attribute errors on; give some")

    deployed = partial(open_variant, directory, manifest, engine=engine)
    found: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(_written(directory, manifest, "fp32") or deployed("fp32"))
        found_fp32 = _compare({EXPORT: (source, plain)}, rows)
        for name in variants:
            with contextlib.ExitStack() as opened:
                pairs: dict[str, tuple[Session, Session]] = {}
                literal: Session | None = plain
                if name != "fp32" and (literal := _written(directory, manifest, name)) is not None:
                    opened.enter_context(literal)
                running = opened.enter_context(deployed(name))
                if name != "fp32":
                    pairs[CONVERT] = (plain, literal or running)
                if literal is not None:
                    pairs[ENGINE] = (literal, running)
                found[name] = [*found_fp32, *_compare(pairs, rows)]
    return found


def open_variant(
    directory: Path, manifest: Mapping[str, Any], variant: str, engine: str = AUTO
) -> Session:
    """Open a variant in an engine if that runs it, else in the one of its ONNX file.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variant: Key of ``VARIANTS``.
        engine: Key of ``ENGINES``; ``auto`` is the engine of the file, and no plan of it that a
            GPU here could run.

    Raises:
        InputError: Unknown variant or engine.
        ContractError: The file is not the one that the manifest records, or is refused.
        MachineError: The engine cannot run here.
    """
    row = VARIANTS[variant]
    if engine not in (*row.engines, *row.gpu_engines):
        engine = AUTO
    chosen = choose_engine(manifest, variant, engine)
    if chosen == "trt":
        return open_session(directory, variant=variant, engine=chosen)
    return open_file(check_file(directory, dict(manifest), row.file), variant, chosen)


def engine_as_written(variant: str) -> str | None:
    """Return the engine that can run a variant's file as it is written; None without one."""
    runs = _AS_WRITTEN in VARIANTS[variant].engines and ENGINES[_AS_WRITTEN].installed
    return _AS_WRITTEN if runs else None


def open_as_written(path: Path, variant: str, engine: str) -> Session:
    """Open a variant's file; ONNX Runtime does not fuse Q/DQ into integer products then."""
    if engine == _AS_WRITTEN:
        from albert_deploy.runtime.engines.ort import open_ort

        return open_ort(path, fuse_qdq=False)
    return open_file(path, variant, engine)


def _written(directory: Path, manifest: Mapping[str, Any], variant: str) -> Session | None:
    engine = engine_as_written(variant)
    path = check_file(directory, dict(manifest), VARIANTS[variant].file)
    return open_as_written(path, variant, engine) if engine is not None else None


def _compare(
    pairs: Mapping[str, tuple[Session, Session]], rows: Sequence[Feeds]
) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], Difference] = {}
    for feeds in rows:
        # A session may stand in two pairs, and runs a row once.
        outputs = {id(s): s for pair in pairs.values() for s in pair}
        results = {key: session.run(feeds) for key, session in outputs.items()}
        for stage, (before, after) in pairs.items():
            for name, value in results[id(before)].items():
                difference = found.setdefault((stage, name), Difference(None))
                difference.add(value, results[id(after)][name])
    return [
        {
            "stage": stage,
            "output": output,
            "sqnr_db": d.rounded_db,
            "max_abs": d.max_abs,
            "finite": d.finite,
        }
        for (stage, output), d in found.items()
    ]
