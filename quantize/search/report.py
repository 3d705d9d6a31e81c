"""What follows from a search's trials: the choice, its tables, a picture and a line for people."""

from __future__ import annotations

import contextlib
import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.export.graph.uses import Use
from albert_deploy.quantize.search.strategy import CEILING
from albert_deploy.quantize.search.trials import SearchConfig, Trial, Trials
from albert_deploy.runtime.manifest import write_json, write_text, writing
from albert_deploy.validation.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEFAULT_VARIANT = "int8-qdq"
_PLACE = re.compile(r"^encoder iteration \d+(?: (inner layer \d+))?, (.*)$")
_COLUMNS = (
    "products kept",
    "of them weight uses",
    "SQNR dB",
    "agreement",
    "bytes",
    "median ms",
    "holds",
    "",
)


def choose(done: Sequence[Trial], config: SearchConfig) -> Trial:
    """Return the smallest that holds; where none does, the one closest to the fp32 file."""
    holding = [t for t in done if config.holds(t)]
    if holding:
        return min(holding, key=lambda t: (len(t.kept), -t.sqnr_db))
    return max(done, key=lambda t: (t.sqnr_db, -len(t.kept)))


def pareto_front(done: Sequence[Trial], chosen: Trial, config: SearchConfig) -> list[Trial]:
    """Return trials that none with as few kept beats, evenly thinned, by number kept."""
    front: list[Trial] = []
    for trial in sorted(done, key=lambda t: (len(t.kept), -t.sqnr_db)):
        if trial is chosen or not front or trial.sqnr_db > max(t.sqnr_db for t in front):
            front.append(trial)
    wanted = {round(i * (len(front) - 1) / (config.timed - 1)) for i in range(config.timed)}
    return [t for i, t in enumerate(front) if i in wanted or t is chosen]


def latencies(
    trials: Trials, front: Sequence[Trial], config: SearchConfig
) -> tuple[int, list[float]]:
    """Time variants in turns on one thread; return the tokens of the text and medians in ms."""
    from albert_deploy.validation.bench.interleave import time_interleaved

    row = sorted(trials.rows, key=lambda r: r.feeds["input_ids"].size)[len(trials.rows) // 2]
    with contextlib.ExitStack() as stack:
        sessions = {}
        for index, trial in enumerate(front):
            path = trials.work / f"front-{index}.onnx"
            trials.write(trial.kept, path)
            sessions[str(index)] = stack.enter_context(trials.open(path, trial.engine, threads=1))
        times = time_interleaved(sessions, [row.feeds], repeats=config.rounds, seconds=60.0)
    medians = [round(statistics.median(times[str(i)].times_ms), 4) for i in range(len(front))]
    return int(row.feeds["input_ids"].shape[-1]), medians


def pareto_rows(
    front: Sequence[Trial],
    times: Sequence[float],
    chosen: Trial,
    weighted: AbstractSet[str],
    config: SearchConfig,
) -> list[dict[str, Any]]:
    """Return the Pareto table; ``weighted`` are the labels of products with a weight."""
    return [
        {
            "kept": len(trial.kept),
            "weight_uses_kept": len(trial.kept & weighted),
            "sqnr_db": trial.sqnr_db,
            "agreement": trial.agreement,
            "bytes": trial.size_bytes,
            "latency_ms": latency,
            "holds": config.holds(trial),
            "chosen": trial is chosen,
        }
        for trial, latency in zip(front, times, strict=True)
    ]


def sensitivities(uses: Sequence[Use], done: Sequence[Trial], engine: str) -> list[dict[str, Any]]:
    """Return a row for each operator and product: its SQNR where it alone is rounded, in dB."""
    every = frozenset(p.label for p in uses)
    known = {every - t.kept: t.sqnr_db for t in done if t.engine == engine}
    groups: dict[str, set[str]] = {}
    for use in uses:
        groups.setdefault(use.operator, set()).add(use.label)
    rows: list[dict[str, Any]] = [
        {"label": operator, "iteration": None, "sqnr_db": known.get(frozenset(labels))}
        for operator, labels in groups.items()
    ]
    return rows + [
        {"label": p.label, "iteration": p.iteration, "sqnr_db": known.get(frozenset({p.label}))}
        for p in uses
    ]


def message_of(
    config: SearchConfig, done: Sequence[Trial], chosen: Trial, products: int, most: int
) -> str:
    """Return one line for people."""
    agreement = "" if chosen.agreement is None else f", agreement {chosen.agreement:.2%}"
    reached = f"{chosen.sqnr_db:.1f} dB{agreement}"
    if config.holds(chosen):
        return (
            f"{config.variant}: holds with {len(chosen.kept)} of {products} products kept real: "
            f"{reached}, after {len(done)} trials"
        )
    wanted = " and ".join(
        text
        for text, limit in (
            (f"an SQNR of {config.min_sqnr_db} dB", config.min_sqnr_db),
            (f"an agreement of {config.min_agreement}", config.min_agreement),
        )
        if limit is not None
    )
    ceiling = next((t for t in done if t.step == CEILING), None)
    if ceiling is not None and not config.holds(ceiling):
        remedy = (
            f"with every activation real it is {ceiling.sqnr_db:.1f} dB, so the weights alone miss "
            "it: use compensated rounding and equalization, or loosen the gate"
        )
    elif len(done) >= config.budget:
        remedy = f"the budget of {config.budget} trials is spent: give more, the log is resumed"
    else:
        remedy = f"more than the {most} products that may be kept would be needed: raise most_kept"
    return (
        f"{config.variant}: the best of {len(done)} trials keeps {len(chosen.kept)} of {products} "
        f"products real and reaches {reached}; wanted {wanted}; {remedy}"
    )


def files_of(variant: str) -> tuple[str, ...]:
    """Return what a search writes, as paths in the deployment directory; the log is the first."""
    stem = "search" if variant == _DEFAULT_VARIANT else f"search-{variant}"
    return (f"calibration/{stem}.jsonl", *(f"reports/{stem}.{end}" for end in _ENDS))


_ENDS = ("json", "md", "svg")


def write_search(directory: Path, report: Mapping[str, Any]) -> None:
    """Write the reports of a search: JSON, Markdown and the picture."""
    _, machine, people, picture = files_of(report["variant"])
    write_json(directory / machine, report)
    write_text(directory / people, search_summary(report))
    buffer = io.BytesIO()
    draw_search(report).savefig(buffer, format="svg")
    with writing(directory / picture) as file:
        file.write(buffer.getvalue())


def search_summary(report: Mapping[str, Any]) -> str:
    """Return the search as Markdown that also reads well in a terminal."""
    log, _, _, picture = files_of(report["variant"])
    latency, texts = report["latency"], report["texts"]
    kept = [f"- {label}" for label in report["keep"]] or ["- nothing"]
    return "\n".join(
        [
            f"## Search: {report['variant']}",
            "",
            f"{report['message']}.",
            "",
            f"Weight uses kept: {report['kept_weight_uses']} of {report['weight_uses']}. Measured "
            f"on {texts['held_out']} texts, calibrated on {texts['calibrated']} others. Log: "
            f"`{log}`.",
            "",
            pareto_table(report),
            "",
            f"SQNR and agreement: of the worst output against the fp32 file. Median ms: on one "
            f"thread, {latency['tokens']} tokens, in {report['engine']}, in turns.",
            "",
            f"![search]({Path(picture).name})",
            "",
            "Kept in higher precision:",
            "",
            *kept,
            "",
            f"Most harmful where it alone is rounded, in {report['sensitivity_engine']}:",
            "",
            sensitivity_table(report),
            "",
        ]
    )


def pareto_table(report: Mapping[str, Any]) -> str:
    """Return the Pareto candidates in GitHub's Markdown."""
    rows = [
        [
            row["kept"],
            row["weight_uses_kept"],
            f"{row['sqnr_db']:.1f}",
            "" if row["agreement"] is None else f"{row['agreement']:.2%}",
            f"{row['bytes']:,}",
            f"{row['latency_ms']:.2f}",
            "yes" if row["holds"] else "no",
            "chosen" if row["chosen"] else "",
        ]
        for row in report["pareto"]
    ]
    return markdown_table(rows, _COLUMNS)


def sensitivity_table(report: Mapping[str, Any], most: int = 20) -> str:
    """Return operators and products from the most harmful on, in GitHub's Markdown."""
    known = [row for row in report["sensitivity"] if row["sqnr_db"] is not None]
    rows = [
        [row["label"] + (", all" if row["iteration"] is None else ""), f"{row['sqnr_db']:.1f}"]
        for row in sorted(known, key=lambda row: row["sqnr_db"])[:most]
    ]
    return markdown_table(rows, ("product", "SQNR dB"))


def draw_search(report: Mapping[str, Any]) -> Figure:
    """Draw the sensitivities as a heat map and the SQNR over the number of products kept."""
    from matplotlib.figure import Figure

    last = max((row["iteration"] or 0 for row in report["sensitivity"]), default=0)
    figure = Figure(figsize=(9 + 0.3 * last, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[4 + 0.35 * last, 5])
    _draw_sensitivity(left, report["sensitivity"], last)
    _draw_front(right, report)
    figure.suptitle(f"search of {report['variant']}", fontsize=10)
    return figure


def _draw_sensitivity(axes: Axes, rows: Sequence[Mapping[str, Any]], last: int) -> None:
    """Draw a cell per operator and iteration; what was not measured stays grey."""
    names = list(dict.fromkeys(_operator(row["label"]) for row in rows))
    cells = [[math.nan] * (last + 2) for _ in names]
    for row in rows:
        if row["sqnr_db"] is not None:
            column = 0 if row["iteration"] is None else row["iteration"] + 1
            cells[names.index(_operator(row["label"]))][column] = row["sqnr_db"]
    axes.set_facecolor("lightgrey")
    axes.set_xticks(range(last + 2), ["all", *map(str, range(last + 1))], fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.axvline(0.5, color="white", linewidth=2)
    axes.set(xlabel="iteration of the encoder", title="SQNR where it alone is rounded, dB")
    axes.title.set_fontsize(9)
    measured = [value for line in cells for value in line if not math.isnan(value)]
    if not measured:
        axes.set(xlim=(-0.5, last + 1.5), ylim=(len(names) - 0.5, -0.5))
        text = "not needed: everything rounded holds the gate"
        axes.text((last + 1) / 2, (len(names) - 1) / 2, text, ha="center", fontsize=8)
        return
    image = axes.imshow(cells, aspect="auto", cmap="RdYlGn")
    for y, line in enumerate(cells):
        for x, value in enumerate(line):
            if not math.isnan(value):
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=6)
    if axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _draw_front(axes: Axes, report: Mapping[str, Any]) -> None:
    products = report["products"]
    trials = [
        (len(t["kept"]) if "kept" in t else products - len(t["only"]), t["sqnr_db"])
        for t in report["trials"]
        if t["engine"] == report["engine"]
    ]
    axes.plot(*zip(*trials, strict=True), "o", color="lightgrey", markersize=4, label="trials")
    front = [(row["kept"], row["sqnr_db"]) for row in report["pareto"]]
    axes.plot(*zip(*front, strict=True), "o-", color="C0", markersize=4, label="Pareto front")
    for row in report["pareto"]:
        if row["chosen"]:
            label = f"chosen: {row['kept']} of {products}"
            axes.plot([row["kept"]], [row["sqnr_db"]], "*", color="C3", markersize=12, label=label)
    limit = report["gate"]["min_sqnr_db"]
    if limit is not None:
        axes.axhline(limit, color="C3", linestyle="--", linewidth=0.8, label="gate")
    axes.set(xlabel="products kept in higher precision", ylabel="SQNR against fp32, dB")
    axes.set_title("accuracy over products kept", fontsize=9)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7)


def _operator(label: str) -> str:
    match = _PLACE.match(label)
    if match is None:
        return label
    return ", ".join(part for part in (match[2], match[1]) if part)
