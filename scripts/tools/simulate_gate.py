"""How often the gate is right: simulated verdicts by rows, true drop and share of changes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import write_text
from albert_deploy.validation.gate.gate import judge, verdict_of
from albert_deploy.validation.gate.policy import Policy, Rules
from albert_deploy.validation.gate.verdicts import FAIL, PASS, UNDECIDED
from albert_deploy.validation.scores.paired import compare_counts
from albert_deploy.validation.scores.resampling import score_interval
from albert_deploy.validation.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Dev sets of RTE, SST-2, QNLI and SQuAD v1.1.
ROWS = (277, 872, 5463, 10570)
DROPS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
# Rows that change without harm, half for the better and half for the worse, in percent.
CHURNS = (0.2, 0.5, 2.0, 6.0)
# Variant -> the share of changes that its picture is drawn for.
VARIANTS = {"fp16": 0.5, "int8": 2.0}
PICTURE = "gate-rates.svg"
_BEGIN, _END = "<!-- simulated rates -->", "<!-- end of simulated rates -->"
# A drop of 9 of 872 rows, with more and more other changes: rows better, rows worse.
_PLANTED = ((0, 9), (3, 12), (6, 15), (12, 21), (25, 34))


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """What is simulated.

    Args:
        trials: Validations in each cell of the tables.
        seed: Of all draws.
        right: Score of the source, in percent.

    Raises:
        InputError: A value is out of range.
    """

    trials: int = 2000
    seed: int = 0
    right: float = 90.0

    def __post_init__(self) -> None:
        if self.trials < 1 or self.seed < 0 or not 50 <= self.right <= 95:
            raise InputError(
                f"got trials {self.trials}, seed {self.seed} and right {self.right}; wanted "
                "1 or more, 0 or more, and 50 to 95"
            )


def simulate(
    variant: str, rows: int, drop: float, churn: float, config: SimulateConfig
) -> dict[str, float]:
    """Return the share of each verdict of the default gate, 0 to 1.

    Each row of each trial gets worse with a probability of ``churn / 2 + drop`` percent, better
    with ``churn / 2`` percent, and else stays as it is.

    Args:
        variant: Whose default limits hold.
        rows: Rows of the data set.
        drop: True drop of accuracy, in points.
        churn: Changes beside it, in percent of the rows.
        config: Options.
    """
    # One stream for each cell: a table with more cells has the same numbers in the old ones.
    cell = (config.seed, rows, round(1000 * drop), round(1000 * churn))
    rng = np.random.default_rng(cell)
    worse, better = churn / 200 + drop / 100, churn / 200
    drawn = rng.multinomial(rows, (worse, better, 1 - worse - better), size=config.trials)
    pairs, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    verdicts = _verdicts(variant, rows, pairs[:, 1], pairs[:, 0], config)
    total = dict.fromkeys((PASS, UNDECIDED, FAIL), 0)
    for verdict, count in zip(verdicts, counts, strict=True):
        total[verdict] += int(count)
    return {verdict: count / config.trials for verdict, count in total.items()}


def table(variant: str, config: SimulateConfig) -> str:
    """Return the verdicts of each cell, ``pass / undecided / fail`` in percent, as Markdown."""
    lines = []
    for rows in ROWS:
        for churn in CHURNS:
            cells = [simulate(variant, rows, drop, churn, config) for drop in DROPS]
            lines.append([f"{rows:,}", f"{churn:g}%", *(_cell(cell) for cell in cells)])
    headers = ("rows", "changes", *(f"drop {drop:g}" for drop in DROPS))
    return markdown_table(lines, headers)


def planted_table(config: SimulateConfig) -> str:
    """Return the verdicts on a drop of 9 of 872 rows, as Markdown."""
    lines = []
    for better, worse in _PLANTED:
        paired = compare_counts(
            "accuracy",
            better=better,
            worse=worse,
            right=round(872 * config.right / 100),
            rows=872,
            confidence=Policy().statistics.confidence,
        )
        by_margin = [_margin_verdict(paired.low, paired.high, m) for m in (0.5, 1.0, 2.0)]
        default = [
            _verdicts(v, 872, np.array([better]), np.array([worse]), config)[0] for v in VARIANTS
        ]
        p_value = paired.test["p_value"] if paired.test else 1.0
        interval = f"[{paired.low:+.2f}, {paired.high:+.2f}]"
        lines.append([better, worse, interval, f"{p_value:.3f}", *by_margin, *default])
    headers = ["better", "worse", "interval", "McNemar p", "margin 0.5", "margin 1", "margin 2"]
    headers += [f"{v} as shipped" for v in VARIANTS]
    return markdown_table(lines, headers)


def draw(config: SimulateConfig) -> Figure:
    """Draw the share of releases that pass against the true drop, a line for each data set."""
    from matplotlib.figure import Figure

    drops = np.arange(0, 4.01, 0.25)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, len(VARIANTS), sharey=True)
    for ax, (variant, churn) in zip(axes, VARIANTS.items(), strict=True):
        for rows in ROWS:
            cells = [simulate(variant, rows, float(drop), churn, config) for drop in drops]
            shares = [100 * cell[PASS] for cell in cells]
            ax.plot(drops, shares, marker=".", label=f"{rows:,} rows")
        margin = Rules(policy=Policy(), variant=variant).limits.margin
        ax.axvline(margin, color="black", linestyle=":", label="margin")
        ax.set(
            title=f"{variant}, {churn:g}% other changes",
            xlabel="true drop of accuracy, points",
            ylim=(-2, 102),
        )
        ax.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("releases that pass, %")
    axes[-1].legend()
    return figure


def document(config: SimulateConfig) -> str:
    """Return the tables as they stand in the document."""
    lines = [
        f"{config.trials:,} validations per cell, seed {config.seed}, a source of "
        f"{config.right:g}% accuracy.",
    ]
    for variant in VARIANTS:
        lines += ["", f"### {variant}", "", table(variant, config)]
    lines += ["", f"![share of releases that pass]({PICTURE})", ""]
    lines += ["### A drop of 1 point over 872 rows", "", planted_table(config)]
    return "\n".join(lines)


@click.command()
@click.option("--trials", default=SimulateConfig.trials, show_default=True)
@click.option("--seed", default=SimulateConfig.seed, show_default=True)
@click.option(
    "--document",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Markdown file whose marked part is replaced; the picture is written beside it.",
)
def main(trials: int, seed: int, target: Path | None) -> None:
    """Simulate the default gate and print the tables, or write them into a document."""
    config = SimulateConfig(trials=trials, seed=seed)
    if target is None:
        click.echo(document(config))
        return
    write_document(target, config)


def write_document(target: Path, config: SimulateConfig) -> None:
    """Replace the marked part of a document and write the picture beside it.

    Raises:
        InputError: The document cannot be read or has no marked part.
    """
    try:
        text = target.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {target}: {error}") from error
    before, found, rest = text.partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    if not (found and ended):
        raise InputError(f"{target} has no lines {_BEGIN} and {_END}; add them where tables go")
    write_text(target, f"{before}{_BEGIN}\n\n{document(config)}\n\n{_END}{after}")
    buffer = io.StringIO()
    # Neither a date nor random ids: one seed writes one file.
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "gate"}):
        draw(config).savefig(buffer, format="svg", metadata={"Date": None})
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    write_text(target.with_name(PICTURE), "\n".join(lines))


def _verdicts(
    variant: str,
    rows: int,
    better: npt.NDArray[np.int64],
    worse: npt.NDArray[np.int64],
    config: SimulateConfig,
) -> list[str]:
    """Return the gate's verdict for each pair of counts."""
    rules = Rules(policy=Policy(), variant=variant)
    confidence = rules.paired_config("accuracy").confidence
    right = round(rows * config.right / 100)
    same = compare_counts(
        "accuracy", better=0, worse=0, right=right, rows=rows, confidence=confidence
    )
    lows, highs = score_interval(better, worse, rows, confidence)
    found = []
    for b, c, low, high in zip(better, worse, lows, highs, strict=True):
        difference = 100 * float(b - c) / rows
        paired = replace(
            same,
            variant=same.source + difference,
            difference=difference,
            low=float(low),
            high=float(high),
        )
        found.append(verdict_of(judge(rules, differences={}, scores={"accuracy": paired})))
    return found


def _margin_verdict(low: float, high: float, margin: float) -> str:
    return PASS if low >= -margin else FAIL if high < -margin else UNDECIDED


def _cell(shares: Mapping[str, float]) -> str:
    return " / ".join(f"{100 * shares[verdict]:.0f}" for verdict in (PASS, UNDECIDED, FAIL))


if __name__ == "__main__":
    main()
