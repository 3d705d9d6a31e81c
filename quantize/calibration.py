"""Calibration: run real texts through the float32 graph and watch its activations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from tqdm import tqdm

from albert_deploy.quantize.statistics import Statistics, observe
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds, Session

# Called with a value's name and what one row makes of it.
Watcher = Callable[[str, npt.NDArray[np.float32]], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One calibration text: its name in its data set and its inputs, unpadded, batch 1."""

    id: str
    feeds: Feeds


@contextmanager
def tapped(model: ir.Model, values: Iterable[str]) -> Iterator[Session]:
    """Open a session whose outputs are inner values of a graph.

    Args:
        model: Float32 graph; left as it was.
        values: Names of the values.
    """
    from albert_deploy.export.onnx_file import save
    from albert_deploy.runtime.ort import open_ort

    by_name = {v.name: v for node in model.graph for v in node.outputs}
    before = list(model.graph.outputs)
    model.graph.outputs[:] = [by_name[name] for name in values]
    try:
        with tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder:
            path = Path(folder) / "tapped.onnx"
            save(model, path)
            with open_ort(path) as session:
                yield session
    finally:
        model.graph.outputs[:] = before


def calibrate(
    model: ir.Model,
    labels: Mapping[str, str],
    rows: Iterable[Row],
    *,
    total: int | None = None,
    watchers: Sequence[Watcher] = (),
    histograms: bool = True,
) -> dict[str, Statistics]:
    """Collect the statistics of activations over rows, one row in memory at a time.

    Args:
        model: Float32 graph.
        labels: Value name -> name for people.
        rows: Texts.
        total: Number of rows, for the progress bar.
        watchers: Called with every activation too.
        histograms: Count values too; without it extremes and channel peaks alone are kept.

    Returns:
        Statistics by value name.

    Raises:
        InputError: There are no rows, or an activation is not finite; names it and the row.
    """
    found: dict[str, Statistics] = {}
    sequences = {v.name for n in model.graph if n.op_type == "Softmax" for v in n.outputs}
    with tapped(model, labels) as session:
        bar = tqdm(rows, total=total, desc="calibration", unit="row", disable=None, leave=False)
        for row in bar:
            for name, values in session.run(row.feeds).items():
                if not np.isfinite(values).all():
                    raise InputError(
                        f"{labels[name]} is NaN or infinite on calibration row {row.id}; the "
                        "checkpoint overflows on this text: check its weights"
                    )
                channels = histograms and name not in sequences
                known = found.get(name)
                found[name] = observe(
                    values, labels[name], known, channels=channels, count=histograms
                )
                for watcher in watchers:
                    watcher(name, values)
    if not found:
        raise InputError("got no calibration rows; give some with --calibration NAME=PATH")
    return found
