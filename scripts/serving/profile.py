"""The serving profile: how a variant's networks share this machine's cores, measured."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.contract import VARIANTS, variant_named
from albert_deploy.runtime.engines.table import choose_engine, open_session
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import add_to_manifest, read_manifest
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.validation.bench.machine import cores, machine

_LOG = logging.getLogger(__name__)
BATCHES = (1, 2, 4, 8, 16, 32)
# A larger batch has to be worth the wait for it.
_ENOUGH = 0.95
_MOST_LENGTHS, _MULTIPLE = 4, 8

_Clock = Callable[[], float]
_Open = Callable[[str, str, int], Session]


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """What is measured for serving.

    Args:
        lengths: Tokens of a row where there is no data set: the first that the model takes.
        dataset: Name and path of a data set whose median length is measured, and to whose lengths
            rows are then padded; a path of None takes the shipped sample's.
        variants: Keys of ``VARIANTS``; None for those that the directory holds.
        seconds: Of each measurement; every network finishes the run that it is in.
        seed: Of the random token ids.

    Raises:
        InputError: A number is too small or a variant is unknown.
    """

    lengths: tuple[int, ...] = (128,)
    dataset: tuple[str, Path | None] | None = None
    variants: tuple[str, ...] | None = None
    seconds: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.lengths or min(self.lengths) < 1:
            raise InputError(f"got lengths {self.lengths}; give at least one, of 1 token or more")
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}; use more than 0")
        for name in self.variants or ():
            variant_named(name)


def measure_serving(
    directory: Path,
    config: ServingConfig,
    *,
    open_one: _Open | None = None,
    clock: _Clock = time.perf_counter,
    count: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Find how many networks of how many threads answer the most rows, and in which batches.

    Networks run beside each other in threads of this process, as the engines free Python's lock.
    All splits of the cores are tried on single rows, then batches with the best of them.

    Args:
        directory: Deployment directory.
        config: Options.
        open_one: Opens a network: ``open_one(variant, engine, threads)``; None for
            ``open_session``.
        clock: Seconds.
        count: Cores to share; None for those that this process may use.

    Returns:
        Variant -> what ``record_serving`` enters: ``sha256`` of the file, ``engine``,
        ``machine``, ``length`` in tokens, ``instances``, ``threads``, ``preferred`` (the smallest
        batch with 95 % of the best rate, none where that is 1), ``lengths`` to pad to, and
        ``rows_per_s``: under ``splits`` by ``INSTANCESxTHREADS``, under ``batches`` by rows.

    Raises:
        InputError: A variant is not there, no length fits, or the data cannot be read.
        ContractError: A file is not the one that the manifest records.
        MachineError: No engine here runs a variant that was asked for.
    """
    manifest = read_manifest(directory)
    names = config.variants or tuple(n for n in VARIANTS if n in manifest["variants"])
    if missing := [name for name in names if name not in manifest["variants"]]:
        raise InputError(
            f"{directory} has no {missing[0]}; it has {', '.join(manifest['variants'])}"
        )
    length, lengths = _lengths(directory, manifest, config)
    available = cores() if count is None else count
    computer = {
        key: value for key, value in machine().items() if key in ("cpu", "cores", "versions")
    }
    row = _row(manifest, length, config.seed)

    def opens(variant: str, engine: str, threads: int) -> Session:
        return open_session(directory, variant=variant, engine=engine, threads=threads)

    found = {}
    for variant, engine in _engines(manifest, names, config).items():
        _LOG.info(f"measuring {variant} in {engine} at {length} tokens on {available} cores")
        rates: dict[str, dict[str, float]] = {"splits": {}, "batches": {}}
        for instances, threads in splits(available):
            with _opened(open_one or opens, variant, engine, instances, threads) as sessions:
                rate = rows_per_s(sessions, row, 1, seconds=config.seconds, clock=clock)
            rates["splits"][f"{instances}x{threads}"] = round(rate, 2)
        best = max(rates["splits"], key=lambda key: rates["splits"][key])
        instances, threads = map(int, best.split("x"))
        with _opened(open_one or opens, variant, engine, instances, threads) as sessions:
            for size in BATCHES:
                rate = rows_per_s(sessions, row, size, seconds=config.seconds, clock=clock)
                rates["batches"][str(size)] = round(rate, 2)
        found[variant] = {
            "sha256": manifest["files"][VARIANTS[variant].file]["sha256"],
            "engine": engine,
            "machine": computer,
            "length": length,
            "instances": instances,
            "threads": threads,
            "preferred": preferred(rates["batches"]),
            "lengths": lengths,
            "rows_per_s": rates,
        }
    return found


def splits(count: int) -> tuple[tuple[int, int], ...]:
    """Return instances and threads that share cores: halved from all instances to all threads."""
    sizes = {count, *(1 << power for power in range(count.bit_length()) if 1 << power < count)}
    return tuple((n, count // n) for n in sorted(sizes, reverse=True))


def preferred(rates: dict[str, float]) -> list[int]:
    """Return the smallest batch that reaches 95 % of the best rate, by rows; [] where that is 1."""
    enough = _ENOUGH * max(rates.values())
    size = min(int(rows) for rows, rate in rates.items() if rate >= enough)
    return [] if size == 1 else [size]


def rows_per_s(
    sessions: Sequence[Session],
    row: Feeds,
    size: int,
    *,
    seconds: float,
    clock: _Clock = time.perf_counter,
) -> float:
    """Return how many rows per second sessions answer that run beside each other.

    Each runs batches for so long, after one that does not count, and finishes the last one; its
    rate is its own rows over its own time.

    Args:
        sessions: Open, one for each thread.
        row: Inputs of one row.
        size: Rows of a batch.
        seconds: How long each runs at least.
        clock: Seconds.

    Raises:
        AlbertDeployError: A session refuses the batch.
    """
    feeds = {name: np.repeat(value, size, axis=0) for name, value in row.items()}
    together = threading.Barrier(len(sessions))
    rates: list[float] = []
    failures: list[BaseException] = []

    def work(session: Session) -> None:
        try:
            session.run(feeds)
            together.wait()
            start, runs = clock(), 0
            while (elapsed := clock() - start) < seconds:
                session.run(feeds)
                runs += 1
            rates.append(runs * size / elapsed)
        except threading.BrokenBarrierError:
            pass  # Another one failed, and says why.
        except BaseException as error:  # raised again below, in the thread that asked
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if failures:
        raise failures[0]
    return sum(rates)


def record_serving(directory: Path, found: dict[str, dict[str, Any]]) -> None:
    """Enter what was measured in the manifest, from which ``bundle`` and ``serve`` take it.

    What was measured before for a variant that was not measured now stays.

    Raises:
        InputError: The directory cannot be written.
        MachineError: The disk is full.
    """
    add_to_manifest(directory, "serving", found)


@contextlib.contextmanager
def _opened(
    open_one: _Open, variant: str, engine: str, instances: int, threads: int
) -> Iterator[list[Session]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_one(variant, engine, threads)) for _ in range(instances)]


def _engines(
    manifest: dict[str, Any], names: Sequence[str], config: ServingConfig
) -> dict[str, str]:
    """Return who runs each variant on the CPU; one that was not asked for may have nobody."""
    found = {}
    for name in names:
        try:
            found[name] = choose_engine(manifest, name)
        except MachineError as error:
            if config.variants is not None:
                raise
            _LOG.info(f"left out: {error}")
    return found


def _row(manifest: dict[str, Any], length: int, seed: int) -> Feeds:
    from albert_deploy.validation.bench.workload import random_row

    return random_row(manifest, length, seed=seed)


def _lengths(
    directory: Path, manifest: dict[str, Any], config: ServingConfig
) -> tuple[int, list[int]]:
    """Return the typical length, and those to pad to."""
    limit = int(manifest["contract"]["max_length"])
    if config.dataset is None:
        if fitting := [n for n in config.lengths if n <= limit]:
            return fitting[0], []
        told = ", ".join(map(str, config.lengths))
        raise InputError(f"got lengths {told}; the model takes at most {limit}: pass shorter ones")
    from albert_deploy.export.engine.profiles import best_edges, lengths_from
    from albert_deploy.validation.bench.workload import texts, tokens

    sizes = sorted(map(tokens, texts(directory, manifest, config.dataset)))
    counts = {n: sizes.count(n) for n in set(sizes)}
    known = lengths_from(counts, limit)
    # Longer texts than the data has are served, too.
    most = _MOST_LENGTHS - (-(-sizes[-1] // _MULTIPLE) * _MULTIPLE < limit)
    edges = best_edges(known.counts, most, multiple=_MULTIPLE)
    return sizes[len(sizes) // 2], sorted({*edges, limit})


def serving_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables for people: the rate of each split and of each batch, and what follows."""
    lines = []
    for variant, one in found.items():
        rates = one["rows_per_s"]
        lines.append(f"{variant} in {one['engine']}, {one['length']} tokens, rows per second:")
        lines.append(_table("networks x threads", rates["splits"]))
        lines.append(_table("rows of a batch", rates["batches"]))
        batches = ", ".join(map(str, one["preferred"])) or "whatever waits"
        padded = f", padded to {', '.join(map(str, one['lengths']))}" if one["lengths"] else ""
        lines.append(
            f"  serve with {one['instances']} networks of {one['threads']} threads, batches of "
            f"{batches}{padded}"
        )
    return "\n".join(lines)


def _table(title: str, rates: Mapping[str, float]) -> str:
    cells = [(name, f"{rate:,.1f}") for name, rate in rates.items()]
    widths = [max(map(len, cell)) for cell in cells]
    rows = [
        "  ".join(cell[i].rjust(width) for cell, width in zip(cells, widths, strict=True))
        for i in range(2)
    ]
    return f"  {title:<18}  {rows[0]}\n  {'':<18}  {rows[1]}"
