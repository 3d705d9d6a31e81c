"""What calibration keeps of each activation: extremes, a histogram and channel peaks."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import writing

# Bins on either side of zero. Their width is a power of two, so that two histograms merge
# without rounding and the order of the rows does not matter.
HALF = 2048

_FORMAT = 1
# What numpy, zipfile, zlib and json raise for a file that is damaged or of another kind.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    TokenError,
    BadZipFile,
    zlib.error,
)


@dataclass(kw_only=True)
class Statistics:
    """One activation over all calibration rows.

    Attributes:
        label: Name for people, such as ``encoder iteration 7, ffn_output, input``.
        width: Width of a bin, a power of two.
        counts: int64 [2 * HALF]; bin i covers ``(i - HALF) * width`` to one width more. Of its
            edges it holds the one farther from zero, on either side; zero is in bin HALF.
        minimum: Smallest value.
        maximum: Largest value.
        peaks: float32 [channels], largest magnitude of each channel; [1] where the last axis
            is the sequence, as for attention's probabilities.
    """

    label: str
    width: float
    counts: npt.NDArray[np.int64]
    minimum: float
    maximum: float
    peaks: npt.NDArray[np.float32]

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def total(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    def share_beyond(self, limit: float) -> float:
        """Return the share of values whose magnitude exceeds a limit, to within a bin."""
        return float(self.counts[np.abs(self.centers()) > limit].sum()) / max(self.total, 1)

    def centers(self) -> npt.NDArray[np.float64]:
        """Return the middle of each bin, [2 * HALF]."""
        return np.asarray((np.arange(-HALF, HALF) + 0.5) * self.width, np.float64)


def observe(
    values: npt.NDArray[np.float32],
    label: str,
    into: Statistics | None = None,
    *,
    channels: bool = True,
    count: bool = True,
) -> Statistics:
    """Add values to the statistics of an activation, or start them.

    Args:
        values: Finite float32 [..., sequence, channels], [rows, channels] or, for attention,
            [rows, heads, sequence, channels of a head].
        label: Name for people.
        into: Statistics so far; changed in place.
        channels: Whether the last axis holds channels.
        count: Whether the histogram is kept.
    """
    low, high = float(values.min()), float(values.max())
    magnitudes = np.abs(values)
    if not channels:
        peaks = magnitudes.max(keepdims=True).reshape(1)
    elif values.ndim == 4:
        peaks = magnitudes.max(axis=(0, 2)).reshape(-1)
    else:
        peaks = magnitudes.reshape(-1, values.shape[-1]).max(axis=0)
    if into is None:
        into = Statistics(
            label=label,
            width=_width(max(abs(low), abs(high))),
            counts=np.zeros(2 * HALF, np.int64),
            minimum=low,
            maximum=high,
            peaks=peaks,
        )
    else:
        into.minimum, into.maximum = min(into.minimum, low), max(into.maximum, high)
        if into.peaks.shape != peaks.shape:
            # What changes with the text is a sequence: there are no channels.
            into.peaks, peaks = into.peaks.max(keepdims=True), peaks.max(keepdims=True)
        into.peaks = np.maximum(into.peaks, peaks)
        wanted = _width(into.peak)
        while into.width < wanted:
            _widen(into)
    if not count:
        return into
    # Alike on both sides of zero: the largest value may lie on the last bin's far edge, and has
    # to be counted in the same bin whether the histogram was widened before or after it.
    places = values.reshape(-1) / np.float64(into.width)
    bins = np.where(places > 0, np.ceil(places) - 1, np.floor(places)).astype(np.int64) + HALF
    into.counts += np.bincount(bins, minlength=2 * HALF)
    return into


def _width(peak: float) -> float:
    """Return the smallest power of two with ``HALF`` bins of which ``peak`` is covered.

    Never less than for zeros alone, which may come before or after what is hardly larger.
    """
    tiny = float(np.finfo(np.float32).tiny)
    return max(tiny, float(2.0 ** np.ceil(np.log2(peak / HALF)))) if peak else tiny


def _widen(statistics: Statistics) -> None:
    merged = np.zeros_like(statistics.counts)
    quarter = HALF // 2
    merged[quarter : HALF + quarter] = statistics.counts.reshape(-1, 2).sum(axis=1)
    statistics.counts = merged
    statistics.width *= 2


def save_statistics(
    path: Path, statistics: Mapping[str, Statistics], origin: Mapping[str, Any]
) -> None:
    """Write the statistics of all activations, by value name, to one compressed file.

    Args:
        path: ``.npz`` file.
        statistics: Statistics by name of the value in the float32 graph.
        origin: What they were made from, JSON; a later run compares it.
    """
    import json

    header = {
        "format": _FORMAT,
        "origin": dict(origin),
        "activations": [
            {
                "value": name,
                "label": s.label,
                "width": s.width,
                "minimum": s.minimum,
                "maximum": s.maximum,
            }
            for name, s in statistics.items()
        ],
    }
    arrays: dict[str, Any] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for index, s in enumerate(statistics.values()):
        arrays[f"counts_{index}"] = s.counts
        arrays[f"peaks_{index}"] = s.peaks
    with writing(path) as file:
        np.savez_compressed(file, **arrays)


def load_statistics(path: Path) -> tuple[dict[str, Statistics], dict[str, Any]]:
    """Read what ``save_statistics`` wrote: statistics by value name, and their origin.

    Raises:
        InputError: The file is missing or is no such file.
    """
    import json

    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}, this version reads {_FORMAT}")
            origin = dict(header["origin"])
            found = {
                entry["value"]: Statistics(
                    label=entry["label"],
                    width=float(entry["width"]),
                    counts=arrays[f"counts_{index}"],
                    minimum=float(entry["minimum"]),
                    maximum=float(entry["maximum"]),
                    peaks=arrays[f"peaks_{index}"],
                )
                for index, entry in enumerate(header["activations"])
            }
        for statistics in found.values():
            _check(statistics)
    except _UNREADABLE as error:
        raise InputError(
            f"cannot read calibration statistics from {path}: {error}; calibrate again"
        ) from error
    return found, origin


def _check(statistics: Statistics) -> None:
    """Raise ``ValueError`` for what ``observe`` never makes, such as another array's contents."""
    s = statistics
    numbers = (s.width, s.minimum, s.maximum)
    if (
        s.counts.shape != (2 * HALF,)
        or s.counts.dtype != np.int64
        or s.peaks.ndim != 1
        or not np.issubdtype(s.peaks.dtype, np.floating)
        or not np.isfinite([*numbers, *s.peaks]).all()
        or (s.counts < 0).any()
        or s.width <= 0
        or s.minimum > s.maximum
    ):
        raise ValueError(f"{s.label!r} has impossible contents")
