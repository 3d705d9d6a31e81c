"""What transformers answers with a checkpoint, by its pipelines or, without one, by its models."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tagged

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime.contract import TASKS

CONTEXT = "The river was long and warm. A film of the river is in  Paris, not in London!"
CLOSE = 1e-4

Deployed = Callable[..., tuple[Path, Path]]


def deployments(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Deployed:
    """A function that gives checkpoint and deployment directory of a task."""

    @functools.cache
    def make(task: str, family: str = "albert", **config: Any) -> tuple[Path, Path]:
        checkpoint = make_checkpoint(task, family, **tagged(task), **config)
        out = tmp_path_factory.mktemp(task) / "out"
        export(str(checkpoint), ExportConfig(task=task), out=out)
        return checkpoint, out

    return make


def pipeline(task: str, checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.pipeline(task, model=str(checkpoint), device="cpu")


def source(task: str, checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    name = f"Albert{TASKS[task].architecture}"
    return getattr(transformers, name).from_pretrained(checkpoint).eval()


def tokenizer_of(checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(checkpoint)


def assert_same(found: Any, wanted: Any) -> None:
    """Same form, keys and values, numbers within 1e-4; JSON tells NumPy's numbers from Python's."""
    json.dumps(found)
    if isinstance(wanted, dict):
        assert isinstance(found, dict)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same(found[key], value)
    elif isinstance(wanted, list):
        assert isinstance(found, list)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, float | np.floating):
        assert found == pytest.approx(float(wanted), abs=CLOSE)
    else:
        assert found == wanted


def both_heads(checkpoint: Path, text: str, pair: str, top_k: int) -> tuple[Any, Any, Any]:
    """Token ids and scores of each mask, and what is said of the order of the segments."""
    torch = pytest.importorskip("torch")
    tokenizer = tokenizer_of(checkpoint)
    feeds = tokenizer(text, pair, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        told = source("pretraining", checkpoint)(**feeds)
    places = (feeds["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    words = told.prediction_logits[0, places].softmax(-1).topk(top_k)
    order = told.sop_logits[0].softmax(-1).tolist()
    label = ("in order", "swapped")[int(np.argmax(order))]
    said = {"label": label, "score": max(order), "scores": order}
    return words.indices.tolist(), words.values.tolist(), said


def chosen(checkpoint: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What a multiple choice should be answered with."""
    torch = pytest.importorskip("torch")
    second = [f"{asked.get('question', '')} {choice}".strip() for choice in asked["choices"]]
    feeds = tokenizer_of(checkpoint)(
        [asked["context"]] * len(second),
        second,
        padding=True,
        return_tensors="pt",
        return_token_type_ids=True,
    )
    with torch.no_grad():
        told = source("multiple-choice", checkpoint)(**{k: v[None] for k, v in feeds.items()})
    scores = told.logits[0].softmax(-1).tolist()
    best = int(np.argmax(scores))
    choice = asked["choices"][best]
    return {"index": best, "choice": choice, "score": scores[best], "scores": scores}


def read(
    checkpoint: Path, question: str, context: str, *, top_k: int, longest: int = 15
) -> tuple[int, list[dict[str, Any]], float]:
    """Windows of 64 tokens, the best answers of bare tokens, and the score of the empty one.

    Written from what transformers 4 documents of its pipeline, slowly: every span of every window.
    """
    torch = pytest.importorskip("torch")
    rows = tokenizer_of(checkpoint)(
        question,
        context,
        truncation="only_second",
        max_length=64,
        stride=32,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    plain, null = source("question-answering", checkpoint), 1.0
    every: dict[str, list[Any]] = {}
    names = ("input_ids", "attention_mask", "token_type_ids")
    for row in range(len(rows["input_ids"])):
        with torch.no_grad():
            told = plain(**{name: torch.tensor([rows[name][row]]) for name in names})
        allowed = [i for i, part in enumerate(rows.sequence_ids(row)) if part == 1]
        both = []
        for logits in (told.start_logits, told.end_logits):
            kept = np.exp([float(logits[0, i]) for i in (0, *allowed)])
            both.append(dict(zip((0, *allowed), kept / kept.sum(), strict=True)))
        offsets = rows["offset_mapping"][row]
        spans = [
            (both[0][i] * both[1][j], offsets[i][0], offsets[j][1])
            for i in allowed
            for j in allowed
            if i <= j < i + longest
        ]
        # As many as are asked for of each window are what the pipeline adds up.
        for score, start, end in sorted(spans, reverse=True)[:top_k]:
            kept = every.setdefault(context[start:end].lower(), [0.0, start, end])
            kept[0] += score
        null = min(null, both[0][0] * both[1][0])
    best = sorted(every.values(), reverse=True)[:top_k]
    answers = [{"score": s, "start": a, "end": b, "answer": context[a:b]} for s, a, b in best]
    return len(rows["input_ids"]), answers, null
