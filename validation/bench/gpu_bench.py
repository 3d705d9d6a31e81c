"""Benchmark on a GPU: every way to run a model, in turns, over batches and lengths.

All contenders of a model are loaded at once and take turns at each shape, so that they meet the
same clocks and temperature. Times are from arrays on the host to logits on the host: copies are
part of them. What is known is written after every contender and shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tqdm import tqdm

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.bench.gpu_journal import Journal
from albert_deploy.validation.bench.gpu_lengths import Distribution, LengthsConfig, run_lengths
from albert_deploy.validation.bench.gpu_shape import Model, measure_shape, shape_key
from albert_deploy.validation.bench.gpu_turns import Device, Pace, Runner, close_runner, open_runner

BATCHES, LENGTHS = (1, 8, 32, 128), (32, 128, 384)
_Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class GpuBenchConfig:
    """What to measure.

    Args:
        batches: Rows of a batch.
        lengths: Tokens of a row.
        seconds: No new shape starts after this time, which counts from the clock's ``begin``.
        pace: How often each shape is run; its ``seconds`` are the most for one shape.
        distributions: Real lengths whose throughput is measured too.
        real: How that is done.
        seed: Of the random token ids.

    Raises:
        InputError: A number is out of range.
    """

    batches: tuple[int, ...] = BATCHES
    lengths: tuple[int, ...] = LENGTHS
    seconds: float = 500.0
    pace: Pace = field(default_factory=Pace)
    distributions: tuple[Distribution, ...] = ()
    real: LengthsConfig = field(default_factory=LengthsConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("batches", "lengths"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise InputError(f"got {name} {values}; give at least one, each 1 or more")
        if self.seconds <= 0:
            raise InputError(f"got {self.seconds} seconds; give more than 0")

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Batch and length of every shape, the smallest first: memory grows along."""
        return sorted(
            ((b, n) for b in self.batches for n in self.lengths), key=lambda s: (s[0] * s[1], s[1])
        )

    def to_json(self) -> dict[str, Any]:
        """Return what tells one benchmark's options from another's."""
        return {
            "batches": list(self.batches),
            "lengths": list(self.lengths),
            "pace": asdict(self.pace),
            "distributions": {d.name: d.rows for d in self.distributions},
            "real": asdict(self.real),
            "seed": self.seed,
        }


def gpu_bench(
    models: Sequence[Callable[[], Model]],
    config: GpuBenchConfig,
    journal: Journal,
    device: Device,
    *,
    begin: float | None = None,
    note: _Say = lambda _: None,
) -> dict[str, Any]:
    """Measure models and write what is known, as soon as it is, into the journal.

    Args:
        models: Make or load the models; called one after the other, with what time is left.
        config: Options.
        journal: New, or an earlier run's, whose complete shapes are not measured again.
        device: What they run on.
        begin: When the time began to run, by the device's clock; None for now.
        note: Called with a line about each stage.

    Returns:
        The journal's report. ``geometries`` has for each model ``entrants`` (``open_ms``,
        ``open_bytes``, ``error``, ``relative_error`` of the logits against float32) and
        ``shapes``: ``cells`` by entrant with times in ms, ``samples_per_s``, ``memory_bytes``,
        and ``error`` where it failed. ``stopped`` says why it is not ``complete``.
    """
    start = device.clock() if begin is None else begin
    end = start + config.seconds
    journal.report["stopped"] = None
    with tqdm(desc="gpu-bench", unit="turn", disable=None) as bar:
        for number, load in enumerate(models):
            now = device.clock()
            # Models after this one have a right to their share of the time that is left.
            until = now + (end - now) / (len(models) - number)
            if now >= end:
                _stop(journal, config.seconds)
                break
            _measure(load(), config, journal, device, until, bar, note)
    journal.report["complete"] = journal.report["stopped"] is None
    journal.save()
    return journal.report


def _measure(
    model: Model,
    config: GpuBenchConfig,
    journal: Journal,
    device: Device,
    until: float,
    bar: Any,
    note: _Say,
) -> None:
    part = journal.geometry(model.name)
    part["model"] |= model.facts()
    longest = int(model.manifest["contract"]["max_length"])
    shapes = [(b, n) for b, n in config.shapes if n <= longest]
    left = [s for s in shapes if not part["shapes"].get(shape_key(*s), {}).get("done")]
    undone = [d for d in config.distributions if d.name not in part["lengths"]]
    if not left and not undone:
        note(f"{model.name}: measured already")
        return
    runners = _open(model, part, journal, device, bar, note)
    try:
        for number, shape in enumerate(left):
            now = device.clock()
            if now >= until:
                _stop(journal, config.seconds)
                return
            seconds = (until - now) / (len(left) - number + len(undone))
            pace = replace(config.pace, seconds=min(seconds, config.pace.seconds))
            measure_shape(
                model,
                shape,
                runners,
                journal,
                device,
                pace,
                seed=config.seed,
                done=bar.update,
            )
        for number, distribution in enumerate(undone):
            now = device.clock()
            if now >= until:
                _stop(journal, config.seconds)
                return
            seconds = (until - now) / (len(undone) - number)
            part["lengths"][distribution.name] = run_lengths(
                distribution, runners, model.manifest, config.real, device, seconds, bar.update
            )
            journal.save()
    finally:
        for runner in runners.values():
            close_runner(runner)
        device.release()


def _open(
    model: Model, part: dict[str, Any], journal: Journal, device: Device, bar: Any, note: _Say
) -> dict[str, Runner]:
    runners = {}
    for entrant in model.entrants():
        record = part["entrants"].setdefault(entrant.name, {})
        record |= {k: getattr(entrant, k) for k in ("label", "engine", "data_type")}
        if "crashed" in record:
            record["error"] = record["crashed"]
            note(f"{model.name}, {entrant.label}: left out, {record['error']}")
            continue
        with journal.under_way(geometry=model.name, entrant=entrant.name, doing="opening"):
            runner, opened = open_runner(entrant, device)
        record |= opened | {"held_bytes": opened["open_bytes"]}
        if runner is None:
            note(f"{model.name}, {entrant.label}: left out, {record['error']}")
        else:
            runners[entrant.name] = runner
        journal.save()
        bar.update()
    return runners


def _stop(journal: Journal, seconds: float) -> None:
    journal.report["stopped"] = f"the time of {seconds:g} s was up; run again to measure the rest"
