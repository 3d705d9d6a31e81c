"""Arrays of the runs that cover a batch: rows taken and padded, outputs cropped and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import BATCH
from albert_deploy.runtime.session import Feeds
from albert_deploy.runtime.shapes import AXES, Run, Shape

_TOKENS = "input_ids"

Outputs = dict[str, npt.NDArray[np.float32]]


def padded_rows(feeds: Feeds, run: Run, pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return the inputs of one run.

    Rows are padded with tokens that the mask hides. Rows and choices that a profile wants beside
    the batch's repeat the last one: one that is hidden altogether would divide nothing by nothing
    in its softmax, and some engines stop there.

    Args:
        feeds: Of the whole batch, each int64 [batch, (choices,) sequence].
        run: One of ``shapes.plan_runs``.
        pad_id: Token id of the padding.

    Returns:
        The same inputs, each int64 of ``run.shape``.
    """
    return {
        name: _padded(value[run.start : run.stop], run.shape, pad_id if name == _TOKENS else 0)
        for name, value in feeds.items()
    }


def joined_outputs(
    parts: Sequence[Outputs],
    runs: Sequence[Run],
    shape: Shape,
    axes: Mapping[str, Sequence[str | int]],
) -> Outputs:
    """Return the outputs of a whole batch from those of its runs, without what was padded.

    Args:
        parts: Outputs of each run.
        runs: Those runs, in the order of the batch.
        shape: Of the batch's inputs.
        axes: Axes of each output, as the contract names them.
    """
    sizes = dict(zip(AXES[len(shape)], shape, strict=True))
    joined = {}
    for name, named in axes.items():
        pieces = []
        for part, run in zip(parts, runs, strict=True):
            kept = sizes | {BATCH: run.rows}
            cut = tuple(slice(kept[a] if isinstance(a, str) else None) for a in named)
            pieces.append(part[name][cut])
        joined[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return joined


def _padded(value: npt.NDArray[np.int64], shape: Shape, fill: int) -> npt.NDArray[np.int64]:
    missing = [(0, wanted - got) for got, wanted in zip(value.shape, shape, strict=True)]
    value = np.pad(value, [(0, 0)] * (value.ndim - 1) + missing[-1:], constant_values=fill)
    return np.pad(value, [*missing[:-1], (0, 0)], mode="edge")
