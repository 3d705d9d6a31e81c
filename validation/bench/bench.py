"""Measure size, load time and latency of a directory's variants beside PyTorch and peers.

All contenders run in one process, in turns: whatever else the machine does meets each of them
alike, so that the ratios hold where the milliseconds do not. Times are from arrays on the host to
logits on the host; on a GPU the copies are part of them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from albert_deploy.runtime.errors import AlbertDeployError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.validation.bench import gpu
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.contenders import contenders
from albert_deploy.validation.bench.interleave import (
    Contender,
    Device,
    Logits,
    Timed,
    first_runs,
    load_interleaved,
    time_interleaved,
    torch_threads,
)
from albert_deploy.validation.bench.machine import (
    cores,
    gpu_machine,
    machine,
    readings,
    require_gpu,
)
from albert_deploy.validation.bench.operations import column_operations
from albert_deploy.validation.bench.peaks import best_of, gpu_peaks, peaks
from albert_deploy.validation.bench.progress import Progress
from albert_deploy.validation.bench.workload import Column, fitting_lengths, make_columns

_LOG = logging.getLogger(__name__)
# A percentile says something only where at least one run lies beyond it.
_PERCENTILES = {90: 10, 99: 100}
_Json = dict[str, Any]


def bench(
    directory: Path,
    config: BenchConfig,
    *,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure every variant of a deployment directory beside its source.

    Nothing is written there but, on a GPU, the engines that TensorRT needs.

    Args:
        directory: Deployment directory.
        config: Options.
        out: JSON file that keeps what is known while the bench runs. One that an earlier run of
            the same bench on the same machine did not complete is gone on with: what was measured
            is not measured again, and a contender that ended the process is left out.

    Returns:
        The report, as in ``reports/bench.json``: times in ms, sizes in bytes, ratios as
        ``other / contender``, so that above 1 is faster than the other. ``runs`` has one entry
        for each number of threads.

    Raises:
        InputError: A variant is not there, no length fits, a ``source`` that was asked for
            cannot be used, or ``out`` is another kind of file.
        ContractError: A file is not the one that the manifest records.
        MachineError: An engine or the GPU is missing.
    """
    manifest = read_manifest(directory)
    if config.on_gpu:
        require_gpu()
    limit = int(manifest["contract"]["max_length"])
    lengths, left_out = fitting_lengths(config.lengths, limit)
    columns = make_columns(directory, manifest, config, lengths)
    threads = (0,) if config.on_gpu else config.threads
    notes = []
    if left_out:
        left = ", ".join(str(n) for n in left_out)
        notes.append(f"left out: lengths {left}; the model takes at most {limit} tokens")
    try:
        counts = column_operations(directory, manifest, columns)
    except AlbertDeployError as error:
        counts = {}
        notes.append(f"share of the machine's peak: left out, {error}")
    progress = Progress(
        out,
        {
            "complete": False,
            "under_way": None,
            "crashed": {},
            "machine": gpu_machine() if config.on_gpu else machine(),
            "task": manifest["task"],
            "source": {k: manifest["source"][k] for k in ("path", "sha256")},
            "settings": {
                "device": config.device,
                "batches": list(config.batches),
                "repeats": config.repeats,
                "seed": config.seed,
                "compile_mode": config.compile_mode,
            },
            "threads": list(threads),
            "columns": {c.name: c.to_json() | {"operations": counts.get(c.name)} for c in columns},
            "lengths": list(lengths),
            "left_out": list(left_out),
            "notes": [],
            "contenders": {},
            "runs": [
                {"threads": n, "rounds": 0, "peaks": {}, "best_peer": {}, "contenders": {}}
                for n in threads
            ],
        },
    )
    report = progress.report
    if progress.resumed:
        _LOG.info(f"going on with {out}, which an earlier run did not complete")
    for line in notes:
        _remark(report, line)
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as work:
        for run in report["runs"]:
            with contextlib.ExitStack() as stack:
                if config.torch and importlib.util.find_spec("torch") is not None:
                    stack.enter_context(torch_threads(run["threads"] or cores()))
                found = contenders(
                    directory,
                    manifest,
                    config,
                    threads=run["threads"],
                    work=Path(work),
                    remark=partial(_remark, report),
                )
                _run(found, columns, config, manifest, run, progress, stack)
    if config.on_gpu:
        report["after"] = readings()
    report["complete"] = True
    progress.save()
    return report


def _run(
    found: Sequence[Contender],
    columns: Sequence[Column],
    config: BenchConfig,
    manifest: _Json,
    run: _Json,
    progress: Progress,
    stack: contextlib.ExitStack,
) -> None:
    """Load and time the contenders, between two measurements of the machine's peaks."""
    report = progress.report
    report["contenders"] |= {c.name: c.to_json() for c in found}
    for name, why in report["crashed"].items():
        _remark(report, f"{name}: left out, {why}")
        if not run["contenders"].get(name, {}).get("latency"):
            run["contenders"].pop(name, None)
            report["contenders"].pop(name, None)
    found = [c for c in found if c.name not in report["crashed"]]
    report["baseline"] = next(iter(report["contenders"]), None)
    known = {name for row in run["contenders"].values() for name in row["latency"]}
    left = [c for c in columns if c.name not in known]
    if not left:
        return
    _LOG.info(f"{_threads(run['threads'], config)}: {', '.join(c.name for c in found)}")
    device = gpu.cuda_device() if config.on_gpu else Device()
    _add_peaks(run, config, report)
    sessions, records = load_interleaved(
        found,
        config.loads,
        stack,
        device=device,
        forgiven=config.forgiven,
        around=progress.under_way,
    )
    for contender in found:
        record = records[contender.name]
        if record["error"] is not None:
            _remark(report, f"{contender.label}: left out, {record['error']}")
            report["contenders"].pop(contender.name)
            run["contenders"].pop(contender.name, None)
            continue
        row = run["contenders"].setdefault(contender.name, {"latency": {}})
        row |= {"load_ms": statistics.median(record["load_times_ms"]), **record}
    begin = device.clock()
    total = len(left) * len(sessions) * (config.repeats + 1)
    with tqdm(total=total, desc="bench", unit="run", disable=None) as bar:
        for number, column in enumerate(left):
            seconds = (begin + config.seconds - device.clock()) / (len(left) - number)
            first = _first_runs(column, sessions, config, manifest, run, progress, device, bar)
            ready = {n: s for n, s in sessions.items() if first[n]["error"] is None}
            times = time_interleaved(
                ready,
                column.rows,
                repeats=config.repeats,
                seconds=seconds,
                clock=device.clock,
                forgiven=config.forgiven,
                done=bar.update,
            )
            _add_cells(run, report, column, first, times)
            progress.save()
    if not config.on_gpu:
        _add_peaks(run, config, report)
    add_shares(run, report)
    rounds = [len(c["times_ms"]) for c in _cells(run) if c["error"] is None]
    run["rounds"] = min(rounds, default=0)


def _remark(report: _Json, line: str) -> None:
    if line not in report["notes"]:
        report["notes"].append(line)
        _LOG.info(line)


def _add_peaks(run: _Json, config: BenchConfig, report: _Json) -> None:
    if not config.peak_seconds:
        return
    if config.on_gpu:
        measured, refused = gpu_peaks(seconds=config.peak_seconds)
        for line in refused:
            _remark(report, line)
    else:
        measured = peaks(run["threads"], seconds=config.peak_seconds)
    run["peaks"] = best_of([run["peaks"], measured])


def _first_runs(
    column: Column,
    sessions: Mapping[str, Any],
    config: BenchConfig,
    manifest: _Json,
    run: _Json,
    progress: Progress,
    device: Device,
    bar: Any,
) -> dict[str, _Json]:
    """Run each contender alone, for its memory and, on a GPU, its difference from float32."""
    records = {}
    differ: Callable[[Logits], float] | None = None
    for name, session in sessions.items():
        row = run["contenders"][name]
        with progress.under_way(name, f"first run of {column.name}"):
            record, logits = first_runs(
                session, column.rows, config.warmup, device, config.forgiven
            )
        taken, kept = record.pop("taken_bytes"), record.pop("kept_bytes")
        held = row["held_bytes"]
        record["memory_bytes"] = None if held is None or taken is None else held + taken
        row["held_bytes"] = None if held is None or kept is None else held + kept
        if config.on_gpu and logits is not None and "difference" not in row:
            differ = differ or gpu.difference_from_fp32(manifest, config, column.rows[0])
            row["difference"] = differ(logits)
        records[name] = record
        bar.update()
    return records


def _add_cells(
    run: _Json,
    report: _Json,
    column: Column,
    first: Mapping[str, _Json],
    times: Mapping[str, Timed],
) -> None:
    """Add a column that was timed to each contender of a run."""
    cells = {
        name: record | (statistics_of(times[name], column) if name in times else {})
        for name, record in first.items()
    }
    peers = [n for n, c in report["contenders"].items() if not c["ours"]]
    best = add_ratios(cells, report["baseline"], peers)
    if best is not None:
        run["best_peer"][column.name] = best
    for name, cell in cells.items():
        run["contenders"][name]["latency"][column.name] = cell
    add_shares(run, report)


def statistics_of(timed: Timed, column: Column) -> dict[str, Any]:
    """Return what is told of the times of a column: in ms of an input, and texts per second.

    ``p90_ms`` and ``p99_ms`` are None where there are too few rounds for one to lie beyond them,
    ``device_median_ms`` where the device's own time is not known.
    """
    if timed.error is not None:
        return {"error": timed.error}
    median = statistics.median(timed.times_ms)
    far = {
        f"p{p}_ms": round(float(np.percentile(timed.times_ms, p)), 4)
        if len(timed.times_ms) >= least
        else None
        for p, least in _PERCENTILES.items()
    }
    return {
        "median_ms": median,
        "min_ms": min(timed.times_ms),
        **far,
        "device_median_ms": statistics.median(timed.device_ms) if timed.device_ms else None,
        "samples_per_s": round(len(column.lengths) / len(column.rows) / median * 1e3, 2),
        "times_ms": list(timed.times_ms),
    }


def add_ratios(cells: Mapping[str, _Json], baseline: str, peers: Sequence[str]) -> str | None:
    """Add to the cells of a column how many times as fast each is as two others.

    ``ratio_median`` and ``ratio_min`` are to the baseline, ``peer_ratio_median`` and
    ``peer_ratio_min`` to the best peer: the one with the least median. None where there is none.

    Args:
        cells: By contender; changed.
        baseline: A contender.
        peers: Contenders that are not ours.

    Returns:
        The best peer.
    """
    timed = {name: cell for name, cell in cells.items() if cell["error"] is None}
    best = min((n for n in peers if n in timed), key=lambda n: timed[n]["median_ms"], default=None)
    for cell in timed.values():
        for prefix, other in (("", baseline), ("peer_", best)):
            for which in ("median", "min"):
                than = timed[other][f"{which}_ms"] if other in timed else None
                cell[f"{prefix}ratio_{which}"] = than / cell[f"{which}_ms"] if than else None
    return best


def add_shares(run: _Json, report: _Json) -> None:
    """Add to each cell of a run its ``gops`` and its share of the machine's peak.

    The share is ``operations / median / peak`` with the peak of the contender's own data type: 1
    would be a model whose every moment is a matrix product at the best speed that was measured.
    None where the peak or the operations are not known.

    Args:
        run: An entry of the report's ``runs``; changed.
        report: The report.
    """
    for name, row in run["contenders"].items():
        peak = run["peaks"].get(report["contenders"][name]["data_type"])
        for column, cell in row["latency"].items():
            if cell["error"] is not None:
                continue
            count = report["columns"][column]["operations"]
            gops = None if count is None else count / cell["median_ms"] / 1e6
            cell["gops"] = gops
            cell["peak_share"] = gops / peak["gops"] if peak and gops is not None else None


def _cells(run: _Json) -> list[_Json]:
    return [cell for row in run["contenders"].values() for cell in row["latency"].values()]


def _threads(count: int, config: BenchConfig) -> str:
    if config.on_gpu:
        return "GPU"
    return "all cores" if count == 0 else f"{count} thread{'s' if count > 1 else ''}"
