"""Measure how many operations a second this machine does in large matrix products."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from albert_deploy.runtime.engines.table import ENGINES

# Rows, inner size, columns: two squares that fit the caches, and BERT's largest layer.
_SIZES = ((512, 512, 512), (1024, 1024, 1024), (384, 768, 3072))
_OPSET, _IR_VERSION = 18, 9


def peaks(threads: int, *, seconds: float = 0.3) -> dict[str, dict[str, Any]]:
    """Measure how many operations a second this machine does in large matrix products.

    The best of three sizes and of the engines that are installed, each with a constant right
    side: ``int8`` is uint8 x int8 to int32 (ONNX Runtime's MatMulInteger, OpenVINO's quantized
    MatMul), ``f32`` float32, ``bf16`` OpenVINO's bfloat16 where the processor has it.

    Args:
        threads: Threads of the engines; 0 takes one per core.
        seconds: For each size, engine and data type.

    Returns:
        Data type -> ``gops`` (10^9 operations per second) and ``by`` (engine and size); only
        those that could be measured.
    """
    found: dict[str, dict[str, Any]] = {}
    for engine, data_type, make in _makers():
        for m, k, n in _SIZES:
            took = _quickest(make(data_type, (m, k, n), threads), seconds)
            gops = 2 * m * k * n / took / 1e9
            if gops > found.get(data_type, {}).get("gops", 0.0):
                found[data_type] = {"gops": round(gops, 1), "by": f"{engine}, {m}x{k}x{n}"}
    return found


def best_of(measured: Iterable[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the larger peak of each data type of several results of ``peaks``."""
    best: dict[str, dict[str, Any]] = {}
    for one in measured:
        for data_type, peak in one.items():
            if peak["gops"] > best.get(data_type, {}).get("gops", 0.0):
                best[data_type] = peak
    return best


_Size = tuple[int, int, int]
_Make = Callable[[str, _Size, int], Callable[[], object]]


def _makers() -> list[tuple[str, str, _Make]]:
    found: list[tuple[str, str, _Make]] = []
    if ENGINES["ort"].installed and importlib.util.find_spec("onnx") is not None:
        found += [("ort", data_type, _ort) for data_type in ("int8", "f32")]
    if ENGINES["openvino"].installed:
        from albert_deploy.runtime.engines.ov import precisions

        found += [("openvino", data_type, _openvino) for data_type in ("int8", *precisions())]
    return found


def _quickest(run: Callable[[], object], seconds: float) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def _ort(data_type: str, size: _Size, threads: int) -> Callable[[], object]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    m, k, n = size
    whole = data_type == "int8"
    op, kind, out = (
        ("MatMulInteger", TensorProto.UINT8, TensorProto.INT32)
        if whole
        else ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT)
    )
    left, right = _operands(size, whole)
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "peak",
        [helper.make_tensor_value_info("x", kind, [m, k])],
        [helper.make_tensor_value_info("y", out, [m, n])],
        [numpy_helper.from_array(right, "w")],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": left})


def _openvino(data_type: str, size: _Size, threads: int) -> Callable[[], object]:
    import openvino
    from openvino import opset13 as ops

    m, k, n = size
    whole = data_type == "int8"
    left, right = _operands(size, whole)
    value = ops.parameter([m, k], np.float32, name="x")
    weight = ops.constant(right)
    product: Any
    if whole:
        ends = [np.float32(end) for end in (0, 255, 0, 255)]
        scale = np.full((1, n), 0.01, np.float32)
        real = ops.multiply(ops.convert(weight, np.float32), scale)
        product = ops.matmul(ops.fake_quantize(value, *ends, 256), real, False, False)
    else:
        product = ops.matmul(value, weight, False, False)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if data_type == "bf16" else "f32",
    }
    model = openvino.Model([product], [value])
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(left.astype(np.float32)))
    run: Callable[[], object] = request.infer
    return run


def _operands(size: _Size, whole: bool) -> tuple[Any, ...]:
    m, k, n = size
    rng = np.random.default_rng(0)
    if whole:
        values = rng.integers(0, 256, (m, k)), rng.integers(-127, 128, (k, n))
        return values[0].astype(np.uint8), values[1].astype(np.int8)
    shapes = (m, k), (k, n)
    return tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
