"""The heads, one literal table: task to how an input becomes rows and an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from albert_deploy.runtime.options import Options
from albert_deploy.runtime.tasks.classification import (
    prepare_choices,
    prepare_features,
    prepare_text,
)
from albert_deploy.runtime.tasks.fill_mask import prepare_masked, prepare_pretraining
from albert_deploy.runtime.tasks.head import Prepared, TaskInfo
from albert_deploy.runtime.tasks.question_answering import prepare_question
from albert_deploy.runtime.tasks.token_classification import prepare_tokens

_Prepare = Callable[[TaskInfo, dict[str, Any], Options, str], Prepared]


@dataclass(frozen=True, kw_only=True)
class Head:
    """How one task becomes rows and answers.

    Args:
        prepare: ``prepare(facts, item, options, row)`` of one input that ``inputs.item`` checked.
        tokens: Most tokens of a batch, padding included, so that outputs stay small: of the
            heads with a vocabulary each token has up to 120 kB.
        lone_is_bare: A list of one input gives its answer without a list, as transformers does.
    """

    prepare: _Prepare
    tokens: int = 16_384
    lone_is_bare: bool = False


HEADS: dict[str, Head] = {
    "feature-extraction": Head(prepare=prepare_features),
    "pretraining": Head(prepare=prepare_pretraining, tokens=1024),
    "fill-mask": Head(prepare=prepare_masked, tokens=1024, lone_is_bare=True),
    "text-classification": Head(prepare=prepare_text),
    "multiple-choice": Head(prepare=prepare_choices),
    "token-classification": Head(prepare=prepare_tokens),
    "question-answering": Head(prepare=prepare_question, lone_is_bare=True),
}
