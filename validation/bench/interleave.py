"""What is timed and how: sessions are loaded and run interleaved, so that all meet one machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds, Session

TORCH, COMPILED = "torch", "torch-compile"
_LABELS = {TORCH: "torch eager", COMPILED: "torch.compile"}
_WORDS = {
    "quantize-dynamic": "quantize_dynamic",
    "nncf-int8": "NNCF INT8",
    "ort": "ORT",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16",
}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure, at batch 1.

    Args:
        lengths: Tokens of a row.
        dataset: Name and path of a data set whose real lengths are measured too; a path of None
            takes the shipped sample's.
        dataset_rows: Texts of it, evenly over its lengths.
        threads: Threads of each contender; each number is a run of its own, 0 is one per core.
        repeats: Timed rounds; every contender is timed once per round and column.
        warmup: Untimed rounds before them.
        loads: Timed loads of each contender, after one that is not counted.
        seconds: No new round starts after this time, but ``turns.LEAST_ROUNDS`` are always run.
        seed: Seed of the random token ids.
        variants: Keys of ``VARIANTS``; None for those that the directory holds.
        contenders: Patterns of names, see ``contenders.names``; None for all.
        source: Where the checkpoint is; None for where it was exported from.
        torch: Measure the fp32 source in PyTorch too.
        peak_seconds: For each measurement of the machine's peaks; 0 leaves them out.

    Raises:
        InputError: A number is too small or a variant is unknown.
    """

    lengths: tuple[int, ...] = (8, 32, 128, 384)
    dataset: tuple[str, Path | None] | None = None
    dataset_rows: int = 16
    threads: tuple[int, ...] = (1,)
    repeats: int = 15
    warmup: int = 2
    loads: int = 3
    seconds: float = 180.0
    seed: int = 0
    variants: tuple[str, ...] | None = None
    contenders: tuple[str, ...] | None = None
    source: str | None = None
    torch: bool = True
    peak_seconds: float = 0.2

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.lengths or min(self.lengths) < 1:
            raise InputError(f"got lengths {self.lengths}; give at least one, of 1 token or more")
        if not self.threads or min(self.threads) < 0:
            raise InputError(f"got threads {self.threads}; give numbers, 0 for one per core")
        for name in ("repeats", "loads", "dataset_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup", "seconds", "peak_seconds"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it cannot be negative")
        for name in self.variants or ():
            variant_named(name)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run the model.

    Args:
        name: Key in the report.
        open: Loads it: a session.
        bytes: Size of its files; of the unique float32 parameters for PyTorch.
        sha256: Of the file or the checkpoint.
        file: Path in the deployment directory; None where it has none there.
        variant: Key of ``VARIANTS``; None for a peer's model.
        data_type: Of its matrix products: ``int8``, ``bf16`` or ``f32``.
        load_ms: Measured already, because it takes too long to do again; else None.
    """

    name: str
    open: Callable[[], Session]
    bytes: int
    sha256: str
    file: str | None = None
    variant: str | None = None
    data_type: str = "f32"
    load_ms: float | None = None

    @property
    def label(self) -> str:
        """Name for people."""
        return label(self.name)

    @property
    def ours(self) -> bool:
        """Tell whether it is a variant of this project's, and not a peer."""
        return self.variant not in (None, "fp32")

    def to_json(self) -> dict[str, Any]:
        """Return the form that the report holds."""
        return {
            "label": self.label,
            "ours": self.ours,
            "variant": self.variant,
            "engine": self.name.partition("@")[2] or "torch",
            "data_type": self.data_type,
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.bytes,
        }


def label(name: str) -> str:
    """Return what people call a contender."""
    if name in _LABELS:
        return _LABELS[name]
    model, _, engine = name.partition("@")
    return f"{_WORDS.get(model, model)}, {_WORDS.get(engine, engine)}"


# Rounds that are run even where the time is up, so that a median means something.
LEAST_ROUNDS = 3

_Clock = Callable[[], float]
_T = TypeVar("_T")


def load_interleaved(
    found: Sequence[Contender],
    rounds: int,
    stack: contextlib.ExitStack,
    *,
    clock: _Clock = time.perf_counter,
) -> tuple[dict[str, Session], dict[str, list[float]]]:
    """Load every contender once per round; the sessions of the last round stay open.

    A first round is not counted: it imports the engines and brings the files into memory. What
    takes too long to load again, and was timed when it was made, is opened in the last alone.

    Args:
        found: Contenders.
        rounds: Timed rounds.
        stack: Closes the sessions that are returned.
        clock: Seconds.

    Returns:
        Sessions, and the load times in ms, both by contender.
    """
    times: dict[str, list[float]] = {c.name: [] for c in found}
    sessions: dict[str, Session] = {}
    for number in range(rounds + 1):
        for contender in rotated(found, number):
            if contender.load_ms is not None:
                if number == rounds:
                    times[contender.name] = [contender.load_ms]
                    sessions[contender.name] = stack.enter_context(contender.open())
                continue
            start = clock()
            session = contender.open()
            elapsed = clock() - start
            if number:
                times[contender.name].append(_ms(elapsed))
            if number == rounds:
                sessions[contender.name] = stack.enter_context(session)
            else:
                session.close()
    return {c.name: sessions[c.name] for c in found}, times


def time_interleaved(
    sessions: Mapping[str, Session],
    columns: Mapping[str, Sequence[Feeds]],
    *,
    repeats: int,
    warmup: int,
    seconds: float,
    clock: _Clock = time.perf_counter,
) -> dict[str, dict[str, list[float]]]:
    """Time every session once per round and column, each round starting with the next one.

    Before each timed run the session runs the first row of the column untimed: the others have
    just pushed its weights out of the processor's caches, where they are when a model is alone,
    and an engine may prepare itself for another shape (OpenVINO does, for some milliseconds).

    Args:
        sessions: Sessions by contender.
        columns: Rows of each column; a time is the mean over them.
        repeats: Timed rounds.
        warmup: Untimed rounds before them.
        seconds: No new round starts after this time, but ``LEAST_ROUNDS`` are always run.
        clock: Seconds.

    Returns:
        Times in ms, [rounds], by contender and column.
    """
    names = list(sessions)
    times: dict[str, dict[str, list[float]]] = {n: {c: [] for c in columns} for n in names}
    begin = clock()
    rounds = warmup + repeats
    total = rounds * len(columns) * len(names)
    with tqdm(total=total, desc="bench", unit="run", disable=None) as bar:
        for number in range(rounds):
            timed = number - warmup
            if timed >= LEAST_ROUNDS and clock() - begin > seconds:
                break
            for column, rows in columns.items():
                for name in rotated(names, number):
                    run = sessions[name].run
                    run(rows[0])
                    start = clock()
                    for feeds in rows:
                        run(feeds)
                    elapsed = (clock() - start) / len(rows)
                    if timed >= 0:
                        times[name][column].append(_ms(elapsed))
                    bar.update()
    return times


def rotated(items: Sequence[_T], by: int) -> list[_T]:
    """Return the items in order, starting with number ``by`` (counted round and round)."""
    first = by % len(items)
    return [*items[first:], *items[:first]]


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads inside one operator for the length of the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)
