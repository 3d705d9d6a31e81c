"""The quantization schemes, one literal table: name -> type, configuration, functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from albert_deploy.quantize.calibration.texts import Texts
from albert_deploy.quantize.schemes.dynamic import Int8Config, int8_exceptions, to_int8
from albert_deploy.quantize.schemes.fp32_regions import (
    BFLOAT16,
    FLOAT16,
    HalfConfig,
    float32_weights,
)
from albert_deploy.quantize.schemes.half import KEPT_KEY, to_half, watched
from albert_deploy.quantize.schemes.static import (
    StaticConfig,
    integer_products,
    real_uses,
    static_exceptions,
    to_static,
)
from albert_deploy.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How one variant is made.

    Args:
        dtype: Type in which it stores the weights.
        config: Its options.
        convert: Changes a normalized float32 graph in place, with calibration texts where there
            are some; returns what the manifest says of it.
        exceptions: Names the weights that are meant to stay as they are, with the reason.
        calibrated: Whether it cannot be made without calibration.
        takes_texts: Whether it uses texts where there are some.
        real_uses: Weight -> labels of its uses whose activation is meant to stay real.
        products: Weight -> number of products with it whose activation is meant to be rounded.
    """

    dtype: ir.DataType
    config: Any
    convert: Callable[[ir.Model, Any, Texts | None], dict[str, Any]]
    exceptions: Callable[[ir.Model, Any], dict[str, str]]
    calibrated: bool = False
    takes_texts: bool = False
    real_uses: Callable[[ir.Model, Any], dict[str, list[str]]] | None = None
    products: Callable[[ir.Model, Any], dict[str, int]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``manifest.json`` holds."""
        return {"dtype": self.dtype.name.lower(), "options": asdict(self.config)}


def _half(model: ir.Model, config: HalfConfig, texts: Texts | None) -> dict[str, Any]:
    peaks = texts.peaks(model, watched(model, config)) if texts else None
    converted = to_half(model, config, peaks)
    kept = json.loads(model.metadata_props.get(KEPT_KEY, "{}"))
    return {"passes": {"nodes converted": converted}, "kept_float32": kept}


def _dynamic(model: ir.Model, config: Int8Config, texts: Texts | None) -> dict[str, Any]:
    return {"passes": {"nodes converted": to_int8(model, config)}}


def _static(model: ir.Model, config: StaticConfig, texts: Texts | None) -> dict[str, Any]:
    if texts is None:
        raise InputError("static quantization needs texts; give some: `calibration` NAME=PATH")
    return to_static(model, config, texts)


def _static_scheme(dtype: ir.DataType, config: StaticConfig) -> Scheme:
    return Scheme(
        dtype=dtype,
        config=config,
        convert=_static,
        exceptions=static_exceptions,
        calibrated=True,
        takes_texts=True,
        real_uses=real_uses,
        products=integer_products,
    )


def _half_scheme(dtype: ir.DataType, config: HalfConfig) -> Scheme:
    return Scheme(
        dtype=dtype,
        config=config,
        convert=_half,
        exceptions=float32_weights,
        takes_texts=True,
    )


# It fuses attention in float16 at any length, in INT8 up to 512 tokens and in FP8 not at all.
# Its sums have 32 bits.
_FOR_TENSORRT: dict[str, Any] = {"products": (), "pairs": False, "first_token": False}

SCHEMES: dict[str, Scheme] = {
    "fp16": _half_scheme(ir.DataType.FLOAT16, HalfConfig(dtype=FLOAT16)),
    "bf16": _half_scheme(ir.DataType.BFLOAT16, HalfConfig(dtype=BFLOAT16, min_columns=64)),
    "int8": Scheme(
        dtype=ir.DataType.INT8, config=Int8Config(), convert=_dynamic, exceptions=int8_exceptions
    ),
    "int8-qdq": _static_scheme(ir.DataType.INT8, StaticConfig()),
    "int8-fp16": _static_scheme(ir.DataType.INT8, StaticConfig(half=True, **_FOR_TENSORRT)),
    "fp8-qdq": _static_scheme(
        ir.DataType.FLOAT8E4M3FN, StaticConfig(format="fp8", alpha=0.0, **_FOR_TENSORRT)
    ),
}
