"""Requests to a served model: tensors of strings to inputs, answers to tensors, all checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.inputs import FIELDS, item
from albert_deploy.runtime.options import TAKES, Options, options_for
from albert_deploy.runtime.serving.settings import LISTS, Settings

# Set by the server, not by who asks.
_NOT_ASKED = frozenset({"batch_size"})
_COMMA_SEPARATED = frozenset({"ignore_labels", "targets"})
_TRUTHS = frozenset({"truncation", "pooled", "handle_impossible_answer", "align_to_words"})
_TEXTS = _COMMA_SEPARATED | {"function_to_apply", "aggregation_strategy"}
# More than any text has tokens; what is far above does not fit where the tokens are counted.
_MOST = 1_000_000

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came.

    Attributes:
        tensors: Input name to an array of bytes, [inputs, 1], or [inputs, choices] of ``LISTS``.
        parameters: What else was asked for: names and values of options.
    """

    tensors: Mapping[str, Array]
    parameters: Mapping[str, Any]


def asked_options(task: str) -> tuple[str, ...]:
    """Return the options of a task that a request may ask for."""
    return tuple(name for name in TAKES[task] if name not in _NOT_ASKED)


def read_options(task: str, parameters: Mapping[str, Any], settings: Settings) -> Options:
    """Make options of a request's parameters, whose values are numbers, truths or texts.

    Raises:
        InputError: An option that the task has not, or that only the server sets, or a value that
            is of another kind or out of range.
    """
    allowed = asked_options(task)
    for name in parameters:
        if name not in allowed:
            raise InputError(f"parameter {name[:80]!r} is not known; use: {', '.join(allowed)}")
        _check_kind(name, parameters[name])
    given = {
        name: tuple(str(value).split(",")) if name in _COMMA_SEPARATED else value
        for name, value in parameters.items()
    }
    return options_for(task, given | {"batch_size": settings.batch_size})


def read_items(task: str, request: Request, settings: Settings) -> list[dict[str, Any]]:
    """Read the inputs of a request.

    Returns:
        As many objects with the keys of ``FIELDS`` as the tensors have rows.

    Raises:
        InputError: A tensor has another shape than the others, a text is too long or no UTF-8,
            or there are too many choices.
    """
    must, _ = FIELDS[task]
    count = _rows(request.tensors, must[0])
    found: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, array in request.tensors.items():
        if _rows(request.tensors, name) != count:
            raise InputError(f"{name} has {len(array)} rows and {must[0]} {count}; give as many")
        listed = name in LISTS
        if not listed and array.shape[1] != 1:
            raise InputError(f"{name} has shape {list(array.shape)}; wanted [{count}, 1]")
        if listed and array.shape[1] > settings.max_choices:
            raise InputError(
                f"{name} has {array.shape[1]} of a question; {settings.max_choices} at most"
            )
        for number, row in enumerate(array.tolist()):
            texts = [_text(value, settings, f"{name} {number + 1}") for value in row]
            found[number][name] = texts if listed else texts[0]
    return [item(task, one, row=_row(number)) for number, one in enumerate(found)]


def row_names(count: int) -> list[str]:
    """Return how errors name the inputs of a request."""
    return [_row(number) for number in range(count)]


def write_answers(answers: Sequence[Any]) -> Array:
    """Return answers as JSON in UTF-8, an array of bytes [inputs, 1]."""
    texts = [json.dumps(answer, ensure_ascii=False).encode() for answer in answers]
    return np.array(texts, dtype=np.object_).reshape(len(texts), 1)


def _check_kind(name: str, value: Any) -> None:
    """Fail where a value is of another kind than its option, which nothing later looks at."""
    kind: type[object] = int
    what = f"a whole number up to {_MOST:,}"
    if name in _TEXTS:
        kind, what = str, "a text"
    elif name in _TRUTHS:
        kind, what = bool, "true or false"
    wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if wrong or (kind is int and value > _MOST):
        raise InputError(f"{name} is {str(value)[:80]!r}; wanted {what}")


def _row(number: int) -> str:
    return f"text {number + 1} of the request"


def _rows(tensors: Mapping[str, Array], name: str) -> int:
    if name not in tensors:
        raise InputError(f"the request has no {name}")
    shape = tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{name} has shape {list(shape)}; wanted two axes, neither of them empty")
    return int(shape[0])


def _text(value: Any, settings: Settings, row: str) -> str:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    if len(data) > settings.max_text_bytes:
        raise InputError(f"{row} has {len(data):,} bytes; {settings.max_text_bytes:,} at most")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{row} is no UTF-8 at byte {error.start + 1}; encode it so") from error
