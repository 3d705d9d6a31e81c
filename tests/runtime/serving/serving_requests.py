"""Requests of every head for tests of the served model, and what the runtime answers to them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from albert_deploy.runtime.inputs import FIELDS
from albert_deploy.runtime.pipeline import Model
from albert_deploy.runtime.serving.settings import LISTS
from albert_deploy.runtime.serving.wire import Array, Request

SHORT, LONG = "the film was long", "a warm river, who is it? " * 3
CONTEXT = "The river was long and warm. A film of the river is in Paris, not in London! "
Asked = tuple[list[dict[str, Any]], dict[str, Any]]

_TEXTS: list[dict[str, Any]] = [{"text": SHORT}, {"text": LONG}, {"text": "What IS the film é"}]
_PAIRS: list[dict[str, Any]] = [{"text": SHORT, "text_pair": t} for t in ("a river", "the the", "")]
_MASKED: list[dict[str, Any]] = [
    {"text": "the [MASK] was long ."},
    {"text": "a [MASK] river [MASK] " + "and a film " * 4},
]
_CUT = {"truncation": True, "max_length": 8}

# Task -> requests of one input and of several, with options and without.
ASKED: dict[str, list[Asked]] = {
    "text-classification": [
        (_TEXTS[:1], {}),
        (_TEXTS, {"top_k": 2}),
        (_PAIRS, {"function_to_apply": "sigmoid"}),
        (_TEXTS[1:2], _CUT),
    ],
    "token-classification": [
        (_TEXTS[:1], {"aggregation_strategy": "simple"}),
        (_TEXTS, {"ignore_labels": ""}),
        (
            [{"text": LONG * 4}, {"text": SHORT}],
            {"stride": 8, "aggregation_strategy": "first", "ignore_labels": ""},
        ),
        (_TEXTS[1:2], _CUT),
    ],
    "fill-mask": [(_MASKED[:1], {}), (_MASKED, {"top_k": 2}), (_MASKED[:1], {"targets": "a,e,i"})],
    "pretraining": [
        ([{"text": SHORT, "text_pair": "a [MASK] river"}], {"top_k": 2}),
        ([{"text": SHORT}, {"text": LONG}], {}),
    ],
    "feature-extraction": [(_TEXTS[:1], {}), (_TEXTS, {"pooled": True}), (_PAIRS, {})],
    "multiple-choice": [
        (
            [
                {"context": SHORT, "question": "who is", "choices": ["the river", "a film", "it"]},
                {"context": LONG, "question": "what", "choices": ["a", "the long river", "x"]},
            ],
            {},
        ),
        ([{"context": LONG, "choices": ["warm", "x"]}], {"max_length": 16}),
    ],
    "question-answering": [
        ([{"question": "what is the film of", "context": CONTEXT}], {}),
        (
            [
                {"question": "who", "context": CONTEXT * 5},
                {"question": "where was it", "context": CONTEXT},
                {"question": "what", "context": CONTEXT * 2},
            ],
            {"top_k": 3, "doc_stride": 8, "align_to_words": False},
        ),
        ([{"question": "who", "context": CONTEXT}], {"handle_impossible_answer": True}),
    ],
}
_COMMAS = ("targets", "ignore_labels")


def tensor(texts: list[Any]) -> Array:
    """Bytes [inputs, 1], or [inputs, choices]."""
    rows = [one if isinstance(one, list) else [one] for one in texts]
    return np.array([[text.encode() for text in row] for row in rows], dtype=np.object_)


def request(items: list[dict[str, Any]], parameters: dict[str, Any] | None = None) -> Request:
    """A request as a client sends it."""
    tensors = {name: tensor([one[name] for one in items]) for name in items[0]}
    return Request(tensors=tensors, parameters=parameters or {})


def answered(model: Model, asked: Asked, **more: Any) -> list[Any]:
    """What the runtime answers in this process."""
    items, options = asked
    split = {k: v.split(",") if k in _COMMAS else v for k, v in options.items()}
    return list(model.stream(items, **split, **more))


def told(answers: Any) -> list[Any]:
    """The answers of a request, read from JSON, [inputs, 1]."""
    assert isinstance(answers, np.ndarray), answers
    assert answers.shape == (len(answers), 1)
    return [json.loads(one) for (one,) in answers.tolist()]


def assert_close(found: Any, wanted: Any) -> None:
    """Same form, and numbers within 1e-4."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_close(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-4)
    else:
        assert found == wanted


def plain(task: str) -> dict[str, Any]:
    """A good input of a task."""
    item = {name: "the [MASK] was long" for name in FIELDS[task][0] if name not in LISTS}
    return item | ({"choices": ["a", "b"]} if task == "multiple-choice" else {})
