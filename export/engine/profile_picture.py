"""Chosen profiles for people: a Markdown table and a picture of the lengths and their buckets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tabulate import tabulate

from albert_deploy.export.engine.profiles import ProfilePlan
from albert_deploy.runtime.manifest import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ("sequences of", "padded to", "sequences", "real tokens", "padded tokens", "padded/real")


def profile_table(plan: ProfilePlan) -> str:
    """Return the buckets, their sum, and what a single length would take, in GitHub's Markdown."""
    known = plan.lengths
    rows = [
        [
            f"{b.first} to {b.maximum}",
            f"{b.padded}",
            f"{b.sequences:,}",
            f"{b.real_tokens:,}",
            f"{b.padded_tokens:,}",
            _ratio(b.padded_tokens, b.real_tokens),
        ]
        for b in plan.buckets
    ]
    total = (f"{known.sequences:,}", f"{known.real_tokens:,}")
    padded = (f"{plan.padded_tokens:,}", _ratio(plan.padded_tokens, known.real_tokens))
    rows.append(["**all**", "", *total, *padded])
    for length in _single(plan):
        tokens = known.sequences * length
        every = (f"{tokens:,}", _ratio(tokens, known.real_tokens))
        rows.append(["in one bucket", f"{length}", *total, *every])
    align = ("left", *["right"] * (len(_COLUMNS) - 1))
    return tabulate(
        rows, headers=_COLUMNS, tablefmt="github", disable_numparse=True, colalign=align
    )


def picture(plan: ProfilePlan, path: Path) -> None:
    """Write the picture as SVG: the same file for the same plan.

    Args:
        plan: Result of ``auto_profiles``.
        path: File to write.

    Raises:
        InputError: The folder cannot be written.
        MachineError: matplotlib is not installed, or the disk is full.
    """
    figure = draw_profiles(plan)
    import matplotlib as mpl

    buffer = io.StringIO()
    # Neither a date nor random ids.
    with mpl.rc_context({"svg.hashsalt": "profiles"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    write_text(path, "\n".join(lines) + "\n")


def draw_profiles(plan: ProfilePlan) -> Figure:
    """Draw how many sequences have which length, the buckets, and what fewer of them would take.

    Raises:
        MachineError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        from albert_deploy.runtime.errors import MachineError

        raise MachineError(
            f"matplotlib is not installed ({error}); run: pip install 'albert-deploy[export]'"
        ) from error
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    _draw_lengths(left, plan)
    _draw_ratios(right, plan)
    return figure


def _draw_lengths(axes: Axes, plan: ProfilePlan) -> None:
    known = plan.lengths
    end = plan.buckets[-1].padded
    axes.bar(np.arange(1, end + 1), known.counts[1 : end + 1], width=1.0, color="C0", zorder=2)
    top = 1.25 * float(known.counts.max())
    for index, bucket in enumerate(plan.buckets):
        axes.axvspan(
            bucket.first - 0.5,
            bucket.padded + 0.5,
            color="grey",
            alpha=0.16 * (index % 2),
            lw=0,
            zorder=0,
        )
        axes.axvline(bucket.padded + 0.5, color="C3", linewidth=0.8)
        share = _ratio(bucket.padded_tokens, bucket.real_tokens)
        middle = (bucket.first + bucket.padded) / 2
        text = f"to {bucket.padded}\n{share}"
        axes.text(middle, 0.98 * top, text, ha="center", va="top", fontsize=8)
    name = known.origin.get("name", "")
    title = f"{known.sequences:,} sequences{f' of {name}' if name else ''}, "
    axes.set(
        xlim=(0.5, end + 0.5 + 0.01 * end),
        ylim=(0, top),
        xlabel="tokens; red: what a bucket's sequences are padded to",
        ylabel="sequences",
        title=f"{title}padded over real tokens {plan.ratio:.2f}",
    )
    axes.title.set_fontsize(9)


def _draw_ratios(axes: Axes, plan: ProfilePlan) -> None:
    counts = range(1, len(plan.ratios) + 1)
    bars = axes.bar([str(n) for n in counts], plan.ratios, color="C0")
    axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    longest = plan.lengths.max_length
    axes.set(
        xlabel="buckets",
        ylabel="padded over real tokens",
        title=f"one bucket of {longest}: {plan.ratio_at(longest):.2f}",
    )
    axes.margins(y=0.15)
    axes.title.set_fontsize(9)


def _single(plan: ProfilePlan) -> list[int]:
    return sorted({plan.lengths.longest, plan.lengths.max_length})


def _ratio(padded: int, real: int) -> str:
    # Ends are the data's lengths, so that no bucket is empty.
    return f"{padded / real:.2f}"
