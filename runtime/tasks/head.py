"""One text on its way through a model: the rows it makes, and what becomes of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from albert_deploy.runtime.options import Options
from albert_deploy.runtime.session import Feeds, Outputs
from albert_deploy.runtime.tasks.tokenize import encode

_MASK_TOKENS = ("[MASK]", "<mask>")
_UNKNOWN_TOKENS = ("[UNK]", "<unk>")


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """What of a deployment directory answers need, beside the model.

    Attributes:
        task: Key of ``TASKS``.
        family: ``albert`` or ``bert``.
        tokenizer: What ``load_tokenizer`` returned.
        labels: Names of the classes, in the order of the logits; empty where there are none.
        problem_type: Of the configuration: ``regression``, ``multi_label_classification`` …
        outputs: Names of the model's outputs, in the order of the contract.
        max_length: Most tokens of a row.
        pad_id: Token id of the padding.
        settings: Content of ``tokenizer_config.json``.
    """

    task: str
    family: str
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    problem_type: str | None
    outputs: tuple[str, ...]
    max_length: int
    pad_id: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mask_id(self) -> int | None:
        """Token id of the mask; None where the tokenizer has none."""
        return self._special("mask_token", _MASK_TOKENS)

    @property
    def unknown_id(self) -> int | None:
        """Token id of what the vocabulary does not hold; None where the tokenizer has none."""
        return self._special("unk_token", _UNKNOWN_TOKENS)

    def limit(self, given: int | None) -> int:
        """Return the most tokens of a row, where an option asks for fewer than the model takes."""
        return min(given or self.max_length, self.max_length)

    def encode(self, item: Mapping[str, Any], options: Options, row: str) -> Feeds:
        """Return the inputs of a text or a pair, each int64 [1, sequence].

        Raises:
            InputError: It is too long and may not be cut, or cannot be tokenized.
        """
        return encode(
            self.tokenizer,
            item["text"],
            item.get("text_pair"),
            max_length=self.limit(options.max_length),
            truncate=options.truncation,
            row=row,
        )

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Turn token ids into text, as transformers' ``decode`` does."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        if self.settings.get("clean_up_tokenization_spaces"):
            for sign in (".", "?", "!", ","):
                text = text.replace(f" {sign}", sign)
            text = text.replace(" ' ", "'")
            for ending in ("n't", "'m", "'s", "'ve", "'re"):
                text = text.replace(f" {ending}", ending)
        return text

    def join(self, tokens: Sequence[str]) -> str:
        """Turn tokens into text, as transformers' ``convert_tokens_to_string`` does."""
        decoder = self.tokenizer.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def _special(self, key: str, usual: Sequence[str]) -> int | None:
        named = self.settings.get(key)
        named = named.get("content") if isinstance(named, dict) else named
        for token in (named,) if isinstance(named, str) else usual:
            if (found := self.tokenizer.token_to_id(token)) is not None:
                return int(found)
        return None


def keep_all(outputs: Outputs, feeds: Feeds) -> Outputs:
    """Keep every output of a row without an axis of tokens."""
    return {name: value.copy() for name, value in outputs.items()}


def keep_tokens(outputs: Outputs, feeds: Feeds) -> Outputs:
    """Keep every output of a row, without the padding of its first axis, that of tokens."""
    length = feeds["input_ids"].shape[1]
    return {name: value[:length].copy() for name, value in outputs.items()}


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A text that was tokenized, and how its answer is made.

    Attributes:
        rows: Its rows, each with inputs int64 [1, sequence], or [choices, sequence] for one row
            of a multiple choice. Without rows the answer is known already.
        answer: Makes the answer from what was kept of each row's outputs, in order.
        keep: What is kept of a row's outputs, without their batch axis: ``keep(outputs, feeds)``.
            It copies, as the outputs of a batch are large.
    """

    rows: Sequence[Feeds]
    answer: Callable[[list[Outputs]], Any]
    keep: Callable[[Outputs, Feeds], Outputs] = keep_all


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return probabilities along the last axis, float64."""
    values = np.asarray(logits, np.float64)
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the probability of each class by itself, float64, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64))))
