"""The bench's results as files, and in the manifest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.engines.table import choose_engine
from albert_deploy.runtime.manifest import (
    REPORTS,
    file_record,
    read_manifest,
    write_json,
    write_manifest,
    write_text,
)
from albert_deploy.validation.bench.picture import plot
from albert_deploy.validation.bench.report import text, title

_Json = Mapping[str, Any]


def record(directory: Path, report: dict[str, Any]) -> tuple[Path, Path]:
    """Write ``reports/bench.json`` and ``bench.svg`` and enter them in the manifest.

    Each variant's entry gets its latency in the engine that runs it, which a later validation
    shows and holds against the policy. A GPU's files are ``bench-gpu.json`` and ``bench-gpu.svg``.

    Raises:
        InputError: The directory cannot be written.
        MachineError: The disk is full.
    """
    stem = "bench-gpu" if "gpu" in report["machine"] else "bench"
    paths = directory / REPORTS / f"{stem}.json", directory / REPORTS / f"{stem}.svg"
    write_json(paths[0], report)
    plot(paths[1], report)
    # Read now: the bench took minutes, in which another step may have written it.
    manifest = read_manifest(directory)
    for path in paths:
        manifest["files"][str(path.relative_to(directory))] = file_record(path)
    for name, latency in latencies(manifest, report).items():
        manifest["variants"][name]["latency"] = latency
    manifest["steps"][stem] = {
        "threads": report["threads"],
        "rounds": [run["rounds"] for run in report["runs"]],
    }
    write_manifest(directory, manifest)
    return paths


def write_beside(path: Path, report: _Json) -> None:
    """Write the tables and the picture beside a report's JSON file, as ``.md`` and ``.svg``."""
    picture = path.with_suffix(".svg")
    plot(picture, report)
    shown = f"![latency and throughput]({picture.name})"
    write_text(path.with_suffix(".md"), f"# {title(report)}\n\n{shown}\n\n{text(report)}\n")


def latencies(manifest: dict[str, Any], report: _Json) -> dict[str, dict[str, float | int]]:
    """Return the latency of each variant that was timed in the engine that it runs in.

    The first number of threads and the last column of batch 1 stand for it: the real rows of a
    data set where there is one, else the longest rows.

    Returns:
        By variant ``median_ms``, ``p95_ms``, ``batch``, ``tokens`` (mean), ``threads`` and
        ``runs``.
    """
    run = report["runs"][0]
    single = [name for name, column in report["columns"].items() if column["batch"] == 1]
    if not single:
        return {}
    tokens = statistics.fmean(report["columns"][single[-1]]["tokens"])
    found = {}
    for name, contender in report["contenders"].items():
        variant = contender["variant"]
        if variant not in manifest["variants"] or name not in run["contenders"]:
            continue
        file = manifest["files"][manifest["variants"][variant]["file"]]
        if contender["sha256"] != file["sha256"]:
            continue  # It was made again while the bench ran.
        if contender["engine"] != choose_engine(manifest, variant):
            continue
        cell = run["contenders"][name]["latency"][single[-1]]
        if cell["error"] is not None:
            continue
        found[variant] = {
            "median_ms": statistics.median(cell["times_ms"]),
            "p95_ms": float(np.percentile(cell["times_ms"], 95)),
            "batch": 1,
            "tokens": round(tokens),
            "threads": run["threads"],
            "runs": len(cell["times_ms"]),
        }
    return found
