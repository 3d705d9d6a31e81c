"""Measure how many operations a second a GPU does in large matrix products, by data type."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from albert_deploy.validation.bench.gpu_turns import reason

if TYPE_CHECKING:
    import torch

# Rows, inner size, columns: two squares, and feed-forward layers of base and xxlarge over 128 rows
# of 384 tokens and 32 of 128.
SIZES = ((4096, 4096, 4096), (8192, 8192, 8192), (49152, 768, 3072), (4096, 4096, 16384))
_SAMPLE_SECONDS = 0.02
_Run = Callable[[], object]
_Size = tuple[int, int, int]


def gpu_peaks(
    device: str = "cuda", *, seconds: float = 0.3, sizes: Sequence[_Size] = SIZES
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Measure the best rate of each data type over a few sizes, on random values.

    ``fp32`` is true float32, ``tf32`` float32 on the matrix units, ``fp16`` and ``bf16`` have
    float32 sums, ``int8`` is ``torch._int_mm`` with int32 sums, ``fp8`` ``torch._scaled_mm`` of
    e4m3 with one scale for each side.

    Args:
        device: Of PyTorch.
        seconds: For each size and data type.
        sizes: Rows, inner size and columns.

    Returns:
        Data type -> ``gops`` (10^9 operations a second) and ``by``, only those that could be
        measured; and a line about each of the others.
    """
    import torch

    found: dict[str, dict[str, Any]] = {}
    notes = []
    for data_type, make in MAKERS.items():
        refused = ""
        for m, k, n in sizes:
            try:
                with tf32(data_type == "tf32"):
                    generator = torch.Generator(device).manual_seed(0)
                    took = _quickest(make((m, k, n), generator), device, seconds)
            # PyTorch raises whatever it meets where a chip or build has no such product.
            except Exception as failure:
                refused = reason(failure)
                continue
            gops = 2 * m * k * n / took / 1e9
            if gops > found.get(data_type, {}).get("gops", 0.0):
                found[data_type] = {"gops": round(gops, 1), "by": f"PyTorch, {m}x{k}x{n}"}
        if data_type not in found:
            notes.append(f"no peak of {data_type}: {refused}")
    return found, notes


def _quickest(run: _Run, device: str, seconds: float) -> float:
    """Return the least seconds of one run; a sample is many, so that launching does not count."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    def sample(count: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        return (time.perf_counter() - start) / count

    sample(1)
    count = max(1, int(_SAMPLE_SECONDS / max(sample(1), 1e-6)))
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        best = min(best, sample(count))
        if time.perf_counter() >= end:
            return best


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


def _floats(dtype: str) -> Callable[[_Size, torch.Generator], _Run]:
    def make(size: _Size, generator: torch.Generator) -> _Run:
        import torch

        left, right = _operands(size, generator)
        kind = getattr(torch, dtype)
        left, right = left.to(kind), right.to(kind)
        out = torch.empty(size[0], size[2], dtype=kind, device=left.device)
        return lambda: torch.mm(left, right, out=out)

    return make


def _int8(size: _Size, generator: torch.Generator) -> _Run:
    import torch

    left, right = (
        (operand * 40).round().clamp(-127, 127).to(torch.int8)
        for operand in _operands(size, generator)
    )
    # Column by column, as integer units read it.
    right = right.t().contiguous().t()
    return lambda: torch._int_mm(left, right)


def _fp8(size: _Size, generator: torch.Generator) -> _Run:
    import torch

    left, right = (operand.to(torch.float8_e4m3fn) for operand in _operands(size, generator))
    right = right.t().contiguous().t()
    one = torch.ones((), device=left.device)
    return lambda: torch._scaled_mm(
        left, right, one, one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _operands(size: _Size, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    m, k, n = size
    left, right = (
        torch.randn(shape, generator=generator, device=generator.device)
        for shape in ((m, k), (k, n))
    )
    return left, right


MAKERS: dict[str, Callable[[_Size, torch.Generator], _Run]] = {
    "fp32": _floats("float32"),
    "tf32": _floats("float32"),
    "fp16": _floats("float16"),
    "bf16": _floats("bfloat16"),
    "int8": _int8,
    "fp8": _fp8,
}
