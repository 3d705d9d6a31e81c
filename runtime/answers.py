"""Question answering: start and end logits to a piece of the context, with numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Window:
    """One stretch of a context beside its question, as one row of the model's inputs.

    Args:
        feeds: The three inputs, each int64 [1, sequence].
        offsets: int64 [sequence, 2], first character and the one after the last of each context
            token in ``context``; zeros for every other token.
        is_context: bool [sequence], true for the tokens that an answer may have.
        context: The whole context, not only what this window covers.
    """

    feeds: dict[str, npt.NDArray[np.int64]]
    offsets: npt.NDArray[np.int64]
    is_context: npt.NDArray[np.bool_]
    context: str


def best_answer(
    windows: Sequence[Window],
    start_logits: Sequence[npt.NDArray[Any]] | npt.NDArray[Any],
    end_logits: Sequence[npt.NDArray[Any]] | npt.NDArray[Any],
    *,
    max_answer_tokens: int,
    n_best: int,
) -> tuple[str, int, int, float]:
    """Choose the answer with the largest sum of start and end logit over all windows.

    Args:
        windows: What ``windows`` returned for one question.
        start_logits: float [windows, sequence], padded or not; or one row per window.
        end_logits: Likewise.
        max_answer_tokens: Most tokens of an answer.
        n_best: How many starts and ends of each window are paired with each other. Where no
            such pair is an answer, all of them are tried.

    Returns:
        The answer as it stands in the context, its first character, the one after its last,
        and its score.

    Raises:
        InputError: Logits do not fit the windows or are not finite, or a limit is below 1.
    """
    if max_answer_tokens < 1 or n_best < 1:
        raise InputError(
            f"max_answer_tokens is {max_answer_tokens} and n_best {n_best}; use at least 1 of each"
        )
    if not windows or not len(windows) == len(start_logits) == len(end_logits):
        raise InputError(
            f"got {len(start_logits)} rows of start and {len(end_logits)} of end logits for "
            f"{len(windows)} windows; run the model once on every window of the question"
        )
    rows = [
        (window, _context_logits(window, starts), _context_logits(window, ends))
        for window, starts, ends in zip(windows, start_logits, end_logits, strict=True)
    ]
    for pairs in (n_best, max(len(window.offsets) for window in windows)):
        spans = [_best_span(*row, max_answer_tokens, pairs) for row in rows]
        found = [span for span in spans if span is not None]
        if found:
            score, start, end = max(found, key=lambda span: span[0])
            text = windows[0].context[start:end]
            start += len(text) - len(text.lstrip())
            return text.strip(), start, start + len(text.strip()), score
    raise InputError("no token of the context covers any text; give a context with words")


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


def _best_span(
    window: Window,
    starts: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    max_answer_tokens: int,
    n_best: int,
) -> tuple[float, int, int] | None:
    """Return score, first character and the one after the last of a window's best answer."""
    offsets = window.offsets[window.is_context]
    start = np.argsort(-starts, kind="stable")[:n_best, np.newaxis]
    end = np.argsort(-ends, kind="stable")[np.newaxis, :n_best]
    length = end - start + 1
    valid = (length >= 1) & (length <= max_answer_tokens)
    valid &= offsets[end, 1] > offsets[start, 0]
    if not valid.any():
        return None
    scores = np.where(valid, starts[start] + ends[end], -np.inf)
    i, j = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[i, j]), int(offsets[start[i, 0], 0]), int(offsets[end[0, j], 1])
