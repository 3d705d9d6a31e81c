"""Options of a call: how texts are read and answers made, and which task takes which."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from albert_deploy.runtime.errors import InputError


class Usual(enum.Enum):
    """Stands for a ``top_k`` that was not given: None already means all."""

    USUAL = "usual"


USUAL = Usual.USUAL
AGGREGATIONS = ("none", "simple", "first", "average", "max")
FUNCTIONS = ("sigmoid", "softmax", "none")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How texts are read and answers made; names and defaults are those of transformers.

    Args:
        batch_size: Rows that run at once.
        truncation: Cut over-long texts; otherwise they are an error.
        max_length: Most tokens of a row; None for what the model takes.
        top_k: How many answers; None for all. Left out, text classification gives its best label
            by itself and not in a list.
        function_to_apply: ``sigmoid``, ``softmax`` or ``none``; None for what the model is for.
        aggregation_strategy: ``none`` for tokens, ``simple`` for groups of tokens; ``first``,
            ``average`` and ``max`` for groups of words, whose pieces take the label of the first,
            that of their mean, or the surest one.
        ignore_labels: Labels whose tokens are left out.
        stride: Read long texts in windows that share so many tokens, instead of refusing or
            cutting them; entities are joined over windows.
        targets: The only words that may stand for a mask; None for the whole vocabulary.
        pooled: Give one vector for the text, not one for each token.
        doc_stride: Tokens that two windows of a long context share; None for a half of the
            window, at most 128.
        max_seq_len: Tokens of a window; None for what the model takes, at most 384.
        max_question_len: Tokens of a question; the rest is cut.
        max_answer_len: Tokens of an answer.
        handle_impossible_answer: The empty answer is one too, with the score of [CLS].
        align_to_words: Widen answers to whole words of the tokenizer.

    Raises:
        InputError: A value is out of range.
    """

    batch_size: int = 8
    truncation: bool = False
    max_length: int | None = None
    top_k: int | Usual | None = USUAL
    function_to_apply: str | None = None
    aggregation_strategy: str = "none"
    ignore_labels: tuple[str, ...] = ("O",)
    stride: int | None = None
    targets: tuple[str, ...] | None = None
    pooled: bool = False
    doc_stride: int | None = None
    max_seq_len: int | None = None
    max_question_len: int = 64
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length", "max_seq_len"):
            at_least(name, getattr(self, name))
        at_least("max_question_len", self.max_question_len)
        at_least("max_answer_len", self.max_answer_len)
        at_least("doc_stride", self.doc_stride, 0)
        at_least("stride", self.stride, 0)
        if not isinstance(self.top_k, Usual):
            at_least("top_k", self.top_k)
        _one_of("aggregation_strategy", self.aggregation_strategy, AGGREGATIONS)
        if self.function_to_apply is not None:
            _one_of("function_to_apply", self.function_to_apply, FUNCTIONS)
        if self.targets is not None and not self.targets:
            raise InputError("targets is empty; give at least one word, or leave it out")

    @property
    def best(self) -> bool:
        """Whether no ``top_k`` was given."""
        return isinstance(self.top_k, Usual)

    def count(self, usual: int, available: int) -> int:
        """Return how many answers of those available to give; ``usual`` without a ``top_k``."""
        wanted = usual if isinstance(self.top_k, Usual) else self.top_k
        return available if wanted is None else min(wanted, available)


# Options that are one text or several.
_LISTS = ("ignore_labels", "targets")
_TEXT = ("batch_size", "truncation", "max_length")
# Task -> the options that it takes.
TAKES: dict[str, tuple[str, ...]] = {
    "feature-extraction": (*_TEXT, "pooled"),
    "pretraining": (*_TEXT, "top_k", "targets"),
    "fill-mask": (*_TEXT, "top_k", "targets"),
    "text-classification": (*_TEXT, "top_k", "function_to_apply"),
    "multiple-choice": ("batch_size", "max_length"),
    "token-classification": (*_TEXT, "aggregation_strategy", "ignore_labels", "stride"),
    "question-answering": (
        "batch_size",
        "top_k",
        "doc_stride",
        "max_seq_len",
        "max_question_len",
        "max_answer_len",
        "handle_impossible_answer",
        "align_to_words",
    ),
}


def options_for(task: str, given: dict[str, Any]) -> Options:
    """Make the options of a call.

    Args:
        task: Key of ``TASKS``.
        given: Keywords of the call.

    Raises:
        InputError: The task takes no such option, or a value is out of range.
    """
    if unknown := sorted(set(given) - set(TAKES[task])):
        known = {field.name for field in fields(Options)}
        what = "is no option of" if unknown[0] in known else "is no option at all, not even of"
        raise InputError(f"{unknown[0]} {what} {task}; it takes: {', '.join(TAKES[task])}")
    lists = {name: _texts(name, given[name]) for name in _LISTS if given.get(name) is not None}
    return Options(**(given | lists))


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """Return one text, or several, as a tuple."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple | set | frozenset):
        raise InputError(f"{name} is of type {type(value).__name__}; give a text or a list of them")
    if bad := [text for text in texts if not isinstance(text, str)]:
        raise InputError(f"{name} holds {bad[0]!r}; give texts")
    return tuple(texts)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; use one of: {', '.join(known)}")


def at_least(name: str, value: object, least: int = 1) -> None:
    """Fail where an option is below its least value; None passes.

    Raises:
        InputError: It is.
    """
    good = not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least
    if value is not None and not good:
        raise InputError(f"{name} is {value!r}; use at least {least}")
