"""The quantization schemes, one literal table: name -> type, configuration, functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from albert_deploy.quantize.half import half_exceptions, to_half
from albert_deploy.quantize.int8 import Int8Config, int8_exceptions, to_int8
from albert_deploy.quantize.islands import BFLOAT16, FLOAT16, HalfConfig


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How one variant is made.

    Args:
        dtype: Type in which it stores the weights.
        config: Its options.
        convert: Changes a normalized float32 graph in place; returns the count of nodes.
        exceptions: Names the weights that are meant to stay float32, with the reason.
    """

    dtype: ir.DataType
    config: Any
    convert: Callable[[ir.Model, Any], int]
    exceptions: Callable[[ir.Model, Any], dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``manifest.json`` holds."""
        return {"dtype": self.dtype.name.lower(), "options": asdict(self.config)}


SCHEMES: dict[str, Scheme] = {
    "fp16": Scheme(
        dtype=ir.DataType.FLOAT16,
        config=HalfConfig(dtype=FLOAT16),
        convert=to_half,
        exceptions=half_exceptions,
    ),
    "bf16": Scheme(
        dtype=ir.DataType.BFLOAT16,
        config=HalfConfig(dtype=BFLOAT16, min_columns=64),
        convert=to_half,
        exceptions=half_exceptions,
    ),
    "int8": Scheme(
        dtype=ir.DataType.INT8,
        config=Int8Config(),
        convert=to_int8,
        exceptions=int8_exceptions,
    ),
}
