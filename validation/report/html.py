"""The report as one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

from albert_deploy.validation.gate.verdicts import FAIL, PASS, UNDECIDED, advice, reason
from albert_deploy.validation.report.plots import SHAPES, plots
from albert_deploy.validation.report.sections import (
    Long,
    Verdict,
    command,
    sections,
    variants_table,
)
from albert_deploy.validation.report.wording import present, printable

# Characters of a text that are shown at once, and when it is opened.
_SHOWN, _OPENED = 240, 20_000
_SIGNS = {PASS: "✓", UNDECIDED: "?", FAIL: "✗"}


def render_html(report: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        report: As in ``validation.json``, of any version: what is missing is left out.
    """
    report = present(report)
    return str(
        _template().render(
            task=report.get("task"),
            verdict=str(report.get("verdict")),
            reason=reason(report),
            advice=advice(report),
            source=report.get("source", {}),
            dataset=report.get("dataset", {}),
            grid_cases=report.get("grid_cases"),
            time=report.get("time"),
            variants=variants_table(report),
            plots=plots(report),
            sections=sections(report),
            command=command(report),
            kind=_kind,
            sign=_sign,
            shape=lambda series: SHAPES[series % len(SHAPES)],
            shown=_SHOWN,
            opened=_OPENED,
        )
    )


@functools.cache
def _template() -> Any:
    import jinja2

    folder = resources.files("albert_deploy.validation.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    return environment.get_template("report.html")


def _finalize(value: Any) -> Any:
    """Write out what HTML cannot hold; a macro's result is safe already."""
    return printable(value) if type(value) is str else value


def _kind(cell: object) -> str:
    return {Long: "long", Verdict: "verdict"}.get(type(cell), "plain")


def _sign(verdict: str) -> dict[str, str]:
    """Return class and sign of a verdict; an unknown one looks like a failure."""
    known = verdict if verdict in _SIGNS else FAIL
    return {"name": known, "sign": _SIGNS[known]}
