"""Token classification: logits of tokens to entities, as transformers' pipeline gives them."""

from __future__ import annotations

from typing import Any

import numpy as np

from albert_deploy.runtime.answer_options import Options
from albert_deploy.runtime.prepared import Facts, Outputs, Prepared, keep_tokens, softmax
from albert_deploy.runtime.tasks import encode


def prepare_tokens(facts: Facts, item: dict[str, Any], options: Options, row: str) -> Prepared:
    """Tokenize one text for token classification.

    The answer is a list of objects. With ``aggregation_strategy="none"`` one for each token:
    ``entity``, ``score``, ``index``, ``word``, ``start``, ``end``; with ``simple`` one for each
    group of neighbours of the same kind: ``entity_group``, ``score``, ``word``, ``start``,
    ``end``. Offsets count characters of the text.

    Raises:
        InputError: The text is too long and may not be cut, or cannot be tokenized.
    """
    text = item["text"]
    limit = min(options.max_length or facts.max_length, facts.max_length)
    feeds = encode(facts.tokenizer, text, max_length=limit, truncate=options.truncation, row=row)

    def answer(rows: list[Outputs]) -> list[dict[str, Any]]:
        tokens = _tokens(facts, text, feeds["input_ids"][0], rows[0][facts.outputs[0]])
        if options.aggregation_strategy == "none":
            return [one for one in tokens if one["entity"] not in options.ignore_labels]
        groups = _groups(facts, tokens)
        return [one for one in groups if one["entity_group"] not in options.ignore_labels]

    return Prepared(rows=[feeds], answer=answer, keep=keep_tokens)


def _tokens(facts: Facts, text: str, ids: Any, logits: Any) -> list[dict[str, Any]]:
    """Return every token of the text, special ones left out, with its most likely label."""
    encoding = facts.tokenizer.encode(text)
    special = np.array(encoding.special_tokens_mask, bool)
    # A cut text lost its last tokens, of which none is special: those before them stand alike.
    offsets = [pair for pair, skip in zip(encoding.offsets, special, strict=True) if not skip]
    places = np.flatnonzero(~special)[: len(offsets) - (len(special) - len(ids))]
    scores = softmax(logits)
    found = []
    for place, (start, end) in zip(places.tolist(), offsets, strict=False):
        label = int(scores[place].argmax())
        token = int(ids[place])
        unknown = token == facts.unknown_id
        found.append(
            {
                "entity": facts.labels[label],
                "score": float(scores[place, label]),
                "index": place,
                "word": text[start:end] if unknown else facts.tokenizer.id_to_token(token),
                "start": start,
                "end": end,
            }
        )
    return found


def _groups(facts: Facts, tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: list[list[dict[str, Any]]] = []
    for token in tokens:
        begins, kind = _split(token["entity"])
        if groups and not begins and kind == _split(groups[-1][-1]["entity"])[1]:
            groups[-1].append(token)
        else:
            groups.append([token])
    return [
        {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([token["score"] for token in group])),
            "word": facts.join([token["word"] for token in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def _split(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and of what kind; without prefix it goes on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
