"""The one way to run a model: a ``Session``, whatever the engine behind it; imports no engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, npt.NDArray[np.int64]]
Outputs = dict[str, npt.NDArray[Any]]


class Session(Protocol):
    """A loaded model.

    Attributes:
        engine: Who runs it: a key of ``ENGINES``, or ``torch`` for the source.
        outputs: Names of its outputs, in the order of the contract.
    """

    engine: str
    outputs: tuple[str, ...]

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """Run once.

        Args:
            feeds: ``input_ids``, ``attention_mask``, ``token_type_ids``, int64, all
                [batch, sequence] or [batch, choices, sequence].

        Returns:
            Every output by name, float32.

        Raises:
            InputError: A feed is missing, unknown, of the wrong shape or not int64.
        """
        ...

    def close(self) -> None:
        """Free the model; the session cannot run any more."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_feeds(feeds: Feeds, ranks: Mapping[str, int]) -> None:
    """Fail where feeds are not what a model takes, in every engine alike.

    Args:
        feeds: What was given.
        ranks: Number of axes of each input of the model, which share one shape.

    Raises:
        InputError: A feed is missing, unknown, of the wrong shape or not int64.
    """
    shapes = {name: np.shape(value) for name, value in feeds.items()}
    if set(shapes) != set(ranks):
        raise InputError(f"got inputs {', '.join(sorted(shapes))}; wanted {', '.join(ranks)}")
    if len(set(shapes.values())) > 1 or any(len(s) != ranks[n] for n, s in shapes.items()):
        rank = next(iter(ranks.values()))
        raise InputError(f"got shapes {shapes}; wanted one common shape of rank {rank}")
    kinds = {name: str(np.asarray(value).dtype) for name, value in feeds.items()}
    if set(kinds.values()) != {"int64"}:
        raise InputError(f"got data types {kinds}; wanted int64: convert with .astype('int64')")
