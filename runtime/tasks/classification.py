"""Answers of every task, one literal table: how a text is encoded and what its answer is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.options import Options
from albert_deploy.runtime.session import Feeds, Outputs
from albert_deploy.runtime.tasks.head import (
    Encoded,
    TaskInfo,
    keep_all,
    keep_tokens,
    sigmoid,
    softmax,
)
from albert_deploy.runtime.tasks.tokenize import encode_choice, stack

_MAX_CHOICE = 128


def encode_text(info: TaskInfo, item: dict[str, Any], options: Options, row: str) -> Encoded:
    """Tokenize a text or a pair to be classified.

    The answer is ``label`` and ``score``, or with a ``top_k`` a list of them, the best first.
    Scores are probabilities that sum to 1; each by itself where several labels may hold or there
    is only one; the plain outputs for regression.

    Raises:
        InputError: The text is too long and may not be cut, or cannot be tokenized.
    """

    def answer(rows: list[Outputs]) -> Any:
        scores = _scores(info, options, rows[0][info.outputs[0]]).tolist()
        found = [{"label": label, "score": s} for label, s in zip(info.labels, scores, strict=True)]
        if options.best:
            return found[int(np.argmax(scores))]
        ranked = sorted(found, key=lambda one: one["score"], reverse=True)
        return ranked[: options.count(1, len(ranked))]

    return Encoded(rows=[info.encode(item, options, row)], answer=answer)


def encode_features(info: TaskInfo, item: dict[str, Any], options: Options, row: str) -> Encoded:
    """Tokenize a text or a pair whose vectors are wanted.

    The answer is a list [1][tokens][hidden], or with ``pooled`` one vector [hidden].

    Raises:
        InputError: The text is too long and may not be cut, or cannot be tokenized.
    """
    tokens, pooled = info.outputs

    def keep(outputs: Outputs, feeds: Feeds) -> Outputs:
        if options.pooled:
            return keep_all({pooled: outputs[pooled]}, feeds)
        return keep_tokens({tokens: outputs[tokens]}, feeds)

    def answer(rows: list[Outputs]) -> Any:
        return rows[0][pooled].tolist() if options.pooled else [rows[0][tokens].tolist()]

    return Encoded(rows=[info.encode(item, options, row)], answer=answer, keep=keep)


def encode_choices(info: TaskInfo, item: dict[str, Any], options: Options, row: str) -> Encoded:
    """Lay each choice beside the context, cut as ALBERT's reference does for RACE.

    The answer has ``index`` (of the chosen one, from 0), ``choice`` (its text), ``score`` (its
    probability) and ``scores`` (of all, in their order).

    Raises:
        InputError: There is no context, no choice, or no room for one of them.
    """
    choices = list(item["choices"])
    limit = info.limit(options.max_length)
    each = [
        encode_choice(
            info.tokenizer,
            item["context"],
            item.get("question", ""),
            choice,
            max_length=limit,
            max_choice_length=min(_MAX_CHOICE, limit // 2),
            row=f"{row}, choice {number}",
        )
        for number, choice in enumerate(choices)
    ]

    def answer(rows: list[Outputs]) -> dict[str, Any]:
        scores = softmax(rows[0][info.outputs[0]]).tolist()
        best = int(np.argmax(scores))
        return {"index": best, "choice": choices[best], "score": scores[best], "scores": scores}

    return Encoded(rows=[stack(each, info.pad_id)], answer=answer)


def _scores(info: TaskInfo, options: Options, logits: Any) -> Any:
    function = options.function_to_apply
    if function is None:
        if info.problem_type == "regression":
            function = "none"
        elif info.problem_type == "multi_label_classification" or len(info.labels) == 1:
            function = "sigmoid"
        else:
            function = "softmax"
    if len(logits) != len(info.labels):
        raise InputError(
            f"the model has {len(logits)} outputs and the manifest {len(info.labels)} labels; "
            "export the checkpoint again"
        )
    apply: dict[str, Callable[[Any], Any]] = {
        "none": np.asarray,
        "sigmoid": sigmoid,
        "softmax": softmax,
    }
    return apply[function](logits)
