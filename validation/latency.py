"""Measure size, load time and latency of a directory's variants beside PyTorch and a peer.

All contenders run in one process, in turns: whatever else the machine does meets each of them
alike, so that the ratios hold where the milliseconds do not.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES, variant_named
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.contenders import TORCH, Contender, contenders
from albert_deploy.validation.machine import machine
from albert_deploy.validation.turns import load_in_turns, time_in_turns, torch_threads


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure, at batch 1.

    Args:
        lengths: Tokens of a row.
        threads: Threads of each contender inside one operator.
        repeats: Timed rounds; every contender is timed once per round and length.
        warmup: Untimed rounds before them.
        loads: Timed loads of each contender, after one that is not counted.
        seconds: No new round starts after this time, but ``turns.LEAST_ROUNDS`` are always run.
        seed: Seed of the random token ids.
        variants: Keys of ``VARIANTS``; None for those that the directory holds.
        source: Where the checkpoint is; None for where it was exported from.
        torch: Measure the fp32 source in PyTorch too.
        peer: Measure onnxruntime's own ``quantize_dynamic`` too.

    Raises:
        InputError: A number is too small or a variant is unknown.
    """

    lengths: tuple[int, ...] = (8, 32, 128, 384)
    threads: int = 1
    repeats: int = 15
    warmup: int = 2
    loads: int = 3
    seconds: float = 180.0
    seed: int = 0
    variants: tuple[str, ...] | None = None
    source: str | None = None
    torch: bool = True
    peer: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.lengths or min(self.lengths) < 1:
            raise InputError(f"got lengths {self.lengths}; give at least one, of 1 token or more")
        for name in ("threads", "repeats", "loads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.warmup < 0 or self.seconds < 0:
            raise InputError(
                f"got warmup {self.warmup}, seconds {self.seconds}; neither can be negative"
            )
        for name in self.variants or ():
            variant_named(name)


def bench(
    directory: Path, config: BenchConfig, *, note: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure every variant of a deployment directory beside its source; writes nothing there.

    Args:
        directory: Deployment directory.
        config: Options.
        note: Called with a line about each stage.

    Returns:
        The report, as in ``reports/bench.json``: times in ms, sizes in bytes, ratios as
        ``baseline / contender``, so that above 1 is faster than the baseline.

    Raises:
        InputError: A variant is not there, no length fits, or a ``source`` that was asked for
            cannot be used.
        ContractError: A file is not the one that the manifest records.
        MachineError: An engine is missing.
    """
    manifest = read_manifest(directory)
    lengths, left_out = fitting_lengths(config.lengths, int(manifest["contract"]["max_length"]))
    rows = {n: random_row(manifest, n, seed=config.seed) for n in lengths}
    notes: list[str] = []

    def remark(line: str) -> None:
        notes.append(line)
        note(line)

    if left_out:
        left = ", ".join(str(n) for n in left_out)
        limit = manifest["contract"]["max_length"]
        remark(f"left out: lengths {left}; the model takes at most {limit} tokens")
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="albert-deploy-")))
        found = contenders(directory, manifest, config, work=work, remark=remark)
        computer = machine()
        if any(c.name == TORCH for c in found):
            stack.enter_context(torch_threads(config.threads))
        note(f"loading {len(found)} contenders {1 + config.loads} times")
        sessions, loads = load_in_turns(found, config.loads, stack)
        note(f"at most {config.repeats} rounds over lengths {', '.join(map(str, lengths))}")
        times = time_in_turns(
            sessions, rows, repeats=config.repeats, warmup=config.warmup, seconds=config.seconds
        )
    return {
        "machine": computer,
        "task": manifest["task"],
        "source": {k: manifest["source"][k] for k in ("path", "sha256")},
        "batch": 1,
        "threads": config.threads,
        "lengths": list(lengths),
        "left_out": list(left_out),
        "rounds": len(next(iter(times.values()))[lengths[0]]),
        "baseline": found[0].name,
        "notes": notes,
        "contenders": summarize(found, loads, times),
    }


def fitting_lengths(
    lengths: Sequence[int], max_length: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split lengths into those that a model of ``max_length`` tokens takes and the others.

    Raises:
        InputError: None fits.
    """
    wanted = sorted(set(lengths))
    fitting = tuple(n for n in wanted if n <= max_length)
    if not fitting:
        raise InputError(
            f"got lengths {', '.join(map(str, wanted))}; the model takes at most {max_length} "
            "tokens: pass shorter --lengths"
        )
    return fitting, tuple(n for n in wanted if n > max_length)


def random_row(manifest: Mapping[str, Any], length: int, *, seed: int) -> Feeds:
    """Return one row without padding: random ids, a full mask, one segment.

    All int64 [1, length]; [1, 2, length] for a task with choices.
    """
    axes = manifest["contract"]["inputs"][0]["axes"]
    shape = (1, 2, length) if CHOICES in axes else (1, length)
    vocabulary = int(manifest["source"]["config"]["vocab_size"])
    ids = np.random.default_rng(seed).integers(0, vocabulary, shape, dtype=np.int64)
    return dict(zip(INPUT_NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def summarize(
    found: Sequence[Contender],
    loads: Mapping[str, Sequence[float]],
    times: Mapping[str, Mapping[int, Sequence[float]]],
) -> dict[str, dict[str, Any]]:
    """Return medians, minima and ratios to the first contender, with the raw times, in ms."""
    base = times[found[0].name]
    return {
        c.name: {
            **c.to_json(),
            "load_ms": statistics.median(loads[c.name]),
            "load_times_ms": list(loads[c.name]),
            "latency": {
                str(length): {
                    "median_ms": statistics.median(runs),
                    "min_ms": min(runs),
                    "ratio_median": statistics.median(base[length]) / statistics.median(runs),
                    "ratio_min": min(base[length]) / min(runs),
                    "times_ms": list(runs),
                }
                for length, runs in times[c.name].items()
            },
        }
        for c in found
    }
