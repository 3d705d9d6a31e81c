"""Two releases side by side: what got better, what got worse, which files are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.recommend import REPORT
from albert_deploy.validation.gate.baseline import read_report
from albert_deploy.validation.report import wording
from albert_deploy.validation.report.markdown import escaped, markdown
from albert_deploy.validation.report.wording import LOWER_IS_BETTER, MISSING, number, outputs_of

SCHEMA = "albert-deploy/compare/1"
# Quantity -> format, and whether more is better.
_QUANTITIES: dict[str, tuple[str, bool]] = {
    "agreement": (".2%", True),
    "sqnr_db": (".1f", True),
    "max_error": (".1e", False),
    "bytes": (",", False),
    "latency_ms": (".2f", False),
}
# Smaller changes of these are not called better or worse, as shares of the first release's value:
# two measurements of one file differ by this much. Those of other quantities are exact.
_NOISE = {"latency_ms": 0.05}
_VERDICTS = ("pass", "undecided", "fail")
_SIDES = ("first", "second")


def compare(first: Path, second: Path, *, allow_different_data: bool = False) -> dict[str, Any]:
    """Compare the validations of two deployment directories.

    Args:
        first: Directory of the release to compare with.
        second: Directory of the release to be judged.
        allow_different_data: Compare also where task, data set, its revision or its number of
            rows differ; scores then say little about each other.

    Returns:
        ``schema``; ``task``; ``data_differs``, a list of what differs; ``first`` and ``second``
        with ``directory``, ``verdict``, ``source_sha256`` and ``time``; ``same_source``;
        ``variants``: by name ``in`` (``both``, ``first`` or ``second``), ``same_file`` (None
        where it is in one only), ``verdict`` and ``finite`` with a value for each release, and
        ``changes``, a list of ``quantity``, ``first``, ``second``, ``change``, ``better`` (None
        where it is neither) and, for a score, ``intervals`` and ``clear``, whether these do not
        meet; ``better`` and ``worse``, sentences.

    Raises:
        InputError: A directory has no report in the present format, or they are of different
            tasks or data.
    """
    a, b = _read(first), _read(second)
    differs = [f"{what}: {one!r} and {other!r}" for what, one, other in _data(a, b) if one != other]
    if differs and not allow_different_data:
        raise InputError(
            f"{first} and {second} were not validated on the same data ({'; '.join(differs)}); "
            "validate both with one `dataset`, or allow different data"
        )
    names = dict.fromkeys((*a["variants"], *b["variants"]))
    variants = {n: _variant(a["variants"].get(n), b["variants"].get(n)) for n in names}
    found: dict[bool, list[str]] = {True: [], False: []}
    for name, variant in variants.items():
        for better, sentence in _sentences(name, variant):
            found[better].append(sentence)
    return {
        "schema": SCHEMA,
        "task": b["task"],
        "data_differs": differs,
        "first": _side(first, a),
        "second": _side(second, b),
        "same_source": a["source"].get("sha256") == b["source"].get("sha256"),
        "variants": variants,
        "better": found[True],
        "worse": found[False],
    }


def table(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as Markdown that also reads well in a terminal.

    Args:
        comparison: Result of ``compare``.
    """
    first, second = comparison["first"], comparison["second"]
    lines = [
        f"# {comparison['task']}: {len(comparison['better'])} better, "
        f"{len(comparison['worse'])} worse",
        "",
        f"First: `{first['directory']}`, {first['verdict']}. "
        f"Second: `{second['directory']}`, {second['verdict']}. "
        + ("Same source." if comparison["same_source"] else "The sources differ."),
        "",
    ]
    for text in comparison["data_differs"]:
        lines += [f"The data differs, {escaped(text)}: scores say little about each other.", ""]
    rows = []
    for name, variant in comparison["variants"].items():
        verdicts = [verdict or MISSING for verdict in variant["verdict"]]
        rows.append([name, "verdict", *verdicts, "", _word(_verdict_better(variant))])
        same = variant["same_file"]
        state = {True: "identical", False: "differs", None: f"only in {variant['in']}"}[same]
        rows.append([name, "file", "", "", state, ""])
        rows += [[name, *_cells(change)] for change in variant["changes"]]
    columns = ("variant", "quantity", "first", "second", "change", "")
    lines += [markdown(rows, columns), ""]
    for title in ("worse", "better"):
        if comparison[title]:
            lines += [f"## {title.capitalize()}", ""]
            lines += [f"- {escaped(text)}" for text in comparison[title]] + [""]
    lines += [
        "Brackets: confidence interval of a score. A score is called better or worse where it",
        "changed at all; where the intervals meet, the change may be chance.",
    ]
    return "\n".join(lines) + "\n"


def _read(directory: Path) -> dict[str, Any]:
    if not (directory / REPORT).is_file():
        raise InputError(
            f"{directory} has no {REPORT}; make it with: albert-deploy validate {directory}"
        )
    return read_report(directory / REPORT)


def _data(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what must be the same for scores to be comparable."""
    yield "task", a["task"], b["task"]
    for key in ("name", "rows", "revision", "sha256"):
        one, other = a["dataset"].get(key), b["dataset"].get(key)
        # Local files have no revision, and data from the hub no hash.
        if key in ("name", "rows") or None not in (one, other):
            yield f"data set's {key}", one, other


def _side(directory: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "verdict": report["verdict"],
        "source_sha256": report["source"].get("sha256"),
        "time": report.get("time"),
    }


def _variant(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, Any]:
    where = "both" if a and b else "first" if a else "second"
    same = bool(a.get("sha256")) and a.get("sha256") == b.get("sha256") if a and b else None
    one, other = a or {}, b or {}
    metrics = dict.fromkeys((*(one.get("metrics") or {}), *(other.get("metrics") or {})))
    changes = [_score(metric, one, other) for metric in metrics]
    ours, theirs = _quantities(one), _quantities(other)
    changes += [
        _change(quantity, ours[quantity], theirs[quantity], more=more)
        for quantity, (_, more) in _QUANTITIES.items()
    ]
    return {
        "in": where,
        "same_file": same,
        "verdict": [one.get("verdict"), other.get("verdict")],
        "finite": [all(o.get("finite", True) for o in outputs_of(side)) for side in (one, other)],
        "changes": [c for c in changes if (c["first"], c["second"]) != (None, None)],
    }


def _score(metric: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    scores = [(side.get("metrics") or {}).get(metric) or {} for side in (a, b)]
    more = metric not in LOWER_IS_BETTER
    change = _change(metric, scores[0].get("variant"), scores[1].get("variant"), more=more)
    intervals = [score.get("variant_interval") or [None, None] for score in scores]
    (low, high), (other_low, other_high) = intervals
    known = None not in (low, high, other_low, other_high)
    clear = bool(other_low > high or other_high < low) if known else None
    return change | {"intervals": intervals, "clear": clear}


def _quantities(variant: Mapping[str, Any]) -> dict[str, float | None]:
    outputs = outputs_of(variant)
    ratios = [o["sqnr_db"] for o in outputs if o.get("sqnr_db") is not None]
    errors = [o["relative"] for o in outputs if o.get("relative") is not None]
    finite = all(o.get("finite", True) for o in outputs)
    return {
        "agreement": variant.get("agreement"),
        "sqnr_db": min(ratios) if ratios and finite else None,
        "max_error": max(errors) if errors and finite else None,
        "bytes": variant.get("bytes"),
        "latency_ms": wording.latency_ms(variant),
    }


def _change(quantity: str, a: float | None, b: float | None, *, more: bool) -> dict[str, Any]:
    change = None if a is None or b is None else b - a
    better = None
    # Sums of floats differ in their last digits.
    least = max(_NOISE.get(quantity, 0.0), 1e-9) * abs(a or 0.0)
    if change is not None and abs(change) > least:
        better = (change > 0) is more
    return {"quantity": quantity, "first": a, "second": b, "change": change, "better": better}


def _verdict_better(variant: Mapping[str, Any]) -> bool | None:
    a, b = (_VERDICTS.index(v) if v in _VERDICTS else None for v in variant["verdict"])
    return None if a is None or b is None or a == b else b < a


def _sentences(name: str, variant: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    better = _verdict_better(variant)
    if better is not None:
        yield better, f"{name}: verdict {' became '.join(variant['verdict'])}"
    if variant["finite"] == [True, False]:
        yield False, f"{name}: outputs have NaN or infinite values now"
    if variant["in"] == "first":
        yield False, f"{name}: only the first release has it"
    for change in variant["changes"]:
        if change["better"] is not None:
            quantity, one, other, *_ = _cells(change)
            chance = ", maybe by chance: the intervals meet" if change.get("clear") is False else ""
            yield change["better"], f"{name}: {quantity} {one} became {other}{chance}"


def _cells(change: Mapping[str, Any]) -> list[str]:
    """Return quantity, first, second, change and the word for it."""
    quantity = change["quantity"]
    form = _QUANTITIES.get(quantity, (".2f", True))[0]
    values = [MISSING if change[k] is None else number(change[k], form) for k in _SIDES]
    for i, bounds in enumerate(change.get("intervals") or ()):
        if None not in bounds:
            values[i] = f"{values[i]} {wording.interval(bounds)}"
    by = "" if change["change"] is None else number(change["change"], f"+{form}")
    return [quantity, *values, by, _word(change["better"])]


def _word(better: bool | None) -> str:
    return {True: "better", False: "worse", None: ""}[better]
