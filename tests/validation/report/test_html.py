"""The page is valid HTML that loads nothing, whatever the texts in it, and tells everything."""

from __future__ import annotations

import copy
import html
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from tinyhtml5.parser import HTMLParser

from albert_deploy.validation.report.html import render_html
from albert_deploy.validation.report.junit import junit
from albert_deploy.validation.report.markdown import summary
from albert_deploy.validation.report.pictures import draw_pictures
from albert_deploy.validation.report.report import as_json, read_schema

NAMESPACE = "{http://www.w3.org/1999/xhtml}"
# Attributes by which a page loads something.
LOADING = ("src", "srcset", "href", "data", "action", "poster", "background", "xlink:href")


def _page(report: dict[str, Any]) -> str:
    return _drawn(json.dumps(as_json(report)))


@cache
def _drawn(report: str) -> str:
    return render_html(json.loads(report), draw_pictures(json.loads(report)))


def _parsed(page: str) -> Any:
    """Return the document's tree; any parse error fails."""
    parser = HTMLParser(namespace_html_elements=False)
    tree = parser.parse(page)
    assert parser.errors == []
    return tree


def _text(page: str) -> str:
    return "".join(_parsed(page).itertext())


def test_a_full_report_is_valid_and_loads_nothing(full_report: dict[str, Any]) -> None:
    page = _page(full_report)
    tree = _parsed(page)
    tags = {element.tag for element in tree.iter() if isinstance(element.tag, str)}
    assert not tags & {"script", "img", "iframe", "object", "embed", "video", "form", "base"}
    for element in tree.iter():
        for name in LOADING:
            value = element.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (element.tag, value)
    style = "".join(tree.find("head/style").itertext())
    assert not re.search(r"url\(|@import|@font-face", style)
    assert "default-src 'none'" in page


def test_links_lead_to_sections_and_ids_are_unique(full_report: dict[str, Any]) -> None:
    tree = _parsed(_page(full_report))
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in tree.iter():
        wanted = [(element.get("href") or "").removeprefix("#")] if element.tag == "a" else []
        wanted += (element.get("aria-labelledby") or "").split()
        assert set(wanted) <= set(ids)


def test_it_is_accessible(full_report: dict[str, Any]) -> None:
    tree = _parsed(_page(full_report))
    assert tree.get("lang") == "en"
    for landmark in ("header", "nav", "main", "footer"):
        assert len(tree.findall(f".//{landmark}")) == 1
    assert len(tree.findall(".//h1")) == 1
    tables = tree.findall(".//table")
    assert tables
    for table in tables:
        assert table.find("caption") is not None
        assert all(th.get("scope") == "col" for th in table.findall("thead/tr/th"))
        assert all(tr[0].get("scope") == "row" for tr in table.findall("tbody/tr"))
    plots = [svg for svg in tree.iter() if svg.get("role") == "img"]
    assert len(plots) == 6
    for plot in plots:
        children = {child.tag.split("}")[-1]: child for child in plot}
        assert children["title"].text
        assert children["desc"].text


def test_the_verdict_comes_first_with_its_reason(full_report: dict[str, Any]) -> None:
    tree = _parsed(_page(full_report))
    header = " ".join("".join(tree.find("body/header").itertext()).split())
    assert "text-classification ✗ fail" in header
    assert full_report["reason"] in header
    assert "about 4,200 in all" in header
    # Every kind of check that does not pass has advice.
    assert "hung" in header
    assert "flipped to worse" in header


def test_it_tells_what_the_report_holds(full_report: dict[str, Any]) -> None:
    text = _text(_page(full_report))
    for wanted in (
        "80.05\n[79.17, 84.17]",
        "-1.72\n[-2.22, -1.12]",
        "99.54%",
        "left padding",
        "encoder iteration 3, query x key",
        "Operators to keep in float",
        "256 rows of sst2 train.tsv (sha256 abababababab), ranges by mse",
        "3.11.7",
        "1.24.1",
        "Some CPU at 2.5 GHz",
        full_report["variants"]["int8"]["sha256"],
        full_report["command"],
        "the engine gave no answer within 60 s",
    ):
        assert wanted in text, wanted


def test_hostile_texts_are_shown_as_they_are(
    full_report: dict[str, Any], hostile: tuple[str, ...]
) -> None:
    page = _page(full_report)
    text = _text(page)
    assert "<script>" not in page
    assert hostile[0] in text
    assert hostile[1] in text
    assert "control \\x00\\x07\\x1b[31m and \\ufffe, half a ?, {{ 7 * 7 }}" in text
    # A text of another direction turns nothing around it.
    assert f'<bdi dir="auto">{hostile[2]}</bdi>' in page
    assert "(10,000 characters, open to read)" in text
    assert hostile[4] in text


def test_a_very_long_text_is_cut_and_says_so(full_report: dict[str, Any]) -> None:
    full_report["variants"]["fp32"]["worst_rows"][0]["text"] = "y" * 30_000
    text = _text(_page(full_report))
    assert "(30,000 characters, open to read)" in text
    assert "(cut after 20,000; all of it is in validation.json)" in text
    assert "y" * 20_001 not in text


def test_the_least_report_is_shown(least_report: dict[str, Any]) -> None:
    text = _text(render_html(least_report))
    assert "64 texts without labels" in text
    assert "not finite" in text
    assert "albert-deploy validate DIR --source somewhere" in text
    assert "Plots" not in text
    # No column for what no row has.
    assert "rank agreement" not in text


def _optional(
    schema: dict[str, Any], value: Any, path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Yield where an optional key is in a report, and whether it may be null."""
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from _optional(schema["items"], item, (*path, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            node = schema.get("properties", {}).get(key)
            if node and key not in schema.get("required", ()):
                yield (*path, key), "null" in node.get("type", ())
            node = node or schema.get("additionalProperties")
            if isinstance(node, dict):
                yield from _optional(node, item, (*path, key))


@pytest.mark.parametrize("form", [render_html, summary, junit])
def test_no_optional_key_is_needed(
    full_report: dict[str, Any], form: Callable[[dict[str, Any]], str]
) -> None:
    int8 = full_report["variants"]["int8"]
    for key in ("worst_rows", "trace", "weights"):
        int8[key] = int8[key][:1]
    int8["calibration"]["ranges"] = int8["calibration"]["ranges"][:1]
    report = as_json(full_report | {"variants": {"int8": int8}})
    places = list(_optional(read_schema(), report))
    assert len(places) > 60
    for place, may_be_null in places:
        changed = copy.deepcopy(report)
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        del holder[place[-1]]
        nothing = form(changed)
        assert nothing.strip()
        if may_be_null:
            holder[place[-1]] = None
            assert form(changed) == nothing, place


@pytest.mark.parametrize("verdict", ["pass", "fail", "undecided", "strange"])
def test_each_verdict_has_its_sign(least_report: dict[str, Any], verdict: str) -> None:
    page = render_html(least_report | {"verdict": verdict})
    known = verdict if verdict != "strange" else "fail"
    assert f'<h1>text-classification <span class="badge {known}">' in page


@hypothesis.given(text=st.text())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_text_makes_a_valid_page(least_report: dict[str, Any], text: str) -> None:
    check = {"kind": text, "name": text, "verdict": "fail", "message": text}
    worst = {"id": text, "text": text, "error": None, "source": {text: [1.0]}, "variant": None}
    report = least_report | {"task": text, "reason": text}
    report["source"] = {"path": text, "sha256": text}
    report["dataset"] = {"name": text, "rows": 1, "labelled": True}
    variant = report["variants"]["fp32"] | {"checks": [check], "worst_rows": [worst]}
    report["variants"] = {f"x{text}": variant}
    page = render_html(report)
    _parsed(page)
    if text.isprintable() and text.strip():
        assert html.escape(text, quote=False).replace("'", "&#39;") in page.replace("&#34;", '"')


def _luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb`` or ``#rgb`` as WCAG 2.2 defines it."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_contrast_in_light_dark_and_print(least_report: dict[str, Any]) -> None:
    style = render_html(least_report).split("<style>")[1].split("</style>")[0]
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(schemes) == 3
    for colours in schemes:
        for name in ("ink", "muted", "link", "pass", "fail", "undecided"):
            for ground in ("page", "box"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, (name, colours[ground])
        # Shapes of plots: WCAG asks for 3.
        for series in range(8):
            assert _contrast(colours[f"s{series}"], colours["page"]) >= 3
