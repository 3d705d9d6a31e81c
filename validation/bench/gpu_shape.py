"""One shape of a GPU benchmark: every contender made ready, timed in turns, and set down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.bench.gpu_journal import Journal
from albert_deploy.validation.bench.gpu_turns import (
    Cell,
    Device,
    Entrant,
    Logits,
    Pace,
    Run,
    Runner,
    prepare_cell,
    relative_error,
    time_cells,
)
from albert_deploy.validation.bench.workload import random_row


class Model(Protocol):
    """One geometry, ready to be run in many ways.

    Attributes:
        name: Key in the report.
        manifest: Of its deployment directory.
    """

    name: str
    manifest: Mapping[str, Any]

    def entrants(self) -> Sequence[Entrant]:
        """Return who runs it."""
        ...

    def reference(self, feeds: Feeds) -> Logits:
        """Return the float32 logits of the source."""
        ...

    def operations(self, batch: int, tokens: int) -> float | None:
        """Return the operations of its matrix products; None where they are not known."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what the report says of it."""
        ...


def measure_shape(
    model: Model,
    shape: tuple[int, int],
    runners: Mapping[str, Runner],
    journal: Journal,
    device: Device,
    pace: Pace,
    *,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Measure one shape with every contender that is open, and write it into the journal.

    Args:
        model: Whose part of the journal it is.
        shape: Batch and tokens.
        runners: Open contenders.
        journal: Written after each contender's first runs, and at the end.
        device: What they run on.
        pace: How often.
        seed: Of the token ids.
        done: Called after each step.
    """
    batch, tokens = shape
    part, key = journal.geometry(model.name), shape_key(batch, tokens)
    feeds = random_batch(model.manifest, batch, tokens, seed=seed)
    operations = model.operations(batch, tokens)
    cells: dict[str, Cell] = {}
    told = {"batch": batch, "tokens": tokens, "operations": operations, "cells": cells}
    part["shapes"][key] = told | {"done": False}
    runs: dict[str, Run] = {}
    wanted: Logits | None = None
    for name, runner in runners.items():
        entrant = part["entrants"][name]
        with journal.under_way(geometry=model.name, entrant=name, doing=f"the first run of {key}"):
            run, cell, logits = prepare_cell(runner, feeds, pace, device)
        cells[name] = _with_memory(cell, entrant)
        if run is not None and logits is not None:
            runs[name] = run
            if "relative_error" not in entrant:
                wanted = model.reference(feeds) if wanted is None else wanted
                entrant["relative_error"] = relative_error(logits, wanted)
        journal.save()
        done()
    for name, found in time_cells(runs, runners, pace, device, done=done).items():
        cells[name] |= found
        _derive(cells[name], part["entrants"][name], batch, operations, journal.report["peaks"])
    part["shapes"][key] |= {"done": True}
    journal.save()


def _with_memory(cell: Cell, entrant: dict[str, Any]) -> Cell:
    """Add what the contender holds in all: what stayed with it so far, and what this took."""
    held = entrant.setdefault("held_bytes", entrant["open_bytes"])
    taken, kept = cell["shape_bytes"], cell.pop("kept_bytes")
    cell["memory_bytes"] = None if None in (held, taken) else held + taken
    entrant["held_bytes"] = None if None in (held, kept) else held + kept
    return cell


def _derive(
    cell: Cell,
    entrant: Mapping[str, Any],
    batch: int,
    operations: float | None,
    peaks: Mapping[str, Any],
) -> None:
    """Add ``samples_per_s``, ``gops`` and ``peak_share``, all at the median."""
    if cell["error"] is not None:
        return
    cell["samples_per_s"] = round(batch / cell["p50_ms"] * 1e3, 2)
    gops = None if operations is None else operations / cell["p50_ms"] / 1e6
    peak = peaks.get(entrant["data_type"])
    cell["gops"] = gops
    cell["peak_share"] = gops / peak["gops"] if gops is not None and peak else None


def random_batch(manifest: Mapping[str, Any], batch: int, tokens: int, *, seed: int) -> Feeds:
    """Return rows of random ids without padding, all int64 [batch, tokens]."""
    rows = [random_row(manifest, tokens, seed=seed + i) for i in range(batch)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def shape_key(batch: int, tokens: int) -> str:
    """Return the name of a shape in the report."""
    return f"{batch}x{tokens}"
