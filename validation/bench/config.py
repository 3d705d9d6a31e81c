"""What to measure, and the shapes that a GPU is measured at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.errors import InputError

# What a GPU is measured at unless told otherwise: it is made for batches.
GPU_DEFAULTS: dict[str, Any] = {
    "batches": (1, 8, 32, 128),
    "lengths": (32, 128, 384),
    "datasets": (("sst2", None), ("squad", None)),
    "dataset_rows": 512,
    "repeats": 200,
    "loads": 0,
    "seconds": 400.0,
    "peak_seconds": 0.3,
}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure.

    Args:
        device: What the contenders run on.
        lengths: Tokens of a row.
        batches: Rows of a batch.
        datasets: Names and paths of data sets whose real lengths are measured too; a path of
            None takes the shipped sample's. At batch 1 their rows run one by one; with larger
            batches as they come, and in buckets of like length.
        dataset_rows: Texts of each, evenly over its lengths; drawn at random for batches.
        threads: Threads of each contender; each number is a run of its own, 0 is one per core.
            A GPU has one run.
        repeats: Timed rounds; every contender is timed once per round and column.
        warmup: Untimed passes of each contender over a column; there is always one.
        loads: Timed loads of each contender, after one that is not counted; with 0 the only load
            is the one that counts.
        seconds: No new round starts after this time, of which each column has its share, but
            ``interleave.LEAST_ROUNDS`` are always run.
        seed: Seed of the random token ids.
        variants: Keys of ``VARIANTS``; None for those that the directory holds.
        contenders: Patterns of names, see ``contenders.names``; None for all.
        source: Where the checkpoint is; None for where it was exported from.
        torch: Measure the source in PyTorch too.
        compile_mode: Of ``torch.compile``; None is its default.
        peak_seconds: For each measurement of the machine's peaks; 0 leaves them out.

    Raises:
        InputError: A number is too small or a variant is unknown.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    lengths: tuple[int, ...] = (8, 32, 128, 384)
    batches: tuple[int, ...] = (1,)
    datasets: tuple[tuple[str, Path | None], ...] = ()
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
    compile_mode: str | None = None
    peak_seconds: float = 0.2

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("lengths", "batches"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise InputError(f"got {name} {values}; give at least one, each 1 or more")
        if not self.threads or min(self.threads) < 0:
            raise InputError(f"got threads {self.threads}; give numbers, 0 for one per core")
        for name in ("repeats", "dataset_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup", "loads", "seconds", "peak_seconds"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it cannot be negative")
        for name in self.variants or ():
            variant_named(name)

    @property
    def on_gpu(self) -> bool:
        """Tell whether the contenders run on a GPU."""
        return self.device == "gpu"

    @property
    def forgiven(self) -> tuple[type[Exception], ...]:
        """What a contender may raise and be a row with its reason: on a GPU anything.

        Engines raise whatever they meet there, short memory above all, and time on a GPU is dear.
        On a processor a bench is a gate, and what fails is to be seen.
        """
        return (Exception,) if self.on_gpu else ()
