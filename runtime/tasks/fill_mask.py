"""Masked words: logits over the vocabulary to the likeliest tokens, as transformers gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.options import Options
from albert_deploy.runtime.session import Feeds, Outputs
from albert_deploy.runtime.tasks.head import Encoded, TaskInfo, softmax

_TOP = 5
# Family -> what class 0 and class 1 of the second output say of the two segments.
_ORDER = {"albert": ("in order", "swapped"), "bert": ("next", "random")}


def encode_masked(info: TaskInfo, item: dict[str, Any], options: Options, row: str) -> Encoded:
    """Tokenize one text with masks.

    The answer to one mask is a list of ``score``, ``token``, ``token_str`` and ``sequence``, the
    likeliest first; to several masks a list of such lists.

    Raises:
        InputError: No mask, too long a text that may not be cut, or one that cannot be tokenized;
            a target is not in the vocabulary.
    """
    wanted = _targets(info, options)
    feeds, places = _encode(info, item, options, row)
    if not len(places):
        raise InputError(f"{row} has no mask; write {_mask(info)} where a word is to be found")

    def answer(rows: list[Outputs]) -> Any:
        found = _fill(info, options, wanted, feeds, places, rows[0][info.outputs[0]])
        return found[0] if len(found) == 1 else found

    return Encoded(rows=[feeds], answer=answer, keep=lambda o, _: _at(o, info.outputs[0], places))


def encode_pretraining(info: TaskInfo, item: dict[str, Any], options: Options, row: str) -> Encoded:
    """Tokenize one text, or two segments, for both heads of pretraining.

    The answer has ``predictions``, for each mask a list as of ``encode_masked``, and
    ``sentence_order`` with ``label`` (``in order`` or ``swapped``; of BERT, which was trained on
    another question, ``next`` or ``random``), its ``score``, and ``scores`` of both labels.

    Raises:
        InputError: The text is too long and may not be cut, or cannot be tokenized; a target is
            not in the vocabulary.
    """
    wanted = _targets(info, options)
    feeds, places = _encode(info, item, options, row)
    words, order = info.outputs

    def answer(rows: list[Outputs]) -> dict[str, Any]:
        scores = softmax(rows[0][order]).tolist()
        best = int(np.argmax(scores))
        return {
            "predictions": _fill(info, options, wanted, feeds, places, rows[0][words]),
            "sentence_order": {
                "label": _ORDER[info.family][best],
                "score": scores[best],
                "scores": scores,
            },
        }

    return Encoded(
        rows=[feeds],
        answer=answer,
        keep=lambda outputs, _: _at(outputs, words, places) | {order: outputs[order].copy()},
    )


def _encode(
    info: TaskInfo, item: dict[str, Any], options: Options, row: str
) -> tuple[Feeds, npt.NDArray[np.int64]]:
    feeds = info.encode(item, options, row)
    mask = info.mask_id
    found = np.flatnonzero(feeds["input_ids"][0] == mask) if mask is not None else np.array([], int)
    return feeds, found


def _at(outputs: Outputs, name: str, places: npt.NDArray[np.int64]) -> Outputs:
    """Keep the logits of the masks alone: those of every token take 1 MB for ten of them."""
    return {name: outputs[name][places]}


def _mask(info: TaskInfo) -> str:
    mask = info.mask_id
    if mask is None:
        raise InputError("the tokenizer has no mask; use the one that the model was trained with")
    return str(info.tokenizer.id_to_token(mask))


def _targets(info: TaskInfo, options: Options) -> npt.NDArray[np.int64] | None:
    """Return the token ids of the words that may stand for a mask; None where all may."""
    if options.targets is None:
        return None
    return np.unique(np.array([_token_id(info, word) for word in options.targets], np.int64))


def _token_id(info: TaskInfo, word: str) -> int:
    """Return the id of an entry of the vocabulary, or of a text that is one token."""
    try:
        if (found := info.tokenizer.token_to_id(word)) is not None:
            return int(found)
        encoding = info.tokenizer.encode(word, add_special_tokens=False)
    except Exception as error:  # lone surrogates; an unknown piece where <unk> is not set
        raise InputError(f"cannot tokenize target {word!r}: {error}; give another") from error
    if len(encoding.ids) == 1 and encoding.ids[0] != info.unknown_id:
        return int(encoding.ids[0])
    pieces = " ".join(encoding.tokens) or "nothing"
    raise InputError(
        f"target {word!r} is no token of the vocabulary (it makes: {pieces}) and a mask stands for "
        "one token; give one that is"
    )


def _fill(
    info: TaskInfo,
    options: Options,
    wanted: npt.NDArray[np.int64] | None,
    feeds: Feeds,
    places: npt.NDArray[np.int64],
    logits: npt.NDArray[Any],
) -> list[list[dict[str, Any]]]:
    """Return the likeliest tokens of each mask, of those wanted; logits are [masks, vocabulary]."""
    filled = []
    for place, scores in zip(places, softmax(logits), strict=True):
        known = np.arange(len(scores)) if wanted is None else wanted
        ranked = known[np.argsort(-scores[known], kind="stable")]
        best = ranked[: options.count(_TOP, len(ranked))]
        row = []
        for token in best.tolist():
            ids = feeds["input_ids"][0].copy()
            ids[place] = token
            ids = ids[ids != info.pad_id]
            row.append(
                {
                    "score": float(scores[token]),
                    "token": token,
                    "token_str": info.decode([token]),
                    # Of several masks the others would go with the special tokens.
                    "sequence": info.decode(ids.tolist(), skip_special=len(places) == 1),
                }
            )
        filled.append(row)
    return filled
