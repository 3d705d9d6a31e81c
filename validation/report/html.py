"""The report as one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from albert_deploy.validation.gate.verdicts import FAIL, PASS, UNDECIDED, advice, reason
from albert_deploy.validation.report.pictures import Picture
from albert_deploy.validation.report.plots import palette
from albert_deploy.validation.report.sections import command, facts, sections
from albert_deploy.validation.report.wording import printable

# Characters of a text that are shown at once, and when it is opened.
_SHOWN, _OPENED = 240, 20_000
# Characters of a cell that are kept on one line, and of one whose column is not squeezed.
_SHORT, _WIDE = 24, 60
_SIGNS = {PASS: "✓", UNDECIDED: "?", FAIL: "✗"}


def render_html(report: Mapping[str, Any], pictures: Mapping[str, Picture] | None = None) -> str:
    """Return the page.

    Args:
        report: As in ``validation.json``.
        pictures: Result of ``draw_pictures``; None leaves them out.
    """
    return str(
        _template().render(
            task=report["task"],
            verdict=report["verdict"],
            reason=reason(report),
            advice=advice(report),
            facts=facts(report),
            time=report.get("time"),
            sections=sections(report, pictures),
            command=command(report),
            inline=_inline,
            width=_width,
            sign=_sign,
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


def _inline(key: str, svg: str) -> str:
    """Return a picture in the page's own colours, with ids that no other picture has."""
    names = {colour: name for name, colour in palette().items()}
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    return re.sub(
        r"#[0-9a-f]{6}\b", lambda m: f"var(--{names[m[0]]})" if m[0] in names else m[0], svg
    )


def _width(text: str) -> str:
    """Return the class of a cell by the length of its text."""
    return "short" if len(text) <= _SHORT else "long" if len(text) <= _WIDE else "long wide"


def _sign(verdict: str) -> dict[str, str]:
    """Return class and sign of a verdict; an unknown one looks like a failure."""
    known = verdict if verdict in _SIGNS else FAIL
    return {"name": known, "sign": _SIGNS[known]}
