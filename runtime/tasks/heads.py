"""The heads, one literal table: task to how an input becomes rows and an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from albert_deploy.runtime.options import Options
from albert_deploy.runtime.tasks.classification import (
    encode_choices,
    encode_features,
    encode_text,
)
from albert_deploy.runtime.tasks.fill_mask import encode_masked, encode_pretraining
from albert_deploy.runtime.tasks.head import Encoded, TaskInfo
from albert_deploy.runtime.tasks.question_answering import encode_question
from albert_deploy.runtime.tasks.token_classification import encode_tokens

_Encode = Callable[[TaskInfo, dict[str, Any], Options, str], Encoded]


@dataclass(frozen=True, kw_only=True)
class Head:
    """How one task becomes rows and answers.

    Args:
        encode: ``encode(info, item, options, row)`` of one input that ``inputs.item`` checked.
        tokens: Most tokens of a batch, padding included, so that outputs stay small: of the
            heads with a vocabulary each token has up to 120 kB.
        lone_is_bare: A list of one input gives its answer without a list, as transformers does.
    """

    encode: _Encode
    tokens: int = 16_384
    lone_is_bare: bool = False


HEADS: dict[str, Head] = {
    "feature-extraction": Head(encode=encode_features),
    "pretraining": Head(encode=encode_pretraining, tokens=1024),
    "fill-mask": Head(encode=encode_masked, tokens=1024, lone_is_bare=True),
    "text-classification": Head(encode=encode_text),
    "multiple-choice": Head(encode=encode_choices),
    "token-classification": Head(encode=encode_tokens),
    "question-answering": Head(encode=encode_question, lone_is_bare=True),
}
