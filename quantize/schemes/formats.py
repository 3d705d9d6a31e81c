"""Number formats of static quantization: INT8 and FP8, each with its scales and its rounding."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from albert_deploy.runtime.errors import ContractError

Array = npt.NDArray[np.generic]
Real = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A symmetric format with a zero point of zero.

    Args:
        dtype: Type of the stored values.
        numpy: The same for numpy.
        largest: Largest magnitude that is used; the scale maps the range to it.
        suffix: Appended to the name of a weight that is stored in it.
        evenly_spaced: Whether steps are equal, as for integers.
    """

    dtype: ir.DataType
    numpy: np.dtype[np.generic]
    largest: int
    suffix: str
    evenly_spaced: bool

    def zero(self) -> Array:
        """Return the zero point, a scalar."""
        return np.zeros((), self.numpy)

    def cast(self, scaled: Real) -> Array:
        """Round values that were divided by their scale; what lies outside is clipped."""
        clipped = np.clip(scaled, -self.largest, self.largest)
        return (np.rint(clipped) if self.evenly_spaced else clipped).astype(self.numpy)

    def scales(self, weight: Real, axis: int) -> Real:
        """Return a weight's scales.

        Args:
            weight: float32 [rows, columns].
            axis: Axis that keeps its scale: 1 for a multiplied matrix, 0 for a looked-up table.

        Returns:
            float32 [size of axis], positive; an all-zero channel gets scale 1.
        """
        peak = np.abs(weight).max(axis=1 - axis)
        scale = np.where(peak > 0, peak / self.largest, 1.0).astype(np.float32)
        # A denormal scale has too few bits to stay within half a step.
        return np.maximum(scale, np.finfo(np.float32).tiny)


def half_scale(scale: Real) -> Real:
    """Return scales that float16 holds exactly and that are no smaller.

    Not below its smallest normal number: a denormal scale would have few bits.

    Raises:
        ContractError: A scale is too large for float16.
    """
    if float(scale.max(initial=0)) > float(np.finfo(np.float16).max):
        raise ContractError(
            f"a scale reaches {float(scale.max()):.4g}, float16 ends at 65504; leave int8-fp16 "
            "out of `variants` for this checkpoint"
        )
    rounded = scale.astype(np.float16)
    low = rounded.astype(np.float32) < scale
    rounded[low] = np.nextafter(rounded[low], np.float16(np.inf))
    return np.maximum(rounded, np.finfo(np.float16).tiny).astype(np.float32)


FORMATS: dict[str, Format] = {
    "int8": Format(
        dtype=ir.DataType.INT8,
        numpy=np.dtype(np.int8),
        largest=127,
        suffix="_int8",
        evenly_spaced=True,
    ),
    "fp8": Format(
        dtype=ir.DataType.FLOAT8E4M3FN,
        numpy=np.dtype(ml_dtypes.float8_e4m3fn),
        largest=448,
        suffix="_fp8",
        evenly_spaced=False,
    ),
}
