"""Calibration texts: where they come from, and what one run of them is shared by all variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from albert_deploy.quantize.calibration import Row, calibrate
from albert_deploy.quantize.half import watched
from albert_deploy.quantize.inputs import Inputs, watch_inputs
from albert_deploy.quantize.islands import HalfConfig
from albert_deploy.quantize.statistics import load_statistics, save_statistics
from albert_deploy.runtime.errors import InputError

# Statistics of one file: graph (how pruned and equalized) and value name, joined.
_JOINT = "::"


@dataclass(kw_only=True)
class Texts:
    """Calibration rows and what was measured with them so far.

    Attributes:
        rows: Tokenized texts; empty where statistics of an earlier calibration stand for them.
        origin: Where they come from, as the manifest records it.
        measured: Which graph (how pruned and equalized) -> what was measured on it.
    """

    rows: tuple[Row, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    measured: dict[str, Inputs] = field(default_factory=dict)

    def inputs(self, graph: str, model: ir.Model, *, moments: bool) -> Inputs:
        """Return the inputs of a graph's weights, measured now or before.

        Args:
            graph: How the graph was pruned and equalized.
            model: That graph.
            moments: Whether second moments are needed too.

        Raises:
            InputError: They were not measured before and there are no texts to do it.
        """
        known = self.measured.get(graph)
        if known is not None and (known.moments or not moments):
            return known
        if not self.rows:
            missing = "second moments" if known else f"statistics of the graph {graph!r}"
            raise InputError(
                f"the saved calibration has no {missing}; give texts with --calibration NAME=PATH"
            )
        found = watch_inputs(model, self.rows, count=len(self.rows), moments=moments)
        self.measured[graph] = found
        return found

    def peaks(self, model: ir.Model, config: HalfConfig) -> dict[str, float]:
        """Return the largest magnitude of each value that half precision would hold."""
        if not self.rows:
            return {}
        labels = watched(model, config)
        found = calibrate(model, labels, self.rows, total=len(self.rows), histograms=False)
        return {name: statistics.peak for name, statistics in found.items()}

    def save(self, path: Path) -> None:
        """Write the statistics of every graph that was measured to one file."""
        joint = {
            f"{graph}{_JOINT}{name}": statistics
            for graph, inputs in self.measured.items()
            for name, statistics in inputs.statistics.items()
        }
        save_statistics(path, joint, self.origin)


def saved_texts(path: Path, *, source_sha256: str) -> Texts:
    """Read what ``Texts.save`` wrote.

    Args:
        path: ``calibration/statistics.npz`` of a deployment directory.
        source_sha256: Of the float32 file that is to be quantized.

    Raises:
        InputError: The file cannot be read or is of another model.
    """
    joint, origin = load_statistics(path)
    if origin.get("source_sha256") != source_sha256:
        raise InputError(
            f"{path} was measured on another export of the model; calibrate with texts"
        )
    texts = Texts(origin=origin)
    for key, statistics in joint.items():
        graph, _, name = key.partition(_JOINT)
        texts.measured.setdefault(graph, Inputs(statistics={})).statistics[name] = statistics
    return texts


def sampled(count: int, wanted: int, seed: int) -> list[int]:
    """Return the positions of a random sample in ascending order; all where there are fewer."""
    return sorted(np.random.default_rng(seed).permutation(count)[:wanted].tolist())
