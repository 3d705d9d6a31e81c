"""Operations of a model's matrix products, by which a time becomes a share of a machine's peak."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.ort import open_ort
from albert_deploy.runtime.errors import MachineError
from albert_deploy.runtime.manifest import check_file
from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.bench.workload import Column, random_row, tokens

_PRODUCTS = ("MatMul", "Gemm")
# Three lengths tell the square that the operations of a row grow with.
_COUNTED = (4, 8, 12)


def column_operations(
    directory: Path, manifest: dict[str, Any], columns: Sequence[Column]
) -> dict[str, float]:
    """Return the mean operations of the inputs of each column, padding included.

    Raises:
        ContractError: The float32 file is not the one that the manifest records.
        MachineError: ONNX Runtime or the onnx package is not installed.
    """
    path = check_file(directory, manifest, VARIANTS["fp32"].file)
    rows = [random_row(manifest, n, seed=0) for n in _COUNTED]
    counts = dict(zip(_COUNTED, operations(path, rows), strict=True))
    sequences = rows[0]["input_ids"].size // _COUNTED[0]

    def of(feeds: Feeds) -> float:
        length = tokens(feeds)
        return feeds["input_ids"].size / length / sequences * through(counts, length)

    return {c.name: sum(map(of, c.rows)) / len(c.rows) for c in columns}


def through(points: Mapping[int, int], at: int) -> float:
    """Return the value at a place of the polynomial through points (Lagrange's form)."""
    total = 0.0
    for x, y in points.items():
        others = [o for o in points if o != x]
        total += y * float(np.prod([(at - o) / (x - o) for o in others]))
    return total


def operations(path: Path, rows: Sequence[Feeds]) -> list[int]:
    """Count the operations of every matrix product of a float32 graph, attention's too.

    A product of [.., m, k] with [.., k, n] has ``2 * batch * m * n * k`` operations: a
    multiplication and an addition for each term of each element. Nothing else is counted;
    LayerNorm, softmax and GELU together are below 1% of it. Shapes are those that ONNX Runtime
    sees when it runs the rows.

    Args:
        path: ONNX file.
        rows: Feeds.

    Returns:
        Operations of each row.

    Raises:
        MachineError: ONNX Runtime or the onnx package is not installed.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError as error:
        raise MachineError(
            f"the onnx package is not installed ({error}); run: pip install 'albert-deploy[export]'"
        ) from error
    model = onnx.load(path)
    products = [n for n in model.graph.node if n.op_type in _PRODUCTS]
    del model.graph.output[:]
    for index, node in enumerate(products):
        for role, value in (("left", node.input[0]), ("result", node.output[0])):
            name = f"{role}_{index}"
            model.graph.node.append(helper.make_node("Shape", [value], [name]))
            kind = helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [None])
            model.graph.output.append(kind)
    counts = []
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder:
        probe = Path(folder) / "shapes.onnx"
        onnx.save(model, probe, save_as_external_data=True, location="weights")
        del model
        with open_ort(probe) as session:
            for feeds in rows:
                found: Any = session.run(feeds)
                counts.append(
                    sum(
                        2 * int(np.prod(found[f"result_{i}"])) * int(found[f"left_{i}"][-1])
                        for i in range(len(products))
                    )
                )
    return counts
