"""Which engine is the fastest for each variant here: measured, and kept in the manifest."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.manifest import add_to_manifest
from albert_deploy.validation.pays import times


def tune_contenders(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Return the contenders that a choice of engines needs, and no others."""
    held = [v for v in VARIANTS if v in manifest["variants"]]
    return tuple(f"{v}@{engine}" for v in held for engine in VARIANTS[v].engines)


def tuned(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Choose the engine of each variant that was measured in more than one.

    It is the one with the least geometric mean of its medians over the columns of the first run,
    so that each length counts the same.

    Args:
        report: Result of ``latency.bench``.

    Returns:
        Variant -> ``engine``, ``sha256`` of the file, ``threads``, ``lengths`` (the columns),
        ``machine`` (processor, cores, versions) and ``ratios``: engine -> column -> its time
        over that of the one chosen.
    """
    run = report["runs"][0]
    chosen = {}
    for variant in dict.fromkeys(c["variant"] for c in report["contenders"].values()):
        medians = {
            engine: {column: statistics.median(rounds) for column, rounds in cells.items()}
            for engine, cells in (times(report, run, variant) if variant else {}).items()
        }
        if len(medians) < 2:
            continue
        means = {e: statistics.geometric_mean(cells.values()) for e, cells in medians.items()}
        engine = min(means, key=lambda e: means[e])
        chosen[variant] = {
            "engine": engine,
            "sha256": report["contenders"][f"{variant}@{engine}"]["sha256"],
            "threads": run["threads"],
            "lengths": list(report["columns"]),
            "machine": {key: report["machine"][key] for key in ("cpu", "cores", "versions")},
            "ratios": {
                e: {c: round(ms / medians[engine][c], 4) for c, ms in cells.items()}
                for e, cells in medians.items()
            },
        }
    return chosen


def record_tuned(directory: Path, chosen: dict[str, dict[str, Any]]) -> None:
    """Enter the result of ``tuned`` in the manifest, from which ``open_session`` takes it.

    What was tuned before for a variant that was not measured now stays.

    Raises:
        InputError: The directory cannot be written.
        MachineError: The disk is full.
    """
    add_to_manifest(directory, "tuned", chosen)


def tuned_text(chosen: dict[str, dict[str, Any]]) -> str:
    """Return a line for people about each choice."""
    if not chosen:
        return "tuned: no variant runs in more than one of the installed engines"
    lines = []
    for variant, row in chosen.items():
        others = [
            f"{engine} takes "
            + ", ".join(f"{ratio:.2f}x at {column}" for column, ratio in ratios.items())
            for engine, ratios in row["ratios"].items()
            if engine != row["engine"]
        ]
        lines.append(f"tuned: {variant} runs in {row['engine']} ({'; '.join(others)})")
    return "\n".join(lines)
