"""Answers are those of transformers' own post-processing, or differ for a reason that is shown.

transformers 5 has no question-answering pipeline any more; its post-processing is that of its
``run_qa`` example, ``postprocess_qa_predictions``. It is written here again from its algorithm,
on windows of transformers' tokenizer, padded to the limit, and a padded batch through PyTorch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from albert_deploy.export.samples import SAMPLES
from albert_deploy.runtime.tasks.tokenize import load_tokenizer, windows
from albert_deploy.validation.data.datasets import read_data
from albert_deploy.validation.data.rows import QuestionRow
from albert_deploy.validation.scores.squad_answers import best_answers, null_score

FOLDER = SAMPLES["sample-squad"].checkpoint
LONGEST, N_BEST, QUERY = 30, 20, 64
# Rounding of a padded batch against a row alone, of logits up to about 20.
ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class Found:
    text: str
    score: float
    null: float


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import AlbertForQuestionAnswering

    torch.set_num_threads(1)
    return AlbertForQuestionAnswering.from_pretrained(FOLDER).eval()


def run(model: Any, feeds: dict[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    import torch

    with torch.inference_mode():
        out = model(**{name: torch.from_numpy(np.asarray(v)) for name, v in feeds.items()})
    return out.start_logits.numpy(), out.end_logits.numpy()


def reference(
    model: Any, tokenizer: Any, row: QuestionRow, limit: int, stride: int, *, masked: bool
) -> tuple[Found, bool]:
    """Answer as ``run_qa`` does; also tell whether the question took places among the best.

    With ``masked``, tokens outside of the context cannot be among the best.
    """
    batch = tokenizer(
        row.question.lstrip(),
        row.context,
        truncation="only_second",
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
        return_tensors="np",
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    starts, ends = run(model, {name: batch[name].astype(np.int64) for name in names})
    candidates, crowded = [], False
    for index in range(len(starts)):
        inside = [part == 1 for part in batch.sequence_ids(index)]
        spans = batch["offset_mapping"][index]
        begin, stop = starts[index].copy(), ends[index].copy()
        if masked:
            begin[~np.array(inside)] = stop[~np.array(inside)] = -np.inf
        first = np.argsort(begin)[-1 : -N_BEST - 1 : -1].tolist()
        last = np.argsort(stop)[-1 : -N_BEST - 1 : -1].tolist()
        crowded |= not all(inside[i] for i in (*first, *last))
        for i in first:
            for j in last:
                if inside[i] and inside[j] and i <= j < i + LONGEST:
                    score = float(starts[index, i] + ends[index, j])
                    candidates.append((score, int(spans[i][0]), int(spans[j][1])))
    null = min(float(s[0] + e[0]) for s, e in zip(starts, ends, strict=True))
    if not candidates:  # its own word for that
        return Found(text="empty", score=0.0, null=null), crowded
    score, begin_char, end_char = max(candidates, key=lambda c: c[0])
    return Found(text=row.context[begin_char:end_char], score=score, null=null), crowded


def ours(
    model: Any, tokenizer: Any, row: QuestionRow, limit: int, stride: int, query: int
) -> tuple[Found, Any]:
    laid = windows(
        tokenizer,
        row.question,
        row.context,
        max_length=limit,
        stride=stride,
        max_query_length=query,
    )
    pairs = [run(model, window.feeds) for window in laid]
    starts, ends = [s[0] for s, _ in pairs], [e[0] for _, e in pairs]
    answers = best_answers(laid, starts, ends, max_answer_tokens=LONGEST, n_best=N_BEST)
    found = Found(text=answers[0].text, score=answers[0].score, null=null_score(laid, starts, ends))
    return found, answers


def explained(mine: Found, answers: Any, theirs: Found, masked: Found, *, crowded: bool) -> str:
    """Return why two answers differ; empty where nothing explains it."""
    if mine.text == theirs.text:
        return "equal"
    if mine.text == theirs.text.strip():
        return "white space"
    if theirs.text == "empty":
        # No pair of its best starts and ends is an answer; we then try all pairs.
        return "no pair"
    texts = {a.text for a in answers if abs(a.score - mine.score) < ROUNDING}
    if abs(mine.score - theirs.score) < ROUNDING and theirs.text.strip() in texts:
        return "tie"
    # Without the question's tokens among its best, the reference finds this answer too.
    if crowded and mine.score > theirs.score and mine.text == masked.text.strip():
        return "question's tokens"
    return ""


def compare(model: Any, rows: list[QuestionRow], limit: int, stride: int) -> Counter[str]:
    from transformers import AutoTokenizer

    theirs_tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    tokenizer = load_tokenizer(FOLDER)
    reasons: Counter[str] = Counter()
    for row in rows:
        length = len(tokenizer.encode(row.question.lstrip(), add_special_tokens=False).ids)
        # BERT's script cuts a question to 64 tokens, and so do we; run_qa does not.
        mine, answers = ours(model, tokenizer, row, limit, stride, length)
        theirs, crowded = reference(model, theirs_tokenizer, row, limit, stride, masked=False)
        free, _ = reference(model, theirs_tokenizer, row, limit, stride, masked=True)
        reason = explained(mine, answers, theirs, free, crowded=crowded)
        assert reason, f"{row.id}: {mine} is not {theirs}"
        assert mine.null == pytest.approx(theirs.null, abs=ROUNDING)
        if reason == "equal":
            assert mine.score == pytest.approx(theirs.score, abs=ROUNDING)
        cut, _ = ours(model, tokenizer, row, limit, stride, QUERY)
        if cut.text != mine.text:
            assert length > QUERY
            reason = "question cut"
        reasons[reason] += 1
    return reasons


def questions(path: Path) -> list[QuestionRow]:
    return [row for row in read_data("squad", path).rows if isinstance(row, QuestionRow)]


@pytest.mark.medium
def test_answers_of_the_sample_are_the_references(model: Any) -> None:
    rows = questions(SAMPLES["sample-squad"].data)
    reasons = compare(model, rows[:: max(1, len(rows) // 200)][:200], 128, 32)
    print(dict(reasons))
    assert reasons.total() == 200
    assert reasons["equal"] >= 195


@pytest.mark.medium
def test_answers_in_long_contexts_are_the_references(model: Any, shared: Path) -> None:
    rows = questions(shared / "data" / "squad" / "dev-v1.1.json")
    reasons = compare(model, rows[::52][:200], 128, 32)
    print(dict(reasons))
    assert reasons.total() == 200
    assert reasons["equal"] + reasons["question's tokens"] >= 190
