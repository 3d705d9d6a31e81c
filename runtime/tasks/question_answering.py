"""Question answering for people: windows of a context to answers with probabilities.

The score is the one that transformers' pipeline gave until it was dropped in version 5: in each
window the probability of the first token times that of the last, over the context and [CLS].
``answers`` has the sums of logits that evaluations of SQuAD rank by.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.options import Options
from albert_deploy.runtime.session import Outputs
from albert_deploy.runtime.tasks.head import Encoded, TaskInfo, keep_tokens, softmax
from albert_deploy.runtime.tasks.tokenize import Window, windows

_MAX_WINDOW, _MAX_STRIDE, _SPECIALS = 384, 128, 3
_Spans = npt.NDArray[np.int64]


def encode_question(info: TaskInfo, item: dict[str, Any], options: Options, row: str) -> Encoded:
    """Lay a question beside each stretch of its context.

    The answer has ``score`` (a probability), ``start`` and ``end`` (characters of the context)
    and ``answer``; with a ``top_k`` above 1 it is a list of such objects, the best first. Answers
    that read the same count as one, with the sum of their scores.

    Raises:
        InputError: Question or context is empty, or the lengths leave no room to move on.
    """
    question, context = item["question"], item["context"]
    longest = info.limit(options.max_seq_len or _MAX_WINDOW)
    stride = options.doc_stride
    if stride is None:
        stride = min(longest // 2, _MAX_STRIDE)
    # A short window keeps room to move on beside the question.
    room = longest - stride - _SPECIALS - max(longest // 8, 1)
    found = windows(
        info.tokenizer,
        question,
        context,
        max_length=longest,
        stride=stride,
        max_query_length=max(min(options.max_question_len, room), 1),
        row=row,
    )

    def answer(rows: list[Outputs]) -> Any:
        words = _word_offsets(info, question, context) if options.align_to_words else None
        best = _answers(found, rows, info.outputs, words, options)
        if not best:
            raise InputError(f"{row} has a context without an answer of any text; give words")
        return best[0] if len(best) == 1 else best

    return Encoded(rows=[window.feeds for window in found], answer=answer, keep=keep_tokens)


def _answers(
    found: list[Window],
    rows: list[Outputs],
    names: tuple[str, ...],
    words: _Spans | None,
    options: Options,
) -> list[dict[str, Any]]:
    tokens = sum(len(outputs[names[0]]) for outputs in rows)
    count = options.count(1, tokens * options.max_answer_len + 1)
    # Some of them become the same when they are widened to words.
    tried = count if words is None else 2 * count + 10
    answers: dict[str, dict[str, Any]] = {}
    context, nothing = found[0].context, np.inf
    for window, outputs in zip(found, rows, strict=True):
        starts, ends = (_probabilities(window, outputs[name]) for name in names)
        nothing = min(nothing, starts[0] * ends[0])
        spans = window.offsets[window.is_context]
        if words is not None:
            # As far as the window goes: the pipeline knows no more of a word than that.
            inside = words[window.first : window.first + len(spans)]
            spans = np.clip(inside, spans[0, 0], spans[-1, 1])
        for first, last, score in _best(starts[1:], ends[1:], options.max_answer_len, tried):
            start, end = int(spans[first, 0]), int(spans[last, 1])
            text = context[start:end]
            if not text:
                continue
            kept = answers.setdefault(
                text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text}
            )
            kept["score"] += score
    ranked = list(answers.values())
    if options.handle_impossible_answer:
        ranked.append({"score": float(nothing), "start": 0, "end": 0, "answer": ""})
    return sorted(ranked, key=lambda one: one["score"], reverse=True)[:count]


def _probabilities(window: Window, logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the probabilities of [CLS] and of the tokens of the context, float64 [1 + tokens]."""
    row = np.asarray(logits, np.float64)
    return softmax(np.concatenate([row[:1], row[: len(window.is_context)][window.is_context]]))


def _best(
    starts: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], longest: int, count: int
) -> list[tuple[int, int, float]]:
    """Return first token, last token and score of the best spans of a window, best first."""
    scores = np.tril(np.triu(np.outer(starts, ends)), longest - 1)
    valid = np.count_nonzero(np.tril(np.triu(np.ones(scores.shape, bool)), longest - 1))
    order = np.argsort(-scores, axis=None, kind="stable")[: min(count, valid)]
    first, last = np.unravel_index(order, scores.shape)
    return list(zip(first.tolist(), last.tolist(), scores[first, last].tolist(), strict=True))


def _word_offsets(info: TaskInfo, question: str, context: str) -> _Spans:
    """Return for each token of the context where its word begins and ends, int64 [tokens, 2]."""
    encoding = info.tokenizer.encode(question.lstrip(), context)
    tokens = [
        (word, offsets)
        for part, word, offsets in zip(
            encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True
        )
        if part == 1
    ]
    ends: dict[int, tuple[int, int]] = {}
    for word, (start, end) in tokens:
        if word is not None:
            first, last = ends.get(word, (start, end))
            ends[word] = (min(first, start), max(last, end))
    spans = [offsets if word is None else ends[word] for word, offsets in tokens]
    return np.array(spans, np.int64).reshape(-1, 2)
