"""Bias correction: the mean error of rounded weights is taken off the biases behind them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from albert_deploy.export.graph import matrix, values_of
from albert_deploy.quantize.inputs import Matrix
from albert_deploy.quantize.qdq import Plan


def correct_biases(model: ir.Model, plan: Plan, means: Mapping[str, Matrix]) -> int:
    """Take the mean error of a rounded weight's products off the bias behind them.

    One correction serves all uses, as one bias does: the mean is over the inputs of all of
    them (Nagel et al. 2019, "Data-free quantization", section 4.2, with measured means).
    """
    count = 0
    for name, weight in plan.weights.items():
        readers = [n for n, _ in model.graph.initializers[name].uses()]
        biases = {b for n in readers if (b := _bias_behind(n)) is not None}
        if name not in means or len(biases) != 1:
            continue
        bias = biases.pop()
        error = means[name] @ (weight.real().astype(np.float64) - matrix(model, name))
        corrected = np.asarray(values_of(bias).numpy(), np.float64) - error
        bias.const_value = ir.tensor(corrected.astype(np.float32), name=bias.name)
        count += 1
    return count


def _bias_behind(node: ir.Node) -> ir.Value | None:
    readers = [n for n, _ in node.outputs[0].uses()]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    return next((v for v in readers[0].inputs if v is not None and v.is_initializer()), None)
