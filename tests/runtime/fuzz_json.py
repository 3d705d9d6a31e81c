"""JSON files with one thing wrong in them: another value, none, one too many, or one too deep."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

DEEP = "\u0001deep"
VALUES = st.sampled_from(
    (
        None, True, 0, -1, 2, 10**400, 1.5, float("nan"), "", "x", "..", "\x00", "\ud800", [], {},
        [None], {"x": None}, [[]], "fp32", DEEP,
    )
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> str:
    """Return the text of a JSON value of which one place was changed."""
    whole = [json.loads(json.dumps(value))]
    holder: Any = whole
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 4)):
        holder = holder[key]
        # Long lists and vocabularies are like their beginnings.
        keys = list(holder if isinstance(holder, dict) else range(len(holder)))[:40]
        key = draw(st.sampled_from(keys))
    change = draw(st.sampled_from(("replace", "replace", "remove", "add")))
    if change == "replace":
        holder[key] = draw(VALUES)
    elif change == "remove":
        del holder[key]
    elif isinstance(holder[key], dict):
        holder[key][draw(st.sampled_from(("x", "", "fp32", "\ud800")))] = draw(VALUES)
    else:
        holder[key] = [holder[key], draw(VALUES)]
    told = json.dumps(whole[0]) if whole else ""
    depth = draw(st.sampled_from((300, 100_000)))
    return told.replace(json.dumps(DEEP), "[" * depth + "]" * depth)
