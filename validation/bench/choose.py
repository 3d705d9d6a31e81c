"""Judge a bench: a variant that is not faster or smaller than float32 is not worth its risk."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError, PerformanceError
from albert_deploy.runtime.manifest import add_to_manifest


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


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What is required of each variant other than fp32.

    Args:
        speedup: Least ratio of fp32's time to the variant's, both in their best engine, at every
            length; None requires none.
        size: Largest size as a share of fp32's; None requires none.

    Raises:
        InputError: A limit that means nothing.
    """

    speedup: float | None = None
    size: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.speedup is not None and self.speedup <= 0:
            raise InputError(
                f"got a required speedup of {self.speedup}; wanted how many times as fast as "
                "fp32, such as 1.5"
            )
        if self.size is not None and not 0 < self.size <= 1:
            raise InputError(
                f"got a required size of {self.size}; wanted a share of fp32's bytes, such as 0.3"
            )


def check_required(report: dict[str, Any], config: Requirement) -> dict[str, Any]:
    """Fail where a variant that was measured does not pay.

    A speedup is the median over the rounds of ``fp32 / variant``, at each column of each run (a
    number of threads): both sides of each ratio were timed within the same round, so that what
    else the machine did meets both. The best engine is the one with the least median there, of
    those that run the variant in the precision that its file says; what was measured in bf16
    for an fp32 file counts for neither side.

    Args:
        report: Result of ``latency.bench`` with ``fp32`` and at least one other variant.
        config: What is required.

    Returns:
        Variant -> ``size`` (share of fp32's bytes), ``speedup`` (number of threads -> column ->
        ratio) and ``engine`` (likewise: the quickest one).

    Raises:
        InputError: ``fp32`` or every other variant was not measured.
        PerformanceError: Some variant is too slow or too large; names each, where, and by what.
    """
    judged, breaches = {}, []
    sizes = {c["variant"]: c["bytes"] for c in report["contenders"].values() if c["variant"]}
    variants = [v for v in sizes if v != "fp32"]
    if "fp32" not in sizes or not variants:
        raise InputError(
            f"measured {', '.join(sizes) or 'no variants'}; wanted fp32 and another one to judge "
            "if it pays: choose more `contenders`"
        )
    for variant in variants:
        share = sizes[variant] / sizes["fp32"]
        if config.size is not None and share > config.size:
            breaches.append(
                f"{variant} has {share:.3f} of fp32's bytes ({sizes[variant]:,} of "
                f"{sizes['fp32']:,}), wanted at most {config.size:g}"
            )
        row: dict[str, Any] = {"size": share, "speedup": {}, "engine": {}}
        for run in report["runs"]:
            best, base = quickest(report, run, variant), quickest(report, run, "fp32")
            key = str(run["threads"])
            row["engine"][key] = {column: engine for column, (engine, _) in best.items()}
            row["speedup"][key] = {
                c: statistics.median(b / v for b, v in zip(base[c][1], best[c][1], strict=True))
                for c in best
            }
            if config.speedup is None:
                continue
            for column, ratio in row["speedup"][key].items():
                if ratio < config.speedup:
                    breaches.append(
                        f"{variant} at {report['columns'][column]['label']} is {ratio:.2f} times "
                        f"as fast as fp32 (threads {key}: {_shown(best[column])}, "
                        f"{_shown(base[column])}), wanted at least {config.speedup:g}"
                    )
        judged[variant] = row
    if breaches:
        raise PerformanceError(
            "; ".join(breaches) + ". Leave the variant out, give it another engine, or lower the "
            "requirement"
        )
    return judged


def quickest(
    report: dict[str, Any], run: dict[str, Any], variant: str
) -> dict[str, tuple[str, list[float]]]:
    """Return the quickest engine of a variant and its times in ms, [rounds], by column."""
    found = times(report, run, variant)
    columns = next(iter(found.values()), {})
    return {
        column: min(
            ((engine, cells[column]) for engine, cells in found.items()),
            key=lambda pair: statistics.median(pair[1]),
        )
        for column in columns
    }


def times(
    report: dict[str, Any], run: dict[str, Any], variant: str
) -> dict[str, dict[str, list[float]]]:
    """Return the times in ms, [rounds], of a variant: engine -> column -> times.

    Rows in another precision than the file's, such as ``fp32@openvino-bf16``, are left out.
    """
    return {
        contender["engine"]: {
            column: cell["times_ms"] for column, cell in run["contenders"][name]["latency"].items()
        }
        for name, contender in report["contenders"].items()
        if contender["variant"] == variant
        and not contender["engine"].endswith("-bf16")
        and name in run["contenders"]
    }


def _shown(quick: tuple[str, list[float]]) -> str:
    return f"{statistics.median(quick[1]):.2f} ms in {quick[0]}"
