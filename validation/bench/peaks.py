"""Measure how many operations a second this machine does in large matrix products."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from albert_deploy.runtime.engines.table import ENGINES
from albert_deploy.validation.bench.interleave import reason

if TYPE_CHECKING:
    import torch

# Rows, inner size, columns. Two squares that fit a processor's caches, and BERT's largest layer;
# on a GPU two squares, and feed-forward layers of base and xxlarge over 128 rows of 384 tokens and
# 32 of 128.
SIZES = ((512, 512, 512), (1024, 1024, 1024), (384, 768, 3072))
GPU_SIZES = ((4096, 4096, 4096), (8192, 8192, 8192), (49152, 768, 3072), (4096, 4096, 16384))
# On a GPU a sample is many runs, so that launching does not count.
_GPU_SAMPLE_SECONDS = 0.02
_OPSET, _IR_VERSION = 18, 9
Peaks = dict[str, dict[str, Any]]
_Size = tuple[int, int, int]
_Run = Callable[[], object]
_Make = Callable[[_Size], _Run]
_GpuMake = Callable[["torch.Generator", _Size], _Run]


def peaks(threads: int, *, seconds: float = 0.3) -> Peaks:
    """Measure a processor: the best of three sizes and of the engines that are installed.

    Each product has a constant right side: ``int8`` is uint8 x int8 to int32 (ONNX Runtime's
    MatMulInteger, OpenVINO's quantized MatMul), ``f32`` float32, ``bf16`` OpenVINO's bfloat16
    where the processor has it.

    Args:
        threads: Threads of the engines; 0 takes one per core.
        seconds: For each size, engine and data type.

    Returns:
        Data type -> ``gops`` (10^9 operations per second) and ``by`` (engine and size); only
        those that could be measured.
    """
    found: list[Peaks] = []
    for engine, data_type, make in _makers(threads):
        found += [_peak(engine, data_type, size, make, seconds) for size in SIZES]
    return best_of(found)


def gpu_peaks(
    device: str = "cuda", *, seconds: float = 0.3, sizes: Sequence[_Size] = GPU_SIZES
) -> tuple[Peaks, list[str]]:
    """Measure a GPU in PyTorch, on random values.

    ``fp32`` is true float32, ``tf32`` float32 on the matrix units, ``fp16`` and ``bf16`` have
    float32 sums, ``int8`` is ``torch._int_mm`` with int32 sums, ``fp8`` ``torch._scaled_mm`` of
    e4m3 with one scale for each side.

    Args:
        device: Of PyTorch.
        seconds: For each size and data type.
        sizes: Rows, inner size and columns.

    Returns:
        See ``peaks``; and a line about each data type that could not be measured.
    """
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    found: list[Peaks] = []
    refused: dict[str, str] = {}
    for data_type, make in GPU_MAKERS.items():
        for size in sizes:
            generator = torch.Generator(device).manual_seed(0)
            try:
                with tf32(data_type == "tf32"):
                    found.append(
                        _peak("PyTorch", data_type, size, partial(make, generator), seconds, wait)
                    )
            # PyTorch raises whatever it meets where a chip or build has no such product.
            except Exception as failure:
                refused[data_type] = reason(failure)
    best = best_of(found)
    return best, [f"no peak of {kind}: {why}" for kind, why in refused.items() if kind not in best]


def best_of(measured: Iterable[Peaks]) -> Peaks:
    """Return the largest peak of each data type of several results."""
    best: Peaks = {}
    for one in measured:
        for data_type, peak in one.items():
            if peak["gops"] > best.get(data_type, {}).get("gops", 0.0):
                best[data_type] = peak
    return best


def _peak(
    by: str,
    data_type: str,
    size: _Size,
    make: _Make,
    seconds: float,
    wait: Callable[[], None] | None = None,
) -> Peaks:
    m, k, n = size
    gops = 2 * m * k * n / _quickest(make(size), seconds, wait) / 1e9
    return {data_type: {"gops": round(gops, 1), "by": f"{by}, {m}x{k}x{n}"}}


def _quickest(run: _Run, seconds: float, wait: Callable[[], None] | None) -> float:
    """Return the least seconds of a run; with ``wait``, which ends it, of the mean of many."""

    def sample(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            run()
        if wait is not None:
            wait()
        return (time.perf_counter() - start) / count

    sample(1)
    count = 1 if wait is None else max(1, int(_GPU_SAMPLE_SECONDS / max(sample(1), 1e-6)))
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        best = min(best, sample(count))
        if time.perf_counter() >= end:
            return best


def _makers(threads: int) -> list[tuple[str, str, _Make]]:
    found: list[tuple[str, str, _Make]] = []
    if ENGINES["ort"].installed and importlib.util.find_spec("onnx") is not None:
        found += [("ort", kind, partial(_ort, kind, threads)) for kind in ("int8", "f32")]
    if ENGINES["openvino"].installed:
        from albert_deploy.runtime.engines.ov import precisions

        kinds = ("int8", *precisions())
        found += [("openvino", kind, partial(_openvino, kind, threads)) for kind in kinds]
    return found


def _ort(data_type: str, threads: int, size: _Size) -> _Run:
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


def _openvino(data_type: str, threads: int, size: _Size) -> _Run:
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
    run: _Run = request.infer
    return run


def _operands(size: _Size, whole: bool) -> tuple[Any, ...]:
    m, k, n = size
    rng = np.random.default_rng(0)
    if whole:
        values = rng.integers(0, 256, (m, k)), rng.integers(-127, 128, (k, n))
        return values[0].astype(np.uint8), values[1].astype(np.int8)
    shapes = (m, k), (k, n)
    return tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let PyTorch's float32 products use the matrix units in TF32, or forbid it, in the block."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _floats(dtype: str) -> _GpuMake:
    def make(generator: torch.Generator, size: _Size) -> _Run:
        import torch

        left, right = _random(generator, size)
        kind = getattr(torch, dtype)
        left, right = left.to(kind), right.to(kind)
        out = torch.empty(size[0], size[2], dtype=kind, device=left.device)
        return lambda: torch.mm(left, right, out=out)

    return make


def _int8(generator: torch.Generator, size: _Size) -> _Run:
    import torch

    left, right = (
        (operand * 40).round().clamp(-127, 127).to(torch.int8)
        for operand in _random(generator, size)
    )
    # Column by column, as integer units read it.
    right = right.t().contiguous().t()
    return lambda: torch._int_mm(left, right)


def _fp8(generator: torch.Generator, size: _Size) -> _Run:
    import torch

    left, right = (operand.to(torch.float8_e4m3fn) for operand in _random(generator, size))
    right = right.t().contiguous().t()
    one = torch.ones((), device=left.device)
    return lambda: torch._scaled_mm(
        left, right, one, one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _random(generator: torch.Generator, size: _Size) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    m, k, n = size
    left, right = (
        torch.randn(shape, generator=generator, device=generator.device)
        for shape in ((m, k), (k, n))
    )
    return left, right


GPU_MAKERS: dict[str, _GpuMake] = {
    "fp32": _floats("float32"),
    "tf32": _floats("float32"),
    "fp16": _floats("float16"),
    "bf16": _floats("bfloat16"),
    "int8": _int8,
    "fp8": _fp8,
}
