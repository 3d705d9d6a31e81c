"""Triton's `config.pbtxt`: one literal shape for every model of a repository, and its writer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TYPES = {
    "bytes": "TYPE_STRING",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
}


class Word(str):
    """A value that stands without quotes, such as ``KIND_CPU``."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a served model.

    Args:
        name: Its name.
        dtype: ``bytes``, ``int64``, ``int32``, ``float32`` or ``float16``.
        dims: Sizes, -1 for any; without the batch where the model has one.
        optional: A request may leave it out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One model of an ensemble; tensors are named as inside of the ensemble.

    Args:
        model: Name of the model.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
    """

    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What ``config.pbtxt`` says of a model.

    Args:
        name: Its name, which is that of its folder.
        backend: Such as ``python``; empty where ``platform`` is given.
        platform: ``onnxruntime_onnx``, ``tensorrt_plan`` or ``ensemble``.
        max_batch: Most rows of a batch; 0 for a model whose tensors have no batch axis.
        inputs: Its inputs.
        outputs: Its outputs.
        steps: Of an ensemble.
        instances: How many run beside each other.
        gpu: Whether they run on a GPU.
        profiles: Optimization profiles of a plan.
        preferred: Batch sizes that the batcher forms where it can.
        delay_us: How long it waits for them.
        queue: Most requests that wait; what comes then is refused. 0 for any number.
        parameters: Texts for the model itself.
        warmup: Shapes, with the batch in front, that each instance runs before it is ready.
    """

    name: str
    backend: str = ""
    platform: str = ""
    max_batch: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...] = ()
    instances: int = 1
    gpu: bool = False
    profiles: tuple[int, ...] = ()
    preferred: tuple[int, ...] = ()
    delay_us: int = 0
    queue: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    warmup: tuple[tuple[int, ...], ...] = ()


def config_text(model: ServedModel) -> str:
    """Return ``config.pbtxt`` in protobuf's text format."""
    return "".join(f"{line}\n" for line in _lines(_fields(model)))


def _fields(model: ServedModel) -> dict[str, Any]:
    value: dict[str, Any] = {"name": model.name}
    value |= {"platform": model.platform} if model.platform else {"backend": model.backend}
    value["max_batch_size"] = model.max_batch
    value["input"] = [_tensor(one) for one in model.inputs]
    value["output"] = [_tensor(one) for one in model.outputs]
    if model.steps:
        value["ensemble_scheduling"] = {"step": [_step(one) for one in model.steps]}
        return value
    kind = Word("KIND_GPU" if model.gpu else "KIND_CPU")
    group: dict[str, Any] = {"count": model.instances, "kind": kind}
    if model.profiles:
        group["profile"] = [str(index) for index in model.profiles]
    value["instance_group"] = [group]
    if model.max_batch:
        value["dynamic_batching"] = _batching(model)
    if model.parameters:
        value["parameters"] = [
            {"key": key, "value": {"string_value": text}} for key, text in model.parameters.items()
        ]
    if model.warmup:
        value["model_warmup"] = [_warmup(model, shape) for shape in model.warmup]
    return value


def _tensor(tensor: Tensor) -> dict[str, Any]:
    value: dict[str, Any] = {"name": tensor.name, "data_type": Word(_TYPES[tensor.dtype])}
    value["dims"] = list(tensor.dims)
    return value | ({"optional": True} if tensor.optional else {})


def _step(step: Step) -> dict[str, Any]:
    return {
        "model_name": step.model,
        "model_version": -1,
        "input_map": [{"key": name, "value": name} for name in step.inputs],
        "output_map": [{"key": name, "value": name} for name in step.outputs],
    }


def _batching(model: ServedModel) -> dict[str, Any]:
    value: dict[str, Any] = {}
    if model.preferred:
        value["preferred_batch_size"] = list(model.preferred)
    if model.delay_us:
        value["max_queue_delay_microseconds"] = model.delay_us
    if model.queue:
        value["default_queue_policy"] = {"max_queue_size": model.queue}
    return value


def _warmup(model: ServedModel, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "name": "x".join(map(str, shape)),
        "batch_size": shape[0],
        "inputs": [
            {
                "key": one.name,
                "value": {
                    "data_type": Word(_TYPES[one.dtype]),
                    "dims": list(shape[1:]),
                    "zero_data": True,
                },
            }
            for one in model.inputs
        ],
    }


def _lines(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, content in value.items():
        plain = isinstance(content, Sequence) and not isinstance(content, str)
        if plain and not any(isinstance(one, Mapping) for one in content):
            yield f"{indent}{key}: [{', '.join(map(_scalar, content))}]"
            continue
        for one in content if plain else [content]:
            if isinstance(one, Mapping):
                yield f"{indent}{key} {{"
                yield from _lines(one, f"{indent}  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{key}: {_scalar(one)}"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not isinstance(value, Word):
        return f'"{"".join(map(_escaped, value))}"'
    return str(value)


def _escaped(sign: str) -> str:
    """Return a character as it stands in quotes; not every reader joins JSON's surrogates."""
    plain = sign >= " " and sign not in '"\\\x7f'
    return sign if plain else f"\\{ord(sign):03o}"
