"""Checkpoints that need no download: two small trained ALBERTs with labelled data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A shipped checkpoint and its data.

    Attributes:
        checkpoint: Folder of the checkpoint.
        dataset: Name of the data set's layout, a key of ``validation.data.datasets.DATASETS``.
        data: Folder of the data in its official layout.
    """

    checkpoint: Path
    dataset: str
    data: Path


SAMPLES: dict[str, Sample] = {
    "sample-sst2": Sample(checkpoint=_HERE / "sst2", dataset="sst2", data=_HERE / "sst2" / "data"),
    "sample-squad": Sample(
        checkpoint=_HERE / "squad", dataset="squad", data=_HERE / "squad" / "data"
    ),
}
