"""What a parsed network asks TensorRT for: its products with their types, and its stored weights.

Networks are strongly typed, so this is what the ONNX file says, read without the onnx package: a
machine with TensorRT alone can build from a kit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from albert_deploy.export.engine.log import type_named

# Layers that pass a tensor on in its type, whole or in part: what is behind them is multiplied.
_PASSING = {"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "GATHER", "SLICE"}


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product.

    Attributes:
        name: Of the ONNX node.
        data: Type of the first operand: before its DequantizeLinear where it has one.
        weight: Type of the second likewise, and behind any Cast; None where it is not a constant.
        real: Type that both have behind DequantizeLinear.
        source: The node that gives ``data`` its type: a Cast, a QuantizeLinear, or what computes
            it; empty for an input of the network.
        inner: Size of the axis that is summed over; -1 where it is dynamic. For the first
            product of an attention that is the head size.
        weight_elements: Number of elements of the constant; 0 where there is none.
        scale_bytes: Size of the constant's scales; 0 where it has none.
    """

    name: str
    data: str
    weight: str | None
    real: str
    source: str = ""
    inner: int = -1
    weight_elements: int = 0
    scale_bytes: int = 0

    @property
    def is_linear(self) -> bool:
        """Tell a linear layer from one of attention's own products."""
        return self.weight is not None

    @property
    def weight_only(self) -> bool:
        """Tell whether the constant alone is quantized."""
        return self.weight not in (None, self.data)


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a network asks for.

    Attributes:
        products: Matrix products, in the order of the network.
        stored_bytes: Size of all constants, each content once.
        cast_bytes: What constants that are cast to a wider type need beyond their stored size.
        has_attention: Whether it has the ``Attention`` operator.
    """

    products: tuple[Product, ...]
    stored_bytes: int
    cast_bytes: int
    has_attention: bool

    @property
    def linears(self) -> tuple[Product, ...]:
        """Return the products with a constant."""
        return tuple(product for product in self.products if product.is_linear)


def read_network(module: Any, network: Any) -> Network:
    """Read a parsed network.

    Args:
        module: The flavour's module.
        network: Its ``INetworkDefinition``, right after parsing.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    made_by: dict[str, Any] = {}
    for layer in layers:
        for i in range(layer.num_outputs):
            made_by[layer.get_output(i).name] = layer
    kinds = {layer.type.name for layer in layers}
    return Network(
        products=tuple(
            _product(layer, made_by) for layer in layers if layer.type.name == "MATRIX_MULTIPLY"
        ),
        stored_bytes=_stored_bytes(module, layers),
        cast_bytes=sum(_cast_bytes(layer, made_by) for layer in layers),
        has_attention=any(kind.startswith("ATTENTION") for kind in kinds),
    )


def _product(layer: Any, made_by: dict[str, Any]) -> Product:
    first, second = layer.get_input(0), layer.get_input(1)
    data, _ = _behind(first, made_by)
    weight, scale = _behind(second, made_by)
    is_constant = _is_constant(weight, made_by)
    return Product(
        name=layer.name,
        data=_type(data),
        weight=_type(weight) if is_constant else None,
        real=_type(first),
        source=_source(data, made_by),
        inner=int(first.shape[-1]),
        weight_elements=_elements(weight) if is_constant else 0,
        scale_bytes=_bytes(scale) if is_constant and scale is not None else 0,
    )


def _behind(tensor: Any, made_by: dict[str, Any]) -> tuple[Any, Any]:
    """Return what an operand is before reshaping and DequantizeLinear, and its scales."""
    scale = None
    while (layer := made_by.get(tensor.name)) is not None:
        kind = layer.type.name
        if kind == "DEQUANTIZE" and scale is None:
            scale = _behind(layer.get_input(1), made_by)[0]
        elif kind == "DEQUANTIZE" or kind not in _PASSING:
            break
        tensor = layer.get_input(0)
    return tensor, scale


def _source(tensor: Any, made_by: dict[str, Any]) -> str:
    layer = made_by.get(tensor.name)
    return "" if layer is None else str(layer.name)


def _is_constant(tensor: Any, made_by: dict[str, Any]) -> bool:
    """Tell whether a tensor is stored, or made of a stored one by a Cast."""
    layer = made_by.get(tensor.name)
    while layer is not None and layer.type.name in {"CAST", *_PASSING}:
        layer = made_by.get(layer.get_input(0).name)
    return layer is not None and layer.type.name == "CONSTANT"


def _cast_bytes(layer: Any, made_by: dict[str, Any]) -> int:
    if layer.type.name != "CAST":
        return 0
    source = made_by.get(layer.get_input(0).name)
    if source is None or source.type.name != "CONSTANT":
        return 0
    return max(0, _bytes(layer.get_output(0)) - _bytes(layer.get_input(0)))


def _stored_bytes(module: Any, layers: list[Any]) -> int:
    total = 0
    seen: set[bytes] = set()
    for layer in layers:
        if layer.type.name != "CONSTANT":
            continue
        # The binding gives every layer as its base class; this is its documented way down.
        layer.__class__ = module.IConstantLayer
        weights = layer.weights
        # Types that numpy lacks come as a handle without bytes: those count as they are.
        if weights.nbytes and hasattr(weights, "tobytes"):
            key = hashlib.sha256(memoryview(weights.reshape(-1)).cast("B")).digest()
            if key in seen:
                continue
            seen.add(key)
        total += int(weights.nbytes)
    return total


def _elements(tensor: Any) -> int:
    count = 1
    for size in tensor.shape:
        count *= int(size)
    return count


def _bytes(tensor: Any) -> int:
    return _elements(tensor) * int(tensor.dtype.itemsize)


def _type(tensor: Any) -> str:
    return type_named(tensor.dtype.name)
