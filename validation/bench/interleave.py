"""Load and time contenders interleaved, so that all meet one machine.

Nothing here knows of a GPU: a ``Device`` says how much memory is in use and what time it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import AlbertDeployError
from albert_deploy.runtime.session import Feeds, Session

_WORDS = {
    "quantize-dynamic": "quantize_dynamic",
    "nncf-int8": "NNCF INT8",
    "ort": "ORT",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16",
    "ort-cuda": "ORT CUDA",
    "trt": "TensorRT",
    "trt-graphs": "TensorRT, CUDA graphs",
    "torch": "torch eager",
    "torch-compile": "torch.compile",
}
# Rounds that are run even where the time is up, so that a median means something.
LEAST_ROUNDS = 3
# Of a run as slow as this, cold caches are a small part.
_SLOW_MS = 100.0
_LONGEST_REASON = 300
Failures = tuple[type[Exception], ...]
Logits = npt.NDArray[np.float32]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run the model.

    Args:
        name: Key in the report, ``MODEL@ENGINE``.
        open: Loads it: a session. One with ``device_ms`` says how long the last run took on the
            device alone, without copies; 0 where nobody measured.
        bytes: Size of its files; of the unique parameters for PyTorch; None where not known.
        sha256: Of the file or the checkpoint.
        file: Path in the deployment directory; None where it has none there.
        variant: Key of ``VARIANTS``; None for a peer's model.
        data_type: Of its matrix products: a key of the measured peaks.
        load_ms: Measured already, because it takes too long to do again; else None.
    """

    name: str
    open: Callable[[], Session]
    bytes: int | None
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
    model, _, engine = name.partition("@")
    return ", ".join(_WORDS.get(part, part) for part in (model, engine) if part)


def _unknown() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is asked of the device that all run on.

    Args:
        used_bytes: Memory in use on it, by whomever; None where it cannot be told.
        release: Gives memory back that is cached and that no run holds.
        clock: Seconds.
    """

    used_bytes: Callable[[], int | None] = _unknown
    release: Callable[[], None] = _unknown
    clock: Callable[[], float] = time.perf_counter


@dataclass(kw_only=True)
class Timed:
    """Times of one contender at one column.

    Attributes:
        times_ms: Of each round, the mean over the column's inputs.
        device_ms: Likewise on the device alone; empty where it is not known.
        error: Why it did not go on.
    """

    times_ms: list[float] = field(default_factory=list)
    device_ms: list[float] = field(default_factory=list)
    error: str | None = None


def load_interleaved(
    found: Sequence[Contender],
    rounds: int,
    stack: contextlib.ExitStack,
    *,
    device: Device = Device(),
    forgiven: Failures = (),
    around: Callable[[str, str], contextlib.AbstractContextManager[None]] | None = None,
) -> tuple[dict[str, Session], dict[str, dict[str, Any]]]:
    """Load every contender once per round; the sessions of the last round stay open.

    A first round is not counted, unless it is the only one: it imports the engines and brings the
    files into memory. What takes too long to load again, and was timed when it was made, is opened
    in the last alone.

    Args:
        found: Contenders.
        rounds: Timed rounds, after the first.
        stack: Closes the sessions that are returned.
        device: Its clock and memory.
        forgiven: What may go wrong; such a contender has an ``error`` and no session.
        around: Called with a name and what is done; the load runs within what it returns.

    Returns:
        Sessions, and records, both by contender: ``load_times_ms``, ``held_bytes`` (by how much
        the memory in use grew) and ``error``.
    """
    records: dict[str, dict[str, Any]] = {
        c.name: {"load_times_ms": [], "held_bytes": None, "error": None} for c in found
    }
    sessions: dict[str, Session] = {}
    for number in range(rounds + 1):
        for contender in rotated(found, number):
            record = records[contender.name]
            last = number == rounds
            if record["error"] or (contender.load_ms is not None and not last):
                continue
            before, start = device.used_bytes(), device.clock()
            try:
                with around(contender.name, "loading") if around else contextlib.nullcontext():
                    session = contender.open()
            except forgiven as failure:
                record["error"] = reason(failure)
                device.release()
                continue
            if contender.load_ms is not None:
                record["load_times_ms"].append(contender.load_ms)
            elif number or not rounds:
                record["load_times_ms"].append(_ms(device.clock() - start))
            if last:
                record["held_bytes"] = difference(device.used_bytes(), before)
                sessions[contender.name] = session
                stack.callback(_close, session, forgiven)
            else:
                session.close()
    return {c.name: sessions[c.name] for c in found if c.name in sessions}, records


def _close(session: Session, forgiven: Failures) -> None:
    # After an error of the device, freeing fails too.
    with contextlib.suppress(*forgiven):
        session.close()


def first_runs(
    session: Session, rows: Sequence[Feeds], warmup: int, device: Device, forgiven: Failures = ()
) -> tuple[dict[str, Any], Logits | None]:
    """Run a contender over a column before it is timed, alone.

    Returns:
        ``error``, ``first_run_ms``, ``taken_bytes`` (how much device memory these runs took) and
        ``kept_bytes`` (how much of it stays with the contender); and the first output of the
        first input, None where it failed.
    """
    device.release()
    before = device.used_bytes()
    record: dict[str, Any] = {
        "error": None,
        "first_run_ms": None,
        "taken_bytes": None,
        "kept_bytes": None,
    }
    try:
        start = device.clock()
        logits: Any = session.run(rows[0])[session.outputs[0]]
        for feeds in rows[1:]:
            session.run(feeds)
        record["first_run_ms"] = _ms(device.clock() - start)
        for _ in range(warmup - 1):
            for feeds in rows:
                session.run(feeds)
    except forgiven as failure:
        device.release()
        return record | {"error": reason(failure)}, None
    # Read before others come: what a framework caches here belongs to these runs.
    record["taken_bytes"] = difference(device.used_bytes(), before)
    device.release()
    record["kept_bytes"] = difference(device.used_bytes(), before)
    if not np.isfinite(logits).all():
        return record | {"error": "it answers NaN or infinity"}, None
    return record, logits


def time_interleaved(
    sessions: Mapping[str, Session],
    rows: Sequence[Feeds],
    *,
    repeats: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    forgiven: Failures = (),
    done: Callable[[], object] = _unknown,
) -> dict[str, Timed]:
    """Time every session once per round, each round starting with the next one.

    Before each timed pass the session runs the first input untimed: the others have just pushed
    its weights out of the caches, where they are when a model is alone.

    Args:
        sessions: Sessions by contender.
        rows: Inputs; a time is the mean over them.
        repeats: Timed rounds.
        seconds: No new round starts after this time, but ``LEAST_ROUNDS`` are always run.
        clock: Seconds.
        forgiven: What may go wrong; such a contender has an ``error`` and does not go on.
        done: Called after each pass.
    """
    times = {name: Timed() for name in sessions}
    begin = clock()
    for number in range(repeats):
        left = [name for name in sessions if times[name].error is None]
        if not left or (number >= LEAST_ROUNDS and clock() - begin > seconds):
            break
        for name in rotated(left, number):
            try:
                _time_once(sessions[name], rows, times[name], clock)
            except forgiven as failure:
                times[name].error = reason(failure)
            done()
    return times


def _time_once(
    session: Session, rows: Sequence[Feeds], times: Timed, clock: Callable[[], float]
) -> None:
    if not times.times_ms or times.times_ms[-1] < _SLOW_MS:
        session.run(rows[0])
    on_device = 0.0
    start = clock()
    for feeds in rows:
        session.run(feeds)
        on_device += getattr(session, "device_ms", 0.0)
    times.times_ms.append(_ms((clock() - start) / len(rows)))
    if on_device:
        times.device_ms.append(round(on_device / len(rows), 4))


def reason(failure: Exception) -> str:
    """Return one line about why a contender failed."""
    lines = str(failure).strip().splitlines() or [""]
    ours = isinstance(failure, AlbertDeployError)
    text = " ".join(lines) if ours else f"{type(failure).__name__}: {lines[0]}"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


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


def difference(after: int | None, before: int | None) -> int | None:
    """Return ``after - before``, None where one is not known."""
    return None if after is None or before is None else after - before


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)
