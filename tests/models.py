"""Models that more than one folder of tests makes: see ``make_checkpoint`` in conftest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

# Heads of 16, the least that TensorRT fuses. The files of these are validated in the tests of the
# export and built in those of the engines, from one export.
FUSED: dict[str, Any] = {"num_attention_heads": 2}

# A vocabulary whose matrix, were it stored twice, would break the byte budget.
PRETRAINING: dict[str, Any] = {"vocab_size": 20000}

# name -> task, family and configuration, all with few layers.
SHALLOW: dict[str, tuple[str, str, dict[str, int]]] = {
    "text-classification": ("text-classification", "albert", {}),
    "fill-mask": ("fill-mask", "albert", {"vocab_size": 1000, "num_hidden_layers": 2}),
    "question-answering": ("question-answering", "bert", {"num_hidden_layers": 2}),
    "multiple-choice": ("multiple-choice", "bert", {"num_hidden_layers": 2}),
}

TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def tagged(task: str) -> dict[str, Any]:
    """Return the configuration that gives a token classifier ``TAGS``, and others nothing."""
    if task != "token-classification":
        return {}
    return {"id2label": dict(enumerate(TAGS)), "label2id": {t: i for i, t in enumerate(TAGS)}}


# What can differ between two ALBERTs, each away from the values of ``make_checkpoint``.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "v1 gelu": {"hidden_act": "gelu"},
    "v2 gelu_new": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu"},
    "three groups": {"num_hidden_groups": 3},
    "two inner layers": {"inner_group_num": 2},
    "two groups of two inner layers": {
        "num_hidden_layers": 4,
        "num_hidden_groups": 2,
        "inner_group_num": 2,
    },
    "deep": {"num_hidden_layers": 24},
    "embedding larger than hidden": {"embedding_size": 48},
    "heads of eight": {"num_attention_heads": 4},
    "seventeen positions": {"max_position_embeddings": 17},
    "one type": {"type_vocab_size": 1},
    "five types": {"type_vocab_size": 5},
    "chunked feed-forward": {"chunk_size_feed_forward": 4},
    "five labels": {"num_labels": 5},
    "regression": {"num_labels": 1, "problem_type": "regression"},
    "multi-label": {"num_labels": 4, "problem_type": "multi_label_classification"},
}


def with_medium(names: Iterable[str], fast: Iterable[str]) -> list[Any]:
    """Return names as parameters, of which all but the fast ones are left to `make test`."""
    kept = set(fast)
    return [n if n in kept else pytest.param(n, marks=pytest.mark.medium) for n in names]
