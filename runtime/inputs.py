"""Inputs of a call: one text, pair, question or choice in any of its forms, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from albert_deploy.runtime.errors import InputError

# What is one input, right or wrong, or a list that is answered by a list.
_SINGLE = (str, bytes, bytearray, Mapping, list, tuple)

# Task -> keys of an object: those that must be there, and those that may.
_TEXT: tuple[tuple[str, ...], tuple[str, ...]] = (("text",), ("text_pair",))
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "feature-extraction": _TEXT,
    "pretraining": _TEXT,
    "fill-mask": (("text",), ()),
    "text-classification": _TEXT,
    "multiple-choice": (("context", "choices"), ("question",)),
    "token-classification": (("text",), ()),
    "question-answering": (("question", "context"), ()),
}


def item(task: str, given: Any, *, row: str) -> dict[str, Any]:
    """Return one input as an object of strings, with the keys of its task.

    Args:
        task: Key of ``TASKS``.
        given: A string, a pair of strings as a tuple, or an object with keys of ``FIELDS``.
        row: How an error names it.

    Raises:
        InputError: It has another form, or lacks a key, or has one too many.
    """
    must, may = FIELDS[task]
    if isinstance(given, str) and must == ("text",):
        return {"text": given}
    if isinstance(given, tuple) and len(given) == len(must) + len(may) == 2:
        given = dict(zip((*must, *may), given, strict=True))
    if not isinstance(given, Mapping):
        raise InputError(f"{row} is {_kind(given)}; {task} takes {wanted(task)}")
    missing = [key for key in must if key not in given]
    extra = [str(key) for key in given if key not in (*must, *may)]
    if missing or extra:
        wrong = f"lacks {missing[0]}" if missing else f"has {extra[0][:80]!r} too"
        raise InputError(f"{row} {wrong}; {task} takes {wanted(task)}")
    found = {key: value for key, value in given.items() if value is not None or key in must}
    for key, value in found.items():
        if key == "choices":
            if not isinstance(value, list | tuple) or not value:
                raise InputError(f"{row} has choices that are {_kind(value)}; give a list of texts")
            if bad := [choice for choice in value if not isinstance(choice, str)]:
                raise InputError(f"{row} has a choice that is {_kind(bad[0])}; give texts")
        elif not isinstance(value, str):
            raise InputError(f"{row} has a {key} that is {_kind(value)}; give a text")
    return found


def wanted(task: str) -> str:
    """Say in words what a task takes."""
    must, may = FIELDS[task]
    keys = f"an object with {' and '.join(must)}" + (f", perhaps {may[0]}" if may else "")
    return f"a text or {keys}" if must == ("text",) else keys


def from_keywords(task: str, given: dict[str, Any]) -> Any:
    """Make inputs from keywords such as ``question=…, context=…``; lists make a list of inputs.

    Raises:
        InputError: Two lists differ in length, or the task has no such key.
    """
    must, may = FIELDS[task]
    if extra := sorted(set(given) - {*must, *may}):
        raise InputError(f"{extra[0]} is no part of an input; {task} takes {wanted(task)}")
    nested = {"choices"}
    lists = {
        key: value
        for key, value in given.items()
        if isinstance(value, list | tuple)
        and (key not in nested or (value and isinstance(value[0], list | tuple)))
    }
    if not lists:
        return given
    if len({len(value) for value in lists.values()}) > 1:
        sizes = ", ".join(f"{len(value)} of {key}" for key, value in lists.items())
        raise InputError(f"got {sizes}; give as many of each")
    count = len(next(iter(lists.values())))
    return [
        {key: lists[key][i] if key in lists else value for key, value in given.items()}
        for i in range(count)
    ]


def is_many(given: Any) -> bool:
    """Tell whether something is no input but gives inputs one after the other, as generators do."""
    return isinstance(given, Iterable) and not isinstance(given, _SINGLE)


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
