"""Which variant to run where none was asked for: the fastest of those that passed their gate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import AUTO, choose_engine
from albert_deploy.runtime.errors import AlbertDeployError, InputError
from albert_deploy.runtime.manifest import REPORTS, check_file

REPORT = f"{REPORTS}/validation.json"
_SOURCE = "fp32"
_GPU_ENGINES = ("trt", "ort-cuda")
# Nothing is recorded of them on a GPU: the first that passed is taken.
_ON_GPU = ("fp16", "fp32", "bf16", "int8-fp16", "int8-qdq", "fp8-qdq")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A variant, who runs it, and why.

    Attributes:
        variant: Key of ``VARIANTS``.
        engine: Key of ``ENGINES``.
        why: A piece of a sentence.
    """

    variant: str
    engine: str
    why: str


def recommend(
    directory: Path, manifest: Mapping[str, Any], *, variant: str = AUTO, engine: str = AUTO
) -> Choice:
    """Choose a variant and its engine.

    Candidates are the variants whose verdict in ``reports/validation.json`` is ``pass``, whose
    file is the one that was validated, and which the engine runs here. Where a GPU runs some of
    them, the first of these: fp16, fp32, bf16, int8-fp16, int8-qdq, fp8-qdq. Else the one with
    the least ``latency.median_ms`` in the manifest (``albert-deploy bench`` records it). Where
    there is none, and where no latency is recorded, ``fp32``.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variant: Key of ``VARIANTS``, which is then the choice, or ``auto``.
        engine: Key of ``ENGINES``, or ``auto``, see ``session.choose_engine``.

    Raises:
        InputError: Unknown variant or engine, or one that does not run the variant.
        ContractError: The report is not the one that the manifest recorded.
        MachineError: The engine, or each of them, is not installed.
    """
    if variant != AUTO:
        found = choose_engine(manifest, variant, engine, directory=directory)
        return Choice(variant=variant, engine=found, why="as asked")
    engines: dict[str, str] = {}
    for name in passed(directory, manifest):
        try:
            engines[name] = choose_engine(manifest, name, engine, directory=directory)
        except AlbertDeployError:
            continue  # Another variant may run in this engine, or on this machine.
    for name in _ON_GPU:
        if engines.get(name) in _GPU_ENGINES:
            why = "passed its gate and runs on the GPU"
            return Choice(variant=name, engine=engines[name], why=why)
    times = {
        name: float(recorded["median_ms"])
        for name in engines
        if (recorded := manifest["variants"].get(name, {}).get("latency"))
    }
    if times:
        name = min(times, key=lambda name: times[name])
        why = f"the fastest that passed its gate: {times[name]:.2f} ms"
        return Choice(variant=name, engine=engines[name], why=why)
    why = "no latency is recorded; albert-deploy bench does" if engines else "no gate was passed"
    found = choose_engine(manifest, _SOURCE, engine, directory=directory)
    return Choice(variant=_SOURCE, engine=found, why=why)


def passed(directory: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the variants of a directory that passed their gate with the file that is there.

    Raises:
        ContractError: The report is not the one that the manifest recorded.
        InputError: It cannot be read.
    """
    if REPORT not in manifest["files"] or not (directory / REPORT).is_file():
        return ()
    path = check_file(directory, dict(manifest), REPORT)
    try:
        judged = json.loads(path.read_text(encoding="utf-8"))["variants"]
        return tuple(
            name
            for name, row in judged.items()
            if name in VARIANTS
            and name in manifest["variants"]
            and row["verdict"] == "pass"
            and row["sha256"] == manifest["files"].get(VARIANTS[name].file, {}).get("sha256")
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error!r}; validate the directory again") from error
