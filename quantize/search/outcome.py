"""What follows from a search's trials: the choice, the Pareto table, and a line for people."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from albert_deploy.export.graph.uses import Point
from albert_deploy.quantize.search.strategy import CEILING
from albert_deploy.quantize.search.trials import Trial, Trials

if TYPE_CHECKING:
    from albert_deploy.quantize.search.trials import SearchConfig


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


def sensitivities(
    points: Sequence[Point], done: Sequence[Trial], engine: str
) -> list[dict[str, Any]]:
    """Return a row for each operator and product: its SQNR where it alone is rounded, in dB."""
    every = frozenset(p.label for p in points)
    known = {every - t.kept: t.sqnr_db for t in done if t.engine == engine}
    groups: dict[str, set[str]] = {}
    for point in points:
        groups.setdefault(point.operator, set()).add(point.label)
    rows: list[dict[str, Any]] = [
        {"label": operator, "iteration": None, "sqnr_db": known.get(frozenset(labels))}
        for operator, labels in groups.items()
    ]
    return rows + [
        {"label": p.label, "iteration": p.iteration, "sqnr_db": known.get(frozenset({p.label}))}
        for p in points
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
