"""Measure size, load time and latency of a directory's variants beside PyTorch and peers.

All contenders run in one process, in turns: whatever else the machine does meets each of them
alike, so that the ratios hold where the milliseconds do not.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import AlbertDeployError
from albert_deploy.runtime.manifest import check_file, read_manifest
from albert_deploy.validation.bench.contenders import contenders
from albert_deploy.validation.bench.interleave import (
    BenchConfig,
    Contender,
    load_interleaved,
    time_interleaved,
    torch_threads,
)
from albert_deploy.validation.bench.machine import cores, machine
from albert_deploy.validation.bench.peaks import best_of, peaks
from albert_deploy.validation.bench.workload import (
    Column,
    dataset_column,
    fitting_lengths,
    operations,
    random_row,
)

_Say = Callable[[str], None]


def bench(directory: Path, config: BenchConfig, *, note: _Say = lambda _: None) -> dict[str, Any]:
    """Measure every variant of a deployment directory beside its source; writes nothing there.

    Args:
        directory: Deployment directory.
        config: Options.
        note: Called with a line about each stage.

    Returns:
        The report, as in ``reports/bench.json``: times in ms, sizes in bytes, ratios as
        ``other / contender``, so that above 1 is faster than the other. ``runs`` has one entry
        for each number of threads.

    Raises:
        InputError: A variant is not there, no length fits, or a ``source`` that was asked for
            cannot be used.
        ContractError: A file is not the one that the manifest records.
        MachineError: An engine is missing.
    """
    manifest = read_manifest(directory)
    limit = int(manifest["contract"]["max_length"])
    lengths, left_out = fitting_lengths(config.lengths, limit)
    columns = [
        Column(name=str(n), rows=(random_row(manifest, n, seed=config.seed),)) for n in lengths
    ]
    if config.dataset is not None:
        columns.append(dataset_column(directory, manifest, config.dataset, config.dataset_rows))
    notes: list[str] = []

    def remark(line: str) -> None:
        if line not in notes:
            notes.append(line)
            note(line)

    if left_out:
        left = ", ".join(str(n) for n in left_out)
        remark(f"left out: lengths {left}; the model takes at most {limit} tokens")
    computer = machine()
    found: dict[str, Contender] = {}
    runs = []
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as work:
        for threads in config.threads:
            with contextlib.ExitStack() as stack:
                if config.torch and importlib.util.find_spec("torch") is not None:
                    stack.enter_context(torch_threads(threads or cores()))
                here = contenders(
                    directory, manifest, config, threads=threads, work=Path(work), remark=remark
                )
                found |= {c.name: c for c in here}
                note(f"{_threads(threads)}: {', '.join(c.name for c in here)}")
                runs.append(_run(here, columns, config, threads, stack))
    counts = _operations(directory, manifest, columns, remark)
    for run in runs:
        add_shares(run, found, counts)
    return {
        "machine": computer,
        "task": manifest["task"],
        "source": {k: manifest["source"][k] for k in ("path", "sha256")},
        "batch": 1,
        "threads": list(config.threads),
        "columns": {c.name: c.to_json() | {"operations": counts.get(c.name)} for c in columns},
        "lengths": list(lengths),
        "left_out": list(left_out),
        "baseline": next(iter(found)),
        "notes": notes,
        "contenders": {name: c.to_json() for name, c in found.items()},
        "runs": runs,
    }


def _run(
    found: Sequence[Contender],
    columns: Sequence[Column],
    config: BenchConfig,
    threads: int,
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    """Load and time the contenders, between two measurements of the machine's peaks."""
    measured = [peaks(threads, seconds=config.peak_seconds)] if config.peak_seconds else []
    sessions, loads = load_interleaved(found, config.loads, stack)
    times = time_interleaved(
        sessions,
        {c.name: c.rows for c in columns},
        repeats=config.repeats,
        warmup=config.warmup,
        seconds=config.seconds,
    )
    if config.peak_seconds:
        measured.append(peaks(threads, seconds=config.peak_seconds))
    return {
        "threads": threads,
        "rounds": len(times[found[0].name][columns[0].name]),
        "peaks": best_of(measured),
        **summarize(found, loads, times),
    }


def summarize(
    found: Sequence[Contender],
    loads: Mapping[str, Sequence[float]],
    times: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, Any]:
    """Return medians, minima and ratios, with the raw times, in ms.

    Ratios are to the first contender and, as ``peer_ratio``, to the best peer of the column: the
    one with the least median of those that are not ours. They are None where there is no peer.
    """
    base = times[found[0].name]
    peers = [c.name for c in found if not c.ours]
    best = {
        column: min(peers, key=lambda name: statistics.median(times[name][column]))
        for column in base
        if peers
    }
    rows = {}
    for c in found:
        cells = {}
        for column, runs in times[c.name].items():
            peer = times[best[column]][column] if peers else None
            median, least = statistics.median(runs), min(runs)
            cells[column] = {
                "median_ms": median,
                "min_ms": least,
                "ratio_median": statistics.median(base[column]) / median,
                "ratio_min": min(base[column]) / least,
                "peer_ratio_median": statistics.median(peer) / median if peer else None,
                "peer_ratio_min": min(peer) / least if peer else None,
                "times_ms": list(runs),
            }
        rows[c.name] = {
            "load_ms": statistics.median(loads[c.name]),
            "load_times_ms": list(loads[c.name]),
            "latency": cells,
        }
    return {"best_peer": best, "contenders": rows}


def add_shares(
    run: dict[str, Any], found: Mapping[str, Contender], counts: Mapping[str, float]
) -> None:
    """Add to each cell of a run its ``gops`` and its share of the machine's peak.

    The share is ``operations / median / peak`` with the peak of the contender's own data type: 1
    would be a model whose every moment is a matrix product at the best speed that was measured.
    None where the peak or the operations are not known.

    Args:
        run: An entry of the report's ``runs``; changed.
        found: Contenders by name.
        counts: Mean operations of a row, by column.
    """
    for name, row in run["contenders"].items():
        peak = run["peaks"].get(found[name].data_type)
        for column, cell in row["latency"].items():
            gops = counts[column] / cell["median_ms"] / 1e6 if column in counts else None
            cell["gops"] = gops
            cell["peak_share"] = gops / peak["gops"] if peak and gops is not None else None


def _operations(
    directory: Path, manifest: dict[str, Any], columns: Sequence[Column], remark: _Say
) -> dict[str, float]:
    """Return the mean operations of the rows of each column; empty where they are not known."""
    rows = [feeds for column in columns for feeds in column.rows]
    try:
        path = check_file(directory, manifest, VARIANTS["fp32"].file)
        counts = iter(operations(path, rows))
    except AlbertDeployError as error:
        remark(f"share of the machine's peak: left out, {error}")
        return {}
    return {c.name: statistics.fmean(next(counts) for _ in c.rows) for c in columns}


def _threads(count: int) -> str:
    return "all cores" if count == 0 else f"{count} thread{'s' if count > 1 else ''}"
