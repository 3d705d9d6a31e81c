"""The pictures of a report, drawn once for the page and as files beside the summary."""

from __future__ import annotations

import html
import importlib.util
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from albert_deploy.validation.report import plots
from albert_deploy.validation.report.plots import Drawing, palette
from albert_deploy.validation.report.wording import printable


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn picture.

    Attributes:
        title: What it shows.
        svg: The ``<svg>`` element, in the page's colours for light; the same report gives the
            same bytes.
    """

    title: str
    svg: str


def missing_plots() -> str:
    """Return how to get the pictures where what draws them is not installed; empty where it is."""
    if importlib.util.find_spec("matplotlib"):
        return ""
    return "Not drawn: matplotlib is not installed; pip install 'albert-deploy[export]', then again"


def draw_pictures(report: Mapping[str, Any]) -> dict[str, Picture]:
    """Draw what a report has something for.

    Args:
        report: As in ``validation.json``.

    Returns:
        Name of the file without its suffix -> picture; empty where matplotlib is missing.
    """
    if missing_plots():
        return {}
    from cycler import cycler
    from matplotlib import rc_context

    colours = palette()
    series = [colours[f"s{i}"] for i in range(8)]
    style: dict[Any, Any] = {
        "axes.edgecolor": colours["muted"],
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.labelcolor": colours["muted"],
        "axes.prop_cycle": cycler(color=series),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        "font.size": 9,
        "grid.color": colours["grid"],
        "legend.frameon": False,
        "text.color": colours["ink"],
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "albert-deploy",
        "xtick.color": colours["muted"],
        "xtick.labelcolor": colours["ink"],
        "ytick.color": colours["muted"],
        "ytick.labelcolor": colours["ink"],
    }
    with rc_context(style), warnings.catch_warnings():
        # Signs that its font lacks are drawn by whoever shows the text.
        warnings.simplefilter("ignore")
        drawn = {name: draw(report) for name, draw in PICTURES.items()}
        return {name: _written(drawing) for name, drawing in drawn.items() if drawing}


def _written(drawing: Drawing) -> Picture:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawing.figure.savefig(buffer, format="svg", metadata=nothing)
    head, _, rest = buffer.getvalue().partition("<svg ")[2].partition(">")
    title, words = (html.escape(text, quote=False) for text in drawing[1:])
    told = f"<title>{title}</title><desc>{words}</desc>"
    svg = printable(f'<svg class="plot" role="img" {head}>{told}{rest}')
    return Picture(title=drawing.title, svg=svg)


# Name of its file without the suffix -> what draws it.
PICTURES: dict[str, Callable[[Mapping[str, Any]], Drawing | None]] = {
    "intervals": plots.draw_intervals,
    "sizes": plots.draw_sizes,
    "trace": plots.draw_trace,
    "errors": plots.draw_errors,
    "latency": plots.draw_latency,
    "ranges": plots.draw_ranges,
}
