"""Count the operations of a model's matrix products."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.engines.ort import open_ort
from albert_deploy.runtime.errors import MachineError
from albert_deploy.runtime.session import Feeds

_PRODUCTS = ("MatMul", "Gemm")


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
