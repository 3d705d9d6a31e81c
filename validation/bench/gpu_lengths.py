"""Throughput over real lengths on a GPU: batches as rows come, and rows of a length together."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.bench.gpu_turns import Device, Run, Runner, reason
from albert_deploy.validation.bench.interleave import rotated

# Rows in their order, each batch padded to its longest row; rows of a bucket together, padded
# to the longest that the bucket takes; every row padded to the last bucket (only counted).
ARRIVAL, BUCKETS, FIXED = "arrival", "buckets", "fixed"
POLICIES = (ARRIVAL, BUCKETS)


@dataclass(frozen=True, kw_only=True)
class LengthsConfig:
    """How real lengths are run.

    Args:
        batch: Most rows of a batch.
        passes: Most timed passes over the rows.
    """

    batch: int = 32
    passes: int = 10


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The lengths of a data set's rows.

    Args:
        name: Key in the report.
        lengths: Tokens of each row, in the order in which rows come.
        edges: Longest row of each bucket, rising; the last is at least the longest row.

    Raises:
        InputError: There are no rows, or they do not fit the buckets.
    """

    name: str
    lengths: tuple[int, ...]
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.lengths or min(self.lengths) < 1:
            raise InputError(f"{self.name} has no rows of 1 token or more; give data with rows")
        rising = list(self.edges) == sorted(set(self.edges))
        if not self.edges or not rising or self.edges[-1] < max(self.lengths):
            raise InputError(
                f"got buckets {self.edges} for {self.name}; wanted rising lengths up to its "
                f"longest row, of {max(self.lengths)} tokens"
            )

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.lengths)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows that run together.

    Attributes:
        lengths: Tokens of each row.
        width: Tokens that each is padded to.
    """

    lengths: tuple[int, ...]
    width: int

    @property
    def tokens(self) -> int:
        """Tokens that the engine computes."""
        return self.width * len(self.lengths)


def batches(distribution: Distribution, policy: str, size: int) -> list[Batch]:
    """Put rows together.

    Args:
        distribution: The rows.
        policy: ``arrival``, ``buckets`` or ``fixed``.
        size: Most rows of a batch.
    """
    edges = distribution.edges
    if policy == BUCKETS:
        groups: list[list[int]] = [[] for _ in edges]
        for length in distribution.lengths:
            groups[bisect.bisect_left(edges, length)].append(length)
        return [
            Batch(lengths=chunk, width=edge)
            for edge, group in zip(edges, groups, strict=True)
            for chunk in _chunks(group, size)
        ]
    return [
        Batch(lengths=chunk, width=max(chunk) if policy == ARRIVAL else edges[-1])
        for chunk in _chunks(distribution.lengths, size)
    ]


def _chunks(lengths: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(lengths[i : i + size]) for i in range(0, len(lengths), size)]


def padding(distribution: Distribution, size: int) -> dict[str, dict[str, Any]]:
    """Return by policy ``batches``, ``shapes`` (different ones), ``tokens`` and ``work``.

    ``work`` is the computed tokens over the real ones: 1 is no padding at all.
    """
    real = sum(distribution.lengths)
    found = {}
    for policy in (*POLICIES, FIXED):
        made = batches(distribution, policy, size)
        tokens = sum(batch.tokens for batch in made)
        found[policy] = {
            "batches": len(made),
            "shapes": len({(len(batch.lengths), batch.width) for batch in made}),
            "tokens": tokens,
            "work": round(tokens / real, 4),
        }
    return found


def padded_batch(manifest: Mapping[str, Any], batch: Batch, *, seed: int) -> Feeds:
    """Return random ids with padding and its mask, all int64 [rows, width]."""
    vocabulary = int(manifest["source"]["config"]["vocab_size"])
    shape = (len(batch.lengths), batch.width)
    ids = np.random.default_rng(seed).integers(0, vocabulary, shape, dtype=np.int64)
    real = np.arange(batch.width) < np.array(batch.lengths)[:, np.newaxis]
    mask = real.astype(np.int64)
    ids *= mask
    return dict(zip(INPUT_NAMES, (ids, mask, np.zeros_like(ids)), strict=True))


def run_lengths(
    distribution: Distribution,
    runners: Mapping[str, Runner],
    manifest: Mapping[str, Any],
    config: LengthsConfig,
    device: Device,
    seconds: float,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Time passes over all rows, the contenders and the policies in turns.

    The first pass of each is not timed: engines prepare themselves for its shapes there.

    Args:
        distribution: The rows.
        runners: Contenders.
        manifest: Of the model's deployment directory.
        config: Options.
        device: The clock.
        seconds: No new timed pass starts after this time, but one is always run.
        done: Called after each pass.

    Returns:
        ``rows``, ``batch``, ``real_tokens``, ``edges``, ``padding`` and, by contender under
        ``cells``, ``error`` or for each policy ``passes``, ``p50_ms`` of a pass,
        ``samples_per_s`` and real ``tokens_per_s``.
    """
    real = sum(distribution.lengths)
    cells: dict[str, Any] = {}
    feeds = {
        policy: [
            padded_batch(manifest, batch, seed=i)
            for i, batch in enumerate(batches(distribution, policy, config.batch))
        ]
        for policy in POLICIES
    }
    times: dict[tuple[str, str], list[float]] = {}
    passes: dict[tuple[str, str], list[Run]] = {}
    begin = device.clock()
    for name, runner in runners.items():
        try:
            for policy in POLICIES:
                passes[name, policy] = [runner.prepare(f) for f in feeds[policy]]
                _pass(passes[name, policy], device)
                times[name, policy] = []
                done()
        except Exception as failure:
            cells[name] = {"error": reason(failure)}
            device.release()
    for number in range(config.passes):
        left = [key for key in times if key[0] not in cells]
        if not left or (number and device.clock() - begin > seconds):
            break
        for key in rotated(left, number):
            if key[0] in cells:
                continue
            try:
                times[key].append(_pass(passes[key], device))
            except Exception as failure:
                cells[key[0]] = {"error": reason(failure)}
                device.release()
            done()
    for name in runners:
        if name not in cells:
            cells[name] = {"error": None} | {
                policy: _speeds(times[name, policy], distribution.rows, real) for policy in POLICIES
            }
    return {
        "rows": distribution.rows,
        "batch": config.batch,
        "real_tokens": real,
        "edges": list(distribution.edges),
        "padding": padding(distribution, config.batch),
        "cells": {name: cells[name] for name in runners},
    }


def _pass(runs: Sequence[Run], device: Device) -> float:
    start = device.clock()
    for run in runs:
        run()
    return device.clock() - start


def _speeds(seconds: Sequence[float], rows: int, tokens: int) -> dict[str, float | int]:
    median = statistics.median(seconds)
    return {
        "passes": len(seconds),
        "p50_ms": round(median * 1e3, 4),
        "samples_per_s": round(rows / median, 2),
        "tokens_per_s": round(tokens / median, 1),
    }
