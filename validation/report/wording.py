"""How the values of a validation's report are written, the same in every form of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What was not measured.
MISSING = "\u2013"
NOT_FINITE = "not finite"
# Texts come from data files: XML refuses these, HTML and terminals misread them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
# Scores of which less is better.
LOWER_IS_BETTER = frozenset({"pseudo_perplexity"})
_SHORT = {"accuracy": "acc", "exact_match": "EM", "f1": "F1"}


def printable(value: object) -> str:
    r"""Return a text with what XML and HTML cannot hold written out, such as ``\x1b``."""
    return _UNPRINTABLE.sub(_escape, str(value))


def number(value: object, form: str = ".2f") -> str:
    """Return a number in a format of Python's; what is none is said to be missing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return MISSING if value is None else printable(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return format(value, form)


def interval(value: object, form: str = ".2f") -> str:
    """Return ``[low, high]``, empty where there is none."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return ""
    return f"[{number(value[0], form)}, {number(value[1], form)}]"


def compact(value: object) -> str:
    """Return any value of a report in one line: numbers shortened, lists joined."""
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(key)}: {compact(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(compact(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return number(value, "") if isinstance(value, (int, float)) else _text(value)


def megabytes(value: object) -> str:
    """Return a size in MB, 10^6 bytes."""
    return number(value / 1e6) if isinstance(value, (int, float)) else MISSING


def scores(metrics: Mapping[str, Mapping[str, Any]] | None, which: str) -> str:
    """Return the scores of the ``source`` or the ``variant`` in a few characters."""
    return ", ".join(
        f"{_SHORT.get(k, k)} {number(v.get(which))}" for k, v in (metrics or {}).items()
    )


def outputs_of(variant: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the comparisons of a variant's outputs, those on rows and those on the edge grid."""
    return [*(variant.get("parity") or {}).values(), *(variant.get("grid") or {}).values()]


def worst_sqnr(outputs: Iterable[Mapping[str, Any]]) -> str:
    """Return the least SQNR of the outputs, in dB."""
    outputs = list(outputs)
    if not all(o.get("finite", True) for o in outputs):
        return NOT_FINITE
    known = [o["sqnr_db"] for o in outputs if o.get("sqnr_db") is not None]
    return number(min(known), ".1f") if known else "exact" if outputs else MISSING


def worst_error(outputs: Iterable[Mapping[str, Any]]) -> str:
    """Return the largest difference of the outputs, over each one's scale."""
    outputs = list(outputs)
    if not all(o.get("finite", True) for o in outputs):
        return NOT_FINITE
    known = [o["relative"] for o in outputs if o.get("relative") is not None]
    return number(max(known), ".1e") if known else MISSING


def sqnr(entry: Mapping[str, Any]) -> str:
    """Return the SQNR of one entry in dB; nothing differs where it is finite and has none."""
    if not entry.get("finite", True):
        return NOT_FINITE
    ratio = entry.get("sqnr_db")
    return "exact" if ratio is None else number(ratio, ".1f")


def latency_ms(variant: Mapping[str, Any]) -> float | None:
    """Return the median latency of a variant in ms; None where it was not measured."""
    value = (variant.get("latency") or {}).get("median_ms")
    return float(value) if isinstance(value, (int, float)) else None


def origin(dataset: Mapping[str, Any]) -> str:
    """Return where calibration rows came from: as much as the manifest says."""
    words = [str(dataset.get("name") or "unnamed data")]
    if dataset.get("file"):
        words.append(str(dataset["file"]))
    if dataset.get("sha256"):
        words.append(f"(sha256 {dataset['sha256'][:12]})")
    return " ".join(words)


def _text(value: object) -> str:
    return MISSING if value is None else printable(value)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
