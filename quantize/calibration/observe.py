"""Calibration: run real texts through the float32 graph and watch its activations."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from tqdm import tqdm

from albert_deploy.export.graph.uses import Use, activations, find_uses
from albert_deploy.quantize.calibration.statistics import Statistics, observe
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
    from albert_deploy.export.graph.file import save
    from albert_deploy.runtime.engines.ort import open_ort

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
        raise InputError("got no calibration rows; give some with `calibration` NAME=PATH")
    return found


Matrix = npt.NDArray[np.float64]

# Tokens that the second moments of a weight are taken from, for each of its inputs: enough for
# a matrix of full rank, and a bound on the work for wide layers with many uses.
_TOKENS_PER_INPUT = 8
# Tokens that wait for one product.
_BATCH = 2048


@dataclass(kw_only=True)
class Inputs:
    """What calibration knows of a graph's activations.

    Attributes:
        statistics: Statistics by value name.
        moments: Mean of ``x.T @ x`` over the tokens of *all* uses of a weight, [inputs, inputs]
            by weight; empty where it was not asked for.
        means: Mean input over the same tokens, [inputs] by weight.
    """

    statistics: dict[str, Statistics]
    moments: dict[str, Matrix] = field(default_factory=dict)
    means: dict[str, Matrix] = field(default_factory=dict)


def watch_inputs(
    model: ir.Model, rows: Iterable[Row], *, count: int, moments: bool = True
) -> Inputs:
    """Run calibration rows and collect what quantization needs.

    Args:
        model: Normalized float32 graph.
        rows: Texts.
        count: Number of rows.
        moments: Collect second moments and means too.

    Raises:
        InputError: There are no rows, or an activation is not finite.
    """
    uses = find_uses(model)
    gathered = _Moments(uses, count) if moments else None
    watchers: list[Watcher] = [gathered.add] if gathered else []
    found = calibrate(model, activations(uses), rows, total=count, watchers=watchers)
    if gathered is None:
        return Inputs(statistics=found)
    return Inputs(
        statistics=found,
        moments=gathered.by_weight(gathered.squares),
        means=gathered.by_weight(gathered.sums),
    )


class _Moments:
    """Sums over tokens, one for each set of values that weights read.

    Query, key and value read the same ones, so theirs is kept once.
    """

    def __init__(self, uses: Sequence[Use], rows: int) -> None:
        reads: defaultdict[str, list[str]] = defaultdict(list)
        for use in uses:
            if use.weight:
                reads[use.weight].append(use.inputs[0])
        self.keys = {weight: tuple(values) for weight, values in reads.items()}
        self.groups: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
        for key in self.keys.values():
            for value in key:
                self.groups[value].add(key)
        self.rows = rows
        self.squares: dict[tuple[str, ...], Matrix] = {}
        self.sums: dict[tuple[str, ...], Matrix] = {}
        self.tokens: defaultdict[tuple[str, ...], int] = defaultdict(int)
        self.waiting: defaultdict[tuple[str, ...], list[npt.NDArray[np.float32]]] = defaultdict(
            list
        )

    def add(self, value: str, activation: npt.NDArray[np.float32]) -> None:
        """Add one activation of one row."""
        for key in self.groups.get(value, ()):
            tokens = as_tokens(activation)
            wanted = -(-_TOKENS_PER_INPUT * tokens.shape[1] // (self.rows * len(key)))
            tokens = tokens[:: max(1, len(tokens) // wanted)]
            self.waiting[key].append(tokens.copy())
            if sum(map(len, self.waiting[key])) >= _BATCH:
                self._flush(key)

    def _flush(self, key: tuple[str, ...]) -> None:
        """Add what waits: one product for many tokens, as the matrices are large."""
        tokens = np.concatenate(self.waiting.pop(key))
        square = (tokens.T @ tokens).astype(np.float64)
        if key in self.squares:
            self.squares[key] += square
            self.sums[key] += tokens.sum(axis=0, dtype=np.float64)
        else:
            self.squares[key] = square
            self.sums[key] = tokens.sum(axis=0, dtype=np.float64)
        self.tokens[key] += len(tokens)

    def by_weight(self, sums: dict[tuple[str, ...], Matrix]) -> dict[str, Matrix]:
        for key in list(self.waiting):
            self._flush(key)
        means = {key: total / self.tokens[key] for key, total in sums.items()}
        return {weight: means[key] for weight, key in self.keys.items()}


def as_tokens(activation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return an activation as [tokens, channels], heads [rows, heads, sequence, size] joined."""
    if activation.ndim == 4:
        activation = activation.transpose(0, 2, 1, 3)
        return activation.reshape(-1, activation.shape[2] * activation.shape[3])
    return activation.reshape(-1, activation.shape[-1])
