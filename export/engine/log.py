"""What TensorRT's build log says of a plan: memory, recognised attention, and every fused layer.

The layers stand at the end of a VERBOSE log where the profiling verbosity is DETAILED, in the
form that the engine inspector gives for a loaded plan. So the log tells the types that a plan
computes in on machines that cannot load it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from albert_deploy.runtime.trt.log import LogLine

# TensorRT's names of types, in its log, its inspector and its API, and ours.
TYPES: dict[str, str] = {
    "FLOAT": "fp32",
    "FP32": "fp32",
    "HALF": "fp16",
    "FP16": "fp16",
    "BFLOAT16": "bf16",
    "BF16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
    "INT4": "int4",
    "FP4": "fp4",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}

_WEIGHTS = re.compile(r"^Total Weights Memory: (\d+) bytes", re.MULTILINE)
_SCRATCH = re.compile(r"^Max Scratch Memory: (\d+) bytes", re.MULTILINE)
_ACTIVATION = re.compile(r"^Total Activation Memory: (\d+) bytes", re.MULTILINE)
_ATTENTION = re.compile(r"^Found (\S+) to be part of self-attention pattern", re.MULTILINE)
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*?)\])?, Outputs: \[(?P<outputs>.*?)\]"
    r"(?:, (?:ParameterType|TacticName): (?P<rest>.*))?$",
    re.MULTILINE,
)
_TENSOR = re.compile(
    r"Dimensions: \[(?P<shape>[^\]]*)\].*?(?:Format/Datatype|Datatype): (?P<type>\w+)"
)
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TYPE_WORD = re.compile(r"\b(" + "|".join(TYPES) + r")\b")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of a layer.

    Attributes:
        type: One of the values of ``TYPES``, or what TensorRT calls it where that is unknown.
        shape: Its sizes, -1 where they are dynamic.
    """

    type: str
    shape: tuple[int, ...]

    @property
    def is_matrix(self) -> bool:
        """Tell a weight matrix from a bias, a scale or a scalar."""
        return sum(size > 1 for size in self.shape) >= 2


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a plan: a kernel, or a group of them that TensorRT compiles together.

    Attributes:
        name: What TensorRT calls it.
        kind: Its type, such as ``gemm`` or ``kgen``.
        nodes: Names of the ONNX nodes that it computes.
        inputs: Tensors that other layers or the caller give.
        constants: Weights in the plan.
        outputs: Tensors that it gives.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def is_opaque(self) -> bool:
        """Tell a part of the graph that is listed whole, without what is inside."""
        return "ForeignNode" in self.name or self.kind == "Myelin"


@dataclass(frozen=True, kw_only=True)
class BuildLog:
    """What a build log says.

    Attributes:
        weights_bytes: Memory that the weights take; None where the log has no such line.
        scratch_bytes: Largest working memory of a layer, at the largest profile.
        activation_bytes: Memory for all tensors between layers, likewise.
        attention: ONNX nodes recognised as self-attention. That is a pattern: it is logged
            where no fused kernel exists too.
        layers: Layers of the plan; empty where the log does not list them.
        errors: Lines of severity ERROR and INTERNAL_ERROR.
        warnings: Lines of severity WARNING.
    """

    weights_bytes: int | None
    scratch_bytes: int | None
    activation_bytes: int | None
    attention: tuple[str, ...]
    layers: tuple[Layer, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def read_log(lines: Sequence[LogLine]) -> BuildLog:
    """Read the facts of a build from its log."""
    text = "\n".join(line.text for line in lines)
    return BuildLog(
        weights_bytes=_largest(_WEIGHTS, text),
        scratch_bytes=_largest(_SCRATCH, text),
        activation_bytes=_largest(_ACTIVATION, text),
        attention=tuple(dict.fromkeys(_ATTENTION.findall(text))),
        layers=layers_of_text(text),
        errors=tuple(line.text for line in lines if line.severity.endswith("ERROR")),
        warnings=tuple(dict.fromkeys(x.text for x in lines if x.severity == "WARNING")),
    )


def layers_of_text(text: str) -> tuple[Layer, ...]:
    """Read the layers that a log lists, one on a line."""
    return tuple(
        Layer(
            name=found["name"],
            kind=found["kind"],
            nodes=tuple(_ONNX_NODE.findall(found["rest"] or "")),
            inputs=_tensors(found["inputs"]),
            constants=_tensors(found["constants"] or ""),
            outputs=_tensors(found["outputs"]),
        )
        for found in _LAYER.finditer(text)
    )


def layers_of_inspector(information: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Read the layers from an engine inspector's JSON, of TensorRT 10 or 11.

    Where the profiling verbosity was not DETAILED a layer is its name alone.
    """
    layers = []
    for layer in information.get("Layers", ()):
        if isinstance(layer, str):
            layer = {"Name": layer}  # noqa: PLW2901
        layers.append(
            Layer(
                name=layer.get("Name", ""),
                kind=layer.get("LayerType", ""),
                nodes=tuple(_ONNX_NODE.findall(layer.get("Metadata", ""))),
                inputs=_json_tensors(layer.get("Inputs", ())),
                constants=_json_tensors(layer.get("Constants", ())),
                outputs=_json_tensors(layer.get("Outputs", ())),
            )
        )
    return tuple(layers)


def type_named(text: str) -> str:
    """Return our name of a type, from TensorRT's name or its description of a format."""
    if (known := TYPES.get(text.upper())) is not None:
        return known
    found = _TYPE_WORD.search(text.upper())
    return TYPES[found[1]] if found else text


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            type=type_named(found["type"]),
            shape=tuple(int(size) for size in found["shape"].split(",") if size.strip()),
        )
        for found in _TENSOR.finditer(text)
    )


def _json_tensors(tensors: Sequence[Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            type=type_named(str(t.get("Datatype", t.get("Format/Datatype", "")))),
            shape=tuple(int(size) for size in t.get("Dimensions", ())),
        )
        for t in tensors
        if isinstance(t, Mapping)
    )


def _largest(pattern: re.Pattern[str], text: str) -> int | None:
    """Return the largest number: a build with several profiles may log one for each."""
    return max((int(number) for number in pattern.findall(text)), default=None)
