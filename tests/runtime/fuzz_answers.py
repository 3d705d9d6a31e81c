"""What an answer of each task has to be, whatever was asked: the oracle of the fuzz tests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from albert_deploy.runtime.inputs import item

CLOSE = 1e-4
# Below this two candidates are one: which of them wins may hang on the order of a sum.
TIE = 1e-6

Item = Mapping[str, Any]


def check(task: str, given: Any, answer: Any, row: str, options: Item, tokenizer: Tokenizer) -> str:
    """Fail unless ``answer`` is one that the documents promise for ``given``.

    Returns:
        ``error`` or ``answer``, so that a test can tell that it saw both.
    """
    json.dumps(answer, allow_nan=False)
    if isinstance(answer, dict) and answer.keys() == {"error"}:
        assert row in answer["error"], answer
        return "error"
    _CHECKS[task](item(task, given, row=row), answer, options, tokenizer)
    return "answer"


def same(found: Any, wanted: Any) -> None:
    """Fail unless two answers are equal, numbers within 1e-4; a tie may go either way."""
    assert type(found) is type(wanted), (found, wanted)
    if isinstance(found, dict):
        assert found.keys() == wanted.keys()
        if "score" in found and abs(found["score"] - wanted["score"]) < TIE:
            return
        for key in found:
            same(found[key], wanted[key])
    elif isinstance(found, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif isinstance(found, float):
        assert abs(found - wanted) <= CLOSE, (found, wanted)
    else:
        assert found == wanted


def _probability(value: Any) -> float:
    assert type(value) is float, value
    assert 0 <= value <= 1 + 1e-9, value
    return value


def _ranked(scores: list[float]) -> None:
    assert scores == sorted(scores, reverse=True)


def _classified(asked: Item, answer: Any, options: Item, _: Tokenizer) -> None:
    rows = answer if "top_k" in options else [answer]
    assert rows
    for row in rows:
        assert row.keys() == {"label", "score"}
        if options.get("function_to_apply") != "none":
            _probability(row["score"])
        assert math.isfinite(row["score"])
    _ranked([row["score"] for row in rows])
    assert len({row["label"] for row in rows}) == len(rows)
    if options.get("top_k", 0) is None and options.get("function_to_apply") == "softmax":
        assert abs(sum(row["score"] for row in rows) - 1) < 1e-6


def _tagged(asked: Item, answer: Any, options: Item, tokenizer: Tokenizer) -> None:
    text, last = asked["text"], -1
    grouped = options.get("aggregation_strategy", "none") != "none"
    keys = {"score", "word", "start", "end"}
    keys |= {"entity_group"} if grouped else {"entity", "index"}
    for row in answer:
        assert row.keys() == keys
        _probability(row["score"])
        assert type(row["word"]) is str
        assert 0 <= row["start"] <= row["end"] <= len(text)
        assert row["start"] >= last
        last = row["start"]
        if not grouped:
            _stands_in(text[row["start"] : row["end"]], row["word"], tokenizer)


def _stands_in(piece: str, token: str, tokenizer: Tokenizer) -> None:
    """Fail unless a token, without the marks of its kind, is what stands in the text."""
    if token == piece.strip():  # a mask takes the space before it
        return
    bare = token.removeprefix("##").replace("▁", "")
    normal = tokenizer.normalizer.normalize_str(piece) if tokenizer.normalizer else piece
    # One character may make several tokens, "½" for one: each is a part of it.
    assert bare in normal.replace("▁", "").replace(" ", ""), (piece, token, normal)


def _read(asked: Item, answer: Any, options: Item, _: Tokenizer) -> None:
    rows = answer if isinstance(answer, list) else [answer]
    assert 1 <= len(rows) <= (options.get("top_k", 1) or math.inf)
    for row in rows:
        assert row.keys() == {"score", "start", "end", "answer"}
        # Windows overlap, and what reads the same in several of them has the sum of its scores.
        assert 0 <= row["score"] <= 1 + 1e-9 + len(asked["context"])
        assert type(row["score"]) is float
        assert 0 <= row["start"] <= row["end"] <= len(asked["context"])
        assert row["answer"] == asked["context"][row["start"] : row["end"]]
        assert row["answer"] or options.get("handle_impossible_answer")
    _ranked([row["score"] for row in rows])


def _filled(rows: Any, options: Item) -> None:
    assert rows
    for row in rows:
        assert row.keys() == {"score", "token", "token_str", "sequence"}
        _probability(row["score"])
        assert type(row["token"]) is int
        assert type(row["token_str"]) is type(row["sequence"]) is str
    _ranked([row["score"] for row in rows])
    if options.get("top_k", 5) is None:
        assert abs(sum(row["score"] for row in rows) - 1) < 1e-6


def _masked(asked: Item, answer: Any, options: Item, _: Tokenizer) -> None:
    several = isinstance(answer[0], list)
    assert not several or len(answer) > 1
    for rows in answer if several else [answer]:
        _filled(rows, options)


def _chosen(asked: Item, answer: Any, options: Item, _: Tokenizer) -> None:
    assert answer.keys() == {"index", "choice", "score", "scores"}
    assert answer["choice"] == asked["choices"][answer["index"]]
    assert len(answer["scores"]) == len(asked["choices"])
    assert abs(sum(map(_probability, answer["scores"])) - 1) < 1e-6
    assert answer["score"] == answer["scores"][answer["index"]] == max(answer["scores"])


def _pretrained(asked: Item, answer: Any, options: Item, _: Tokenizer) -> None:
    assert answer.keys() == {"predictions", "sentence_order"}
    for rows in answer["predictions"]:
        _filled(rows, options)
    order = answer["sentence_order"]
    assert order.keys() == {"label", "score", "scores"}
    assert order["label"] in ("in order", "swapped", "next", "random")
    assert len(order["scores"]) == 2
    assert abs(sum(map(_probability, order["scores"])) - 1) < 1e-6
    assert order["score"] == max(order["scores"])


def _vectors(asked: Item, answer: Any, options: Item, _: Tokenizer) -> None:
    found = np.array(answer, np.float64)
    assert np.isfinite(found).all()
    assert found.ndim == (1 if options.get("pooled") else 3)
    assert options.get("pooled") or (found.shape[0] == 1 and found.shape[1] >= 2)


_CHECKS: dict[str, Callable[[Item, Any, Item, Tokenizer], None]] = {
    "feature-extraction": _vectors,
    "pretraining": _pretrained,
    "fill-mask": _masked,
    "text-classification": _classified,
    "multiple-choice": _chosen,
    "token-classification": _tagged,
    "question-answering": _read,
}
