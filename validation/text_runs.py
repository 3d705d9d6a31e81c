"""Runs the same texts through an artifact and the source, padded and hidden in many ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES, SEQUENCE
from albert_deploy.runtime.session import Session

Ints = npt.NDArray[np.int64]
Outputs = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs of some texts: ``ids``, ``mask`` and ``types``, each int64 [texts, tokens]."""

    ids: Ints
    mask: Ints
    types: Ints

    def __getitem__(self, rows: slice) -> Inputs:
        """Return some of the texts."""
        return Inputs(ids=self.ids[rows], mask=self.mask[rows], types=self.types[rows])

    def padded(self, left: int, right: int, pad: int) -> Inputs:
        """Return the texts with padding, which the mask hides."""
        sides = ((0, 0), (left, right))
        return Inputs(
            ids=np.pad(self.ids, sides, constant_values=pad),
            mask=np.pad(self.mask, sides),
            types=np.pad(self.types, sides),
        )


class Runs:
    """Runs texts, whatever the rank of the inputs, and compares what the mask does not hide."""

    def __init__(self, session: Session, source: Session, contract: Mapping[str, Any]) -> None:
        self._session, self._source = session, source
        self.choices = 2 if CHOICES in contract["inputs"][0]["axes"] else 1
        self.longest = int(contract["max_length"])
        self.pad = int(contract["pad_token_id"])
        self._outputs = {o["name"]: SEQUENCE in o["axes"] for o in contract["outputs"]}

    def variant(
        self, inputs: Inputs, batch: int | None = None, *, seen: Ints | None = None
    ) -> Outputs:
        """Return the artifact's outputs, those of tokens where the mask is not 0 alone.

        Args:
            inputs: Texts.
            batch: Texts of a run, or texts with choices; None takes all at once.
            seen: Mask to go by instead of the texts' own.
        """
        return self._run(self._session, inputs, batch, seen)

    def source(
        self, inputs: Inputs, batch: int | None = None, *, seen: Ints | None = None
    ) -> Outputs:
        """Return the source's outputs likewise."""
        return self._run(self._source, inputs, batch, seen)

    def _run(
        self, session: Session, inputs: Inputs, batch: int | None, seen: Ints | None
    ) -> Outputs:
        mask = inputs.mask if seen is None else seen
        count = (batch or len(inputs.ids)) * (self.choices if batch else 1)
        parts: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in self._outputs}
        for start in range(0, len(inputs.ids), count):
            some = inputs[start : start + count]
            arrays: list[Ints] = [some.ids, some.mask, some.types]
            if self.choices > 1:
                arrays = [x.reshape(-1, self.choices, x.shape[-1]) for x in arrays]
            values = session.run(dict(zip(INPUT_NAMES, arrays, strict=True)))
            for name, per_token in self._outputs.items():
                value = values[name].astype(np.float64)
                if self.choices > 1:
                    value = value.reshape(len(some.ids), *value.shape[2:])
                # What the mask hides has no meaning, but where it hides all, nothing else is left.
                part = mask[start : start + count]
                chosen = (part > 0) | ~part.any(axis=-1, keepdims=True)
                parts[name].append(value[chosen] if per_token else value)
        return {name: np.concatenate(part) for name, part in parts.items()}

    def padding(self, inputs: Inputs) -> int:
        """Return how much padding the checks add, in tokens: a third, where there is room."""
        length = int(inputs.ids.shape[1])
        return min(max(length // 3, 1), self.longest - length)

    def texts(self, texts: Sequence[Ints], *, rows: int, length: int, seed: int) -> Inputs:
        """Return texts of one length, joined where they are too short, without padding.

        Args:
            texts: Token ids of real texts, each int64 [tokens].
            rows: Number of texts; of texts with choices.
            length: Tokens of each.
            seed: Seed of which texts.
        """
        random = np.random.default_rng(seed)
        ids = np.empty((rows * self.choices, length), np.int64)
        for row in ids:
            first = int(random.integers(len(texts)))
            row[:] = np.resize(np.concatenate([*texts[first:], *texts[:first]]), length)
        return Inputs(ids=ids, mask=np.ones_like(ids), types=np.zeros_like(ids))


def holed(inputs: Inputs, seed: int) -> Inputs:
    """Hide a third of the tokens of each text, never the first: heads read it."""
    random = np.random.default_rng(seed)
    mask = inputs.mask.copy()
    for row in mask:
        seen = np.flatnonzero(row)[1:]
        row[random.choice(seen, len(seen) // 3, replace=False)] = 0
    return Inputs(ids=inputs.ids, mask=mask, types=inputs.types)
