"""Time and peak memory of a step, for the manifest."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass
class Measurement:
    """What a step cost.

    Attributes:
        seconds: Wall-clock time.
        peak_memory_bytes: Largest resident memory of the process while the step ran.
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0

    def to_json(self) -> dict[str, float | int]:
        """Return the form that ``manifest.json`` holds."""
        return {"seconds": round(self.seconds, 3), "peak_memory_bytes": self.peak_memory_bytes}


@contextlib.contextmanager
def measured() -> Iterator[Measurement]:
    """Measure the block; on Linux the kernel's high-water mark is reset at its start."""
    result = Measurement()
    # Writing 5 resets VmHWM (man 5 proc); where that is not allowed the peak is the process's.
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")
    start = time.perf_counter()
    try:
        yield result
    finally:
        result.seconds = time.perf_counter() - start
        result.peak_memory_bytes = _peak_bytes()


def _peak_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
