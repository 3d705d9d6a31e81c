"""Text to feeds, with numpy and tokenizers alone; ``answers`` goes the way back.

A tokenizer is used as it is loaded, never reconfigured, so that threads can share one: lengths
are cut here, on the token ids, by the rules of the tokenizers library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds


@dataclass(frozen=True, kw_only=True)
class Window:
    """One stretch of a context beside its question, as one row of the model's inputs.

    Args:
        feeds: The three inputs, each int64 [1, sequence].
        offsets: int64 [sequence, 2], first character and the one after the last of each context
            token in ``context``; zeros for every other token.
        is_context: bool [sequence], true for the tokens that an answer may have.
        context: The whole context, not only what this window covers.
        first: Which of the context's tokens is the first one here, counted from 0.
    """

    feeds: Feeds
    offsets: npt.NDArray[np.int64]
    is_context: npt.NDArray[np.bool_]
    context: str
    first: int = 0


TOKENIZER_NAME = "tokenizer.json"


_FIRST, _SECOND, _SPECIAL = 0, 1, -1


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """A tokenized text or pair before any cut; every array is [sequence], offsets [sequence, 2].

    ``words`` counts the words from 0; -1 for special tokens.
    """

    ids: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]

    def feeds(self, kept: npt.NDArray[np.int64]) -> Feeds:
        """Return the inputs [1, len(kept)] that the positions ``kept`` make."""
        rows = (self.ids[kept], np.ones(len(kept), np.int64), self.types[kept])
        return {name: row[np.newaxis] for name, row in zip(INPUT_NAMES, rows, strict=True)}


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read ``tokenizer.json`` of a deployment directory, without its padding and truncation.

    Raises:
        InputError: The file is missing or corrupt, or adds no special tokens.
    """
    path = directory / TOKENIZER_NAME
    remedy = "export the checkpoint again, or save its fast tokenizer there with save_pretrained"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{directory} has no {TOKENIZER_NAME}; {remedy}") from None
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"cannot read {path}: {error}; {remedy}") from error
    if tokenizer.num_special_tokens_to_add(False) == 0:
        raise InputError(
            f"{path} adds no special tokens, wanted a post-processor that writes "
            f"[CLS] A [SEP] B [SEP]; {remedy}"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(
    tokenizer: Tokenizer,
    text: str,
    pair: str | None = None,
    *,
    max_length: int,
    truncate: bool = False,
    row: str = "text",
) -> Feeds:
    """Turn a text, or a text and its pair, into the inputs of one row without padding.

    Args:
        tokenizer: What ``load_tokenizer`` returned.
        text: First segment.
        pair: Second segment; an empty one counts as none, as in transformers.
        max_length: Most tokens, special ones included, that the model takes.
        truncate: Cut a longer text, from the end of the longer segment first.
        row: How an error names the text.

    Returns:
        ``input_ids``, ``attention_mask`` and ``token_type_ids``, each int64 [1, sequence].

    Raises:
        InputError: The text is too long and may not be cut, or cannot be tokenized.
    """
    tokens = _tokenize(tokenizer, text, pair or None, row)
    got = len(tokens.ids)
    if got > max_length and not truncate:
        raise InputError(
            f"{row} has {got} tokens, the limit is {max_length}; shorten it or pass `truncate=True`"
        )
    first, second = (np.flatnonzero(tokens.part == part) for part in (_FIRST, _SECOND))
    room = max_length - (got - len(first) - len(second))
    if room < 1:
        raise InputError(
            f"a limit of {max_length} tokens leaves none for the text of {row} beside the special "
            f"tokens; use at least {max_length + 1 - room}"
        )
    kept_first, kept_second = _longest_first(len(first), len(second), room)
    dropped = np.concatenate([first[kept_first:], second[kept_second:]])
    return tokens.feeds(np.setdiff1d(np.arange(got), dropped))


def encode_choice(
    tokenizer: Tokenizer,
    context: str,
    question: str,
    choice: str,
    *,
    max_length: int,
    max_choice_length: int,
    row: str = "question",
) -> Feeds:
    """Lay one choice of an answer beside its context: [CLS] context [SEP] question choice [SEP].

    As ALBERT's reference does for RACE, question and choice are cut at their beginning, so that
    the choice stays, and the context is cut at its end to the room that is left.

    Args:
        tokenizer: What ``load_tokenizer`` returned.
        context: First segment.
        question: Beginning of the second segment.
        choice: End of the second segment.
        max_length: Most tokens, special ones included, that the model takes.
        max_choice_length: Most tokens of the second segment.
        row: How an error names the question.

    Returns:
        The three inputs, each int64 [1, sequence].

    Raises:
        InputError: There is no context, question or choice, or no room for one of them.
    """
    tokens = _tokenize(tokenizer, context, f"{question} {choice}".strip(), row)
    first, second = (np.flatnonzero(tokens.part == part) for part in (_FIRST, _SECOND))
    if not len(first) or not len(second):
        empty = "context" if len(second) else "question and choice"
        raise InputError(f"{row} has no {empty}: its text makes no tokens; give one with words")
    cut = second[: max(len(second) - max_choice_length, 0)]
    room = max_length - (len(tokens.ids) - len(first) - len(cut))
    if room < 1:
        raise InputError(
            f"{row} leaves no room for its context in {max_length} tokens beside a choice of "
            f"{len(second) - len(cut)}; lower max_choice_length, now {max_choice_length}"
        )
    return tokens.feeds(np.setdiff1d(np.arange(len(tokens.ids)), [*cut, *first[room:]]))


def encode_words(
    tokenizer: Tokenizer,
    words: Sequence[str],
    *,
    max_length: int,
    truncate: bool = False,
    row: str = "sentence",
) -> tuple[Feeds, npt.NDArray[np.int64]]:
    """Turn a sentence of words into the inputs of one row, and say where each word begins.

    Args:
        tokenizer: What ``load_tokenizer`` returned.
        words: The words, each of which becomes one or more tokens.
        max_length: Most tokens, special ones included, that the model takes.
        truncate: Cut a longer sentence at its end.
        row: How an error names the sentence.

    Returns:
        The three inputs, each int64 [1, sequence], and the position of each word's first token,
        int64 [words], -1 for a word that was cut off or makes no tokens.

    Raises:
        InputError: The sentence is too long and may not be cut, or cannot be tokenized.
    """
    tokens = _tokenize(tokenizer, list(words), None, row)
    text = np.flatnonzero(tokens.part == _FIRST)
    excess = max(len(tokens.ids) - max_length, 0)
    if excess and (not truncate or excess >= len(text)):
        raise InputError(
            f"{row} has {len(tokens.ids)} tokens, the limit is {max_length}; shorten it or pass "
            "`truncate=True`"
        )
    kept = np.setdiff1d(np.arange(len(tokens.ids)), text[len(text) - excess :])
    owner = tokens.words[kept]
    found, at = np.unique(owner, return_index=True)
    first = np.full(len(words), -1, np.int64)
    first[found[found >= 0]] = at[found >= 0]
    return tokens.feeds(kept), first


def stack(feeds: Sequence[Feeds], pad_id: int) -> Feeds:
    """Join rows into one batch, padded on the right to the longest.

    Args:
        feeds: Inputs with arrays int64 [rows, sequence], as ``encode`` makes them.
        pad_id: Token id of the padding.

    Returns:
        The three inputs, each int64 [sum of rows, longest sequence].

    Raises:
        InputError: There is nothing to join.
    """
    if not feeds:
        raise InputError("got no rows to make a batch of, wanted at least one; give some text")
    longest = max(row["input_ids"].shape[1] for row in feeds)
    padding = dict.fromkeys(INPUT_NAMES, 0) | {"input_ids": pad_id}
    return {
        name: np.concatenate(
            [
                np.pad(
                    row[name],
                    ((0, 0), (0, longest - row[name].shape[1])),
                    constant_values=padding[name],
                )
                for row in feeds
            ]
        )
        for name in INPUT_NAMES
    }


def windows(
    tokenizer: Tokenizer,
    question: str,
    context: str,
    *,
    max_length: int,
    stride: int,
    max_query_length: int,
    row: str = "question",
) -> list[Window]:
    """Lay a question beside each of the overlapping stretches that cover its context.

    Args:
        tokenizer: What ``load_tokenizer`` returned.
        question: First segment; whitespace before it is dropped.
        context: Second segment, the text that holds the answer.
        max_length: Most tokens of a window, special ones included.
        stride: Context tokens that a window repeats from the one before it.
        max_query_length: Most tokens of the question; the rest is cut, as BERT's reference does.
        row: How an error names the question.

    Raises:
        InputError: Question or context is empty, or the lengths leave no room to move on.
    """
    if max_query_length < 1 or stride < 0:
        raise InputError(
            f"max_query_length is {max_query_length} and stride {stride}; "
            "use at least 1 token and at least 0"
        )
    if not question.strip():  # an empty first segment would still make valid-looking windows
        raise InputError(f"{row} is empty; write a question")
    tokens = _tokenize(tokenizer, question.lstrip(), context, row)
    query, passage = (np.flatnonzero(tokens.part == part) for part in (_FIRST, _SECOND))
    if not len(query) or not len(passage):
        empty = "context" if len(query) else "question"
        raise InputError(f"{row} has no {empty}: its text makes no tokens; give one with words")
    specials = np.flatnonzero(tokens.part == _SPECIAL)
    always = np.concatenate([specials, query[:max_query_length]])
    room = max_length - len(always)
    if room < 1 or (len(passage) > room and stride >= room):
        raise InputError(
            f"{row} leaves {max(room, 0)} of {max_length} tokens for the context, wanted more than "
            f"the stride of {stride}; raise max_length or lower stride or max_query_length"
        )
    last = max(len(passage) - room, 0)
    # The last step may overshoot: that window is shorter, and ends where the context ends.
    starts = range(0, last + room - stride, room - stride) if last else (0,)
    return [
        _window(tokens, np.concatenate([always, passage[start : start + room]]), context)
        for start in starts
    ]


def _tokenize(tokenizer: Tokenizer, text: str | list[str], pair: str | None, row: str) -> _Tokens:
    try:
        encoding = tokenizer.encode(text, pair, is_pretokenized=isinstance(text, list))
    except Exception as error:  # lone surrogates; an unknown piece where <unk> is not set
        raise InputError(f"cannot tokenize {row}: {error}; give valid Unicode text") from error
    parts = [_SPECIAL if part is None else part for part in encoding.sequence_ids]
    part = np.array(parts, dtype=np.int64)
    types = np.array(encoding.type_ids, dtype=np.int64)
    if pair is not None and np.count_nonzero(part == _SPECIAL) == 3:
        # [CLS] A [SEP] B [SEP]: some files leave every type at 0, the models want B [SEP] at 1.
        types[np.count_nonzero(part == _FIRST) + 2 :] = 1
    return _Tokens(
        ids=np.array(encoding.ids, dtype=np.int64),
        types=types,
        offsets=np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
        part=part,
        words=np.array([-1 if word is None else word for word in encoding.word_ids], np.int64),
    )


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each segment fit ``room``, shortening the longer one first."""
    if first + second <= room:
        return first, second
    half = room // 2
    if min(first, second) <= half:
        shorter = min(first, second)
        return (shorter, room - shorter) if first <= second else (room - shorter, shorter)
    # An odd room gives its extra token to the longer segment, to the second of two equal ones.
    return (half, room - half) if first <= second else (room - half, half)


def _window(tokens: _Tokens, positions: npt.NDArray[np.int64], context: str) -> Window:
    kept = np.sort(positions)
    is_context = tokens.part[kept] == _SECOND
    first = np.argmax(is_context)
    return Window(
        feeds=tokens.feeds(kept),
        offsets=np.where(is_context[:, np.newaxis], tokens.offsets[kept], 0),
        is_context=is_context,
        context=context,
        # The context's tokens stand together, with those of the question before them.
        first=int(kept[first] - np.argmax(tokens.part == _SECOND)),
    )
