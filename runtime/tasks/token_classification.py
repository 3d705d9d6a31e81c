"""Token classification: logits of tokens to entities, as transformers' pipeline gives them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.options import Options
from albert_deploy.runtime.session import Feeds, Outputs
from albert_deploy.runtime.tasks.head import Encoded, TaskInfo, keep_tokens, softmax
from albert_deploy.runtime.tasks.tokenize import encode

_Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A token of the text, or a word that was made of some.

    Attributes:
        scores: Probability of each label, float64 [labels].
        index: Position in its row, [CLS] being 0.
        word: As the vocabulary writes it.
        start: First character in the text.
        end: Character behind the last one.
        goes_on: It continues the word of the piece before it.
    """

    scores: _Scores
    index: int
    word: str
    start: int
    end: int
    goes_on: bool


# Strategy -> which scores the pieces of one word have in common, [pieces, labels] -> [labels].
_OF_A_WORD: dict[str, Callable[[_Scores], _Scores]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: np.asarray(scores.mean(axis=0)),
    "max": lambda scores: scores[int(scores.max(axis=1).argmax())],
}


def encode_tokens(info: TaskInfo, item: dict[str, Any], options: Options, row: str) -> Encoded:
    """Tokenize one text for token classification.

    The answer is a list of objects. With ``aggregation_strategy="none"`` one for each token:
    ``entity``, ``score``, ``index``, ``word``, ``start``, ``end``; with ``simple`` one for each
    group of neighbours of the same kind: ``entity_group``, ``score``, ``word``, ``start``,
    ``end``; with ``first``, ``average`` and ``max`` likewise, but the pieces of a word agree on
    one label before. Offsets count characters of the text. With a ``stride`` a long text is read
    in windows; of entities that overlap the longest stays, of equally long ones the surest.

    Raises:
        InputError: The text is too long and may not be cut, or cannot be tokenized, or the stride
            leaves no room to move on, or there is one without an aggregation.
    """
    text = item["text"]
    strategy = options.aggregation_strategy
    if options.stride is None:
        rows = [info.encode(item, options, row)]
    else:
        if strategy == "none":
            raise InputError(
                f"stride is {options.stride} and aggregation_strategy 'none'; windows overlap, so "
                "that only entities can be joined: use simple, first, average or max"
            )
        rows = _windows(info, text, info.limit(options.max_length), options.stride, row)

    def answer(outputs: list[Outputs]) -> list[dict[str, Any]]:
        found = []
        places = _places(info, text, rows, options.stride)
        for feeds, kept, one in zip(rows, places, outputs, strict=True):
            scores = softmax(one[info.outputs[0]])
            pieces = _pieces(info, text, feeds["input_ids"][0], kept, scores)
            if strategy == "none":
                entities = [_token(info, piece) for piece in pieces]
            else:
                units = pieces if strategy == "simple" else _words(info, pieces, strategy)
                entities = _groups(info, units)
            key = "entity" if strategy == "none" else "entity_group"
            found += [entity for entity in entities if entity[key] not in options.ignore_labels]
        return _longest(found) if len(rows) > 1 else found

    return Encoded(rows=rows, answer=answer, keep=keep_tokens)


def _windows(info: TaskInfo, text: str, limit: int, stride: int, row: str) -> list[Feeds]:
    """Cut a text into rows that share ``stride`` tokens with their neighbours."""
    whole = encode(info.tokenizer, text, max_length=sys.maxsize, row=row)
    special = _special(info.tokenizer.encode(text))
    room = limit - int(special.sum())
    if room < 1 or stride >= room:
        raise InputError(
            f"a stride of {stride} leaves no room to move on in {row}: windows have {limit} "
            f"tokens, {limit - room} of them special; use a stride below {max(room, 1)}"
        )
    length = len(special) - int(special.sum())
    kept = [_window(special, first, room) for first in _starts(length, room, stride)]
    return [{name: value[:, positions] for name, value in whole.items()} for positions in kept]


def _places(
    info: TaskInfo, text: str, rows: Sequence[Feeds], stride: int | None
) -> list[list[tuple[int, tuple[int, int]]]]:
    """Return for each row the positions of the text's tokens in it, with their characters."""
    encoding = info.tokenizer.encode(text)
    special, offsets = _special(encoding), encoding.offsets
    # Rows are as wide as fits, but for the last; a cut text has but one and lost its end.
    room = rows[0]["input_ids"].shape[1] - int(special.sum())
    length = len(special) - int(special.sum())
    starts = [0] if stride is None else _starts(length, room, stride)
    found = []
    for first in starts:
        kept = _window(special, first, room)
        found.append(
            [
                (place, offsets[position])
                for place, position in enumerate(kept.tolist())
                if not special[position]
            ]
        )
    return found


def _special(encoding: Any) -> npt.NDArray[np.bool_]:
    return np.array(encoding.special_tokens_mask, bool)


def _starts(length: int, room: int, stride: int) -> list[int]:
    """Return where windows begin, in tokens of the text; the last one reaches its end."""
    last = max(length - room, 0)
    return list(range(0, last + room - stride, room - stride)) if last else [0]


def _window(special: npt.NDArray[np.bool_], first: int, room: int) -> npt.NDArray[np.int64]:
    """Return the positions of every special token and of ``room`` tokens of the text."""
    kept = special.copy()
    kept[np.flatnonzero(~special)[first : first + room]] = True
    return np.flatnonzero(kept)


def _pieces(
    info: TaskInfo,
    text: str,
    ids: npt.NDArray[np.int64],
    places: Sequence[tuple[int, tuple[int, int]]],
    scores: _Scores,
) -> list[_Piece]:
    # Vocabularies with a prefix tell what goes on; of others a space before a piece tells it.
    prefixed = bool(getattr(info.tokenizer.model, "continuing_subword_prefix", None))
    found = []
    for place, (start, end) in places:
        token = int(ids[place])
        word, written = str(info.tokenizer.id_to_token(token)), text[start:end]
        if token == info.unknown_id:
            word, goes_on = written, False
        elif prefixed:
            goes_on = len(word) != len(written)
        else:
            goes_on = start > 0 and " " not in text[start - 1 : start + 1]
        found.append(
            _Piece(
                scores=scores[place], index=place, word=word, start=start, end=end, goes_on=goes_on
            )
        )
    return found


def _label(info: TaskInfo, piece: _Piece) -> tuple[str, float]:
    best = int(piece.scores.argmax())
    return info.labels[best], float(piece.scores[best])


def _token(info: TaskInfo, piece: _Piece) -> dict[str, Any]:
    label, score = _label(info, piece)
    return {
        "entity": label,
        "score": score,
        "index": piece.index,
        "word": piece.word,
        "start": piece.start,
        "end": piece.end,
    }


def _words(info: TaskInfo, pieces: list[_Piece], strategy: str) -> list[_Piece]:
    """Join the pieces of each word to one."""
    words: list[list[_Piece]] = []
    for piece in pieces:
        if words and piece.goes_on:
            words[-1].append(piece)
        else:
            words.append([piece])
    return [
        replace(
            word[0],
            scores=_OF_A_WORD[strategy](np.stack([piece.scores for piece in word])),
            word=info.join([piece.word for piece in word]),
            end=word[-1].end,
        )
        for word in words
    ]


def _groups(info: TaskInfo, units: list[_Piece]) -> list[dict[str, Any]]:
    """Join neighbours of the same kind to entities."""
    groups: list[list[tuple[str, float, _Piece]]] = []
    for piece in units:
        label, score = _label(info, piece)
        begins, kind = _split(label)
        if groups and not begins and kind == _split(groups[-1][-1][0])[1]:
            groups[-1].append((label, score, piece))
        else:
            groups.append([(label, score, piece)])
    return [
        {
            "entity_group": group[0][0].split("-", 1)[-1],
            "score": float(np.mean([score for _, score, _ in group])),
            "word": info.join([piece.word for _, _, piece in group]),
            "start": group[0][2].start,
            "end": group[-1][2].end,
        }
        for group in groups
    ]


def _split(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and of what kind; without prefix it goes on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _longest(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep of entities that overlap the longest, or of equally long ones the surest."""
    kept: list[dict[str, Any]] = []
    for one in sorted(found, key=lambda entity: entity["start"]):
        if not kept or one["start"] >= kept[-1]["end"]:
            kept.append(one)
        elif _rank(one) > _rank(kept[-1]):
            kept[-1] = one
    return kept


def _rank(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
