"""Dev scores of the sample checkpoints, computed from plain transformers logits."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

MAX_ANSWER_TOKENS: Final = 20
BEST_EDGES: Final = 20


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of the context joined to its question, with offsets into the context.

    `offsets[i]` is `None` for a token that cannot belong to an answer.
    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int] | None, ...]


def cut_windows(
    tokenizer: "Tokenizer", question: str, context: str, *, length: int, stride: int
) -> list[Window]:
    """Cut a context into windows of at most `length` tokens that overlap by `stride` tokens.

    Raises:
        ValueError: If the question leaves no room to advance through the context.
    """
    head = tokenizer.encode(question)
    body = tokenizer.encode(context, add_special_tokens=False)
    end = head.ids[-1]
    room = length - len(head.ids) - 1
    if room <= stride:
        raise ValueError(f"a question of {len(head.ids)} tokens leaves {room} for its context")
    windows: list[Window] = []
    begin = 0
    while True:
        part = slice(begin, begin + room)
        ids = body.ids[part]
        windows.append(
            Window(
                ids=(*head.ids, *ids, end),
                type_ids=(0,) * len(head.ids) + (1,) * (len(ids) + 1),
                offsets=(*[None] * len(head.ids), *body.offsets[part], None),
            )
        )
        if begin + room >= len(body.ids):
            return windows
        begin += room - stride


def normal_form(text: str) -> str:
    """Reduce an answer as the SQuAD scorer does: case, punctuation, articles and spaces."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def overlap(found: str, accepted: str) -> float:
    """Compute the word F1 between two answers in normal form."""
    left, right = normal_form(found).split(), normal_form(accepted).split()
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right)) if common else 0.0


def answer_scores(found: Sequence[str], accepted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Average exact match and F1 over questions, in percent, best accepted answer each.

    Raises:
        ValueError: If there is no question, or not one prediction for each.
    """
    if not found or len(found) != len(accepted):
        raise ValueError(f"{len(found)} predictions for {len(accepted)} questions")
    pairs = list(zip(found, accepted, strict=True))
    exact = sum(any(normal_form(f) == normal_form(a) for a in some) for f, some in pairs)
    best = sum(max(overlap(f, a) for a in some) for f, some in pairs)
    return {"exact_match": 100 * exact / len(pairs), "f1": 100 * best / len(pairs)}


def best_span(
    windows: Sequence[Window], starts: Sequence[Sequence[float]], ends: Sequence[Sequence[float]]
) -> tuple[int, int]:
    """Choose the context characters of the highest start plus end logit over all windows."""
    best, chosen = float("-inf"), (0, 0)
    for window, start, end in zip(windows, starts, ends, strict=True):
        inside = [i for i, offset in enumerate(window.offsets) if offset is not None]
        firsts = sorted(inside, key=lambda i: -start[i])[:BEST_EDGES]
        lasts = sorted(inside, key=lambda i: -end[i])[:BEST_EDGES]
        for i in firsts:
            for j in lasts:
                if i <= j < i + MAX_ANSWER_TOKENS and start[i] + end[j] > best:
                    first, last = window.offsets[i], window.offsets[j]
                    if first is not None and last is not None:
                        best, chosen = start[i] + end[j], (first[0], last[1])
    return chosen


def read_reviews(path: Path) -> list[tuple[str, int]]:
    """Read a GLUE SST-2 file into pairs of sentence and label."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [(text, int(label)) for text, label in (line.split("\t") for line in lines)]


def flatten(document: dict[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """List context, question and answers of every question of a SQuAD document."""
    return [
        (paragraph["context"], entry["question"], entry["answers"])
        for article in document["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]


def review_scores(
    model: "PreTrainedModel", tokenizer: "Tokenizer", rows: Sequence[tuple[str, int]]
) -> dict[str, float]:
    """Compute the accuracy in percent, one sentence at a time so that nothing is padded."""
    import torch

    right = 0
    with torch.inference_mode():
        for text, label in rows:
            logits = model(torch.tensor([tokenizer.encode(text).ids])).logits
            right += int(logits.argmax(-1).item() == label)
    return {"accuracy": 100 * right / len(rows)}


def answer_questions(
    model: "PreTrainedModel",
    tokenizer: "Tokenizer",
    questions: Sequence[tuple[str, str]],
    *,
    length: int,
    stride: int,
) -> list[str]:
    """Predict the answer text for pairs of context and question."""
    import torch

    found: list[str] = []
    with torch.inference_mode():
        for context, question in questions:
            windows = cut_windows(tokenizer, question, context, length=length, stride=stride)
            outs = [
                model(torch.tensor([w.ids]), token_type_ids=torch.tensor([w.type_ids]))
                for w in windows
            ]
            begin, end = best_span(
                windows,
                [out.start_logits[0].tolist() for out in outs],
                [out.end_logits[0].tolist() for out in outs],
            )
            found.append(context[begin:end])
    return found


def question_scores(
    model: "PreTrainedModel",
    tokenizer: "Tokenizer",
    document: dict[str, Any],
    *,
    length: int,
    stride: int,
) -> dict[str, float]:
    """Compute exact match and F1 in percent over all questions of a SQuAD document."""
    flat = flatten(document)
    pairs = [(context, question) for context, question, _ in flat]
    found = answer_questions(model, tokenizer, pairs, length=length, stride=stride)
    return answer_scores(found, [[a["text"] for a in answers] for _, _, answers in flat])
