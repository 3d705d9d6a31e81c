"""The reports of a validation: JSON for machines, a table and a picture for people."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from tabulate import tabulate

from albert_deploy.runtime.manifest import write_json, write_text, writing
from albert_deploy.validation.evaluate import SOURCE, Evidence

REPORTS = "reports"
_COLUMNS = ("variant", "MB", "score", "agreement", "changed", "SQNR dB", "max error", "verdict")


def write_reports(directory: Path, report: dict[str, Any], evidence: Evidence) -> list[Path]:
    """Write ``validation.json``, ``summary.md`` and ``errors.svg``; return their paths."""
    folder = directory / REPORTS
    paths = [folder / "validation.json", folder / "summary.md", folder / "errors.svg"]
    write_json(paths[0], report)
    write_text(paths[1], summary(report))
    _plot(paths[2], report, evidence)
    return paths


def summary(report: dict[str, Any]) -> str:
    """Return the verdict as Markdown that also reads well in a terminal."""
    data = report["dataset"]
    if data["labelled"]:
        on = f"{data['name']}, {data['rows']} rows"
    else:
        on = f"{data['rows']} texts without labels (no --dataset: no score was measured)"
    source = report["source"]
    lines = [
        f"# {report['task']}: {report['verdict']}",
        "",
        f"Source: `{source['path']}`, weights `{source['sha256'][:12]}`. Data: {on}; "
        f"edge grid of {report['grid_cases']} cases.",
        "",
        table(report),
        "",
    ]
    for name, variant in report["variants"].items():
        lines += [f"- {name}: {breach['message']}" for breach in variant["breaches"]]
    lines += [
        "",
        "Score: of the data set, for the source and each variant. Agreement: share of rows with",
        "the source's prediction. SQNR and max error (relative to the output's scale): the worst",
        "output, on rows and grid together.",
        "",
    ]
    return "\n".join(lines)


def table(report: dict[str, Any]) -> str:
    """Return the variants as a table in GitHub's Markdown."""
    variants = report["variants"]
    first = next(iter(variants.values()))
    rows = [["source", "", _scores(first["metrics"], "source"), "", "", "", "", ""]]
    for name, variant in variants.items():
        outputs = [*variant["parity"].values(), *variant["grid"].values()]
        rows.append(
            [
                name,
                f"{variant['bytes'] / 1e6:.2f}",
                _scores(variant["metrics"], "variant"),
                "" if variant["agreement"] is None else f"{variant['agreement']:.2%}",
                "" if variant["changed_predictions"] is None else variant["changed_predictions"],
                _worst_sqnr(outputs),
                _worst_error(outputs),
                variant["verdict"],
            ]
        )
    return tabulate(rows, headers=_COLUMNS, tablefmt="github", disable_numparse=True)


def _scores(metrics: dict[str, dict[str, float]], which: str) -> str:
    names = {"accuracy": "acc", "exact_match": "EM", "f1": "F1"}
    return ", ".join(f"{names.get(k, k)} {v[which]:.2f}" for k, v in metrics.items())


def _worst_sqnr(outputs: list[dict[str, Any]]) -> str:
    if not all(o["finite"] for o in outputs):
        return "not finite"
    values = [o["sqnr_db"] for o in outputs if o["sqnr_db"] is not None]
    return f"{min(values):.1f}" if values else "exact"


def _worst_error(outputs: list[dict[str, Any]]) -> str:
    if not all(o["finite"] for o in outputs):
        return "not finite"
    return f"{max(o['relative'] for o in outputs):.1e}"


def _plot(path: Path, report: dict[str, Any], evidence: Evidence) -> None:
    """Draw how many rows of each variant stay below an error, and the sizes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for name, errors in evidence.errors.items():
        known = sorted(e for e in errors if math.isfinite(e))
        share = [(i + 1) / len(errors) for i in range(len(known))]
        left.step([max(e, 1e-9) for e in known], share, where="post", label=name)
    left.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="largest |difference| of a row's outputs",
        ylabel="share of rows",
        title=f"{report['task']}: rows below an error",
    )
    left.grid(visible=True, alpha=0.3)
    left.legend()
    names = list(report["variants"])
    bars = right.bar(names, [v["bytes"] / 1e6 for v in report["variants"].values()])
    labels = [
        _scores(report["variants"][n]["metrics"], "variant").replace(", ", "\n") for n in names
    ]
    right.bar_label(bars, labels=labels, fontsize=8)
    right.margins(y=0.25)
    title = _scores(next(iter(report["variants"].values()))["metrics"], SOURCE)
    right.set(ylabel="MB", title=f"size and score{f' (source {title})' if title else ''}")
    right.title.set_fontsize(9)
    buffer = io.BytesIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg")
    with writing(path) as file:
        file.write(buffer.getvalue())
