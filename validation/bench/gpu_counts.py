"""Operations of a benchmarked model's matrix products at any shape, from three lengths counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.manifest import check_file, read_manifest, write_json
from albert_deploy.validation.bench.workload import operations, random_row

COUNTS = "operations.json"
# Three lengths tell the square that the operations of a row grow with.
_COUNTED = (8, 16, 24)


def count_operations(directory: Path, kept: Path) -> dict[int, int]:
    """Return the operations of a row at three lengths; counted once, then kept.

    Args:
        directory: Deployment directory.
        kept: JSON file that keeps the counts.

    Raises:
        ContractError: The float32 file is not the one that the manifest records.
        MachineError: ONNX Runtime or the onnx package is not installed.
    """
    manifest = read_manifest(directory)
    sha256 = manifest["files"][VARIANTS["fp32"].file]["sha256"]
    if kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["sha256"] == sha256:
            return {int(tokens): count for tokens, count in known["operations"].items()}
    path = check_file(directory, manifest, VARIANTS["fp32"].file)
    rows = [random_row(manifest, tokens, seed=0) for tokens in _COUNTED]
    counts = dict(zip(_COUNTED, operations(path, rows), strict=True))
    write_json(kept, {"sha256": sha256, "operations": counts})
    return counts


def through(points: Mapping[int, int], at: int) -> float:
    """Return the value at a place of the polynomial through points (Lagrange's form)."""
    total = 0.0
    for x, y in points.items():
        others = [o for o in points if o != x]
        total += y * float(np.prod([(at - o) / (x - o) for o in others]))
    return total
