"""Question answering: start and end logits to a piece of the context, with numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.tasks.tokenize import Window


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A piece of the context, with the logits that chose it.

    Attributes:
        text: As it stands in the context, without white space around it.
        start: Its first character in the context.
        end: The character after its last.
        start_logit: Logit of its first token.
        end_logit: Logit of its last token.
    """

    text: str
    start: int
    end: int
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        """The sum of its two logits."""
        return self.start_logit + self.end_logit


_Logits = Sequence[npt.NDArray[Any]] | npt.NDArray[Any]


def best_answers(
    windows: Sequence[Window],
    start_logits: _Logits,
    end_logits: _Logits,
    *,
    max_answer_tokens: int,
    n_best: int,
    max_context: bool = False,
) -> list[Answer]:
    """Return the best answers over all windows, the best first, as BERT's reference finds them.

    The ``n_best`` starts of each window are paired with its ``n_best`` ends. Only tokens of the
    context take part, where the reference lets the question's tokens take up places among
    the ``n_best`` before it drops them.

    Args:
        windows: What ``windows`` returned for one question.
        start_logits: float [windows, sequence], padded or not; or one row per window.
        end_logits: Likewise.
        max_answer_tokens: Most tokens of an answer.
        n_best: How many starts and ends of each window are paired with each other, and how many
            answers are returned at most. Where no pair is an answer, all of them are tried.
        max_context: Let an answer start only in the window that shows the most context around
            its first token, as the script released with BERT does; transformers' own does not.

    Returns:
        At least one answer; of equal scores the earlier window's, then the better start's first.

    Raises:
        InputError: Logits do not fit the windows or are not finite, or a limit is below 1.
    """
    _check(windows, start_logits, end_logits, max_answer_tokens, n_best)
    rows = [
        (window, _context_logits(window, starts), _context_logits(window, ends))
        for window, starts, ends in zip(windows, start_logits, end_logits, strict=True)
    ]
    allowed = (
        max_context_tokens(windows) if max_context else [np.ones(len(w[1]), bool) for w in rows]
    )
    for pairs in (n_best, max(len(window.offsets) for window in windows)):
        spans = [
            span
            for row, starts in zip(rows, allowed, strict=True)
            for span in _spans(*row, starts, max_answer_tokens, pairs)
        ]
        if spans:
            ranked = sorted(spans, key=lambda span: span[0], reverse=True)
            return [_answer(windows[0].context, *span[1:]) for span in ranked[:n_best]]
    raise InputError("no token of the context covers any text; give a context with words")


def null_score(windows: Sequence[Window], start_logits: _Logits, end_logits: _Logits) -> float:
    """Return the score of there being no answer: that of the first token, [CLS], as a span.

    It is the least over the windows, since the answer need only be in one of them: Devlin et
    al. 2019, section 4.3, and transformers' ``postprocess_qa_predictions``.

    Args:
        windows: See ``best_answers``.
        start_logits: See ``best_answers``.
        end_logits: See ``best_answers``.

    Raises:
        InputError: Logits do not fit the windows or are not finite.
    """
    _check(windows, start_logits, end_logits, 1, 1)
    scores = [
        float(starts[0]) + float(ends[0])
        for starts, ends in zip(start_logits, end_logits, strict=True)
    ]
    score = float(np.min(scores))  # NaN wherever one is, unlike Python's min
    if not np.isfinite(score):
        raise InputError(
            "the logits of [CLS] are NaN or infinite; use another variant of the model and "
            "validate this one"
        )
    return score


def max_context_tokens(windows: Sequence[Window]) -> list[npt.NDArray[np.bool_]]:
    """Return which context tokens of each window have the most context in that window.

    The measure is that of BERT's ``run_squad.py``: the smaller of the numbers of tokens to the
    left and to the right, plus 0.01 of the window's length; of equal ones the first window.

    Args:
        windows: What ``windows`` returned for one question.

    Returns:
        For each window bool [context tokens].
    """
    counts = [int(np.count_nonzero(window.is_context)) for window in windows]
    total = max(w.first + count for w, count in zip(windows, counts, strict=True))
    best, owner = np.full(total, -np.inf), np.full(total, -1)
    for index, (window, count) in enumerate(zip(windows, counts, strict=True)):
        left = np.arange(count)
        score = np.minimum(left, left[::-1]) + 0.01 * count
        here = slice(window.first, window.first + count)
        owner[here] = np.where(score > best[here], index, owner[here])
        best[here] = np.maximum(score, best[here])
    return [
        owner[window.first : window.first + count] == index
        for index, (window, count) in enumerate(zip(windows, counts, strict=True))
    ]


def _check(
    windows: Sequence[Window],
    start_logits: _Logits,
    end_logits: _Logits,
    max_answer_tokens: int,
    n_best: int,
) -> None:
    if max_answer_tokens < 1 or n_best < 1:
        raise InputError(
            f"max_answer_tokens is {max_answer_tokens} and n_best {n_best}; use at least 1 of each"
        )
    if not windows or not len(windows) == len(start_logits) == len(end_logits):
        raise InputError(
            f"got {len(start_logits)} rows of start and {len(end_logits)} of end logits for "
            f"{len(windows)} windows; run the model once on every window of the question"
        )


def _context_logits(window: Window, logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the logits of the context tokens, float64 [context tokens]."""
    row = np.asarray(logits, dtype=np.float64)
    length = len(window.is_context)
    if row.ndim != 1 or len(row) < length:
        raise InputError(
            f"got logits of shape {row.shape} for a window of {length} tokens; "
            "give one logit per token"
        )
    row = row[:length][window.is_context]
    if not np.isfinite(row).all():
        raise InputError(
            f"{np.count_nonzero(~np.isfinite(row))} of {len(row)} logits are NaN or infinite; "
            "use another variant of the model and validate this one"
        )
    return row


def _spans(
    window: Window,
    starts: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    allowed: npt.NDArray[np.bool_],
    max_answer_tokens: int,
    n_best: int,
) -> list[tuple[float, int, int, float, float]]:
    """Return score, first character, the one after the last and both logits of the best spans."""
    offsets = window.offsets[window.is_context]
    start = np.argsort(-starts, kind="stable")[:n_best, np.newaxis]
    end = np.argsort(-ends, kind="stable")[np.newaxis, :n_best]
    length = end - start + 1
    valid = (length >= 1) & (length <= max_answer_tokens) & allowed[start]
    valid &= offsets[end, 1] > offsets[start, 0]
    i, j = np.nonzero(valid)
    i, j = start[i, 0], end[0, j]
    best = np.argsort(-(starts[i] + ends[j]), kind="stable")[:n_best]
    columns = (starts[i] + ends[j], offsets[i, 0], offsets[j, 1], starts[i], ends[j])
    return list(zip(*(column[best].tolist() for column in columns), strict=True))


def _answer(context: str, start: int, end: int, start_logit: float, end_logit: float) -> Answer:
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Answer(
        text=text,
        start=start,
        end=start + len(text),
        start_logit=start_logit,
        end_logit=end_logit,
    )
