"""The task contract: names, dtypes and axes of every input and output, written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from albert_deploy.runtime.errors import InputError, lookup

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")

# Axes in their order; an int is a fixed size, a str a named dynamic axis, and
# "<hidden>", "<vocab>", "<labels>" stand for sizes that the configuration fixes.
BATCH, CHOICES, SEQUENCE = "batch", "choices", "sequence"


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output tensor of a head, float32.

    Args:
        name: Name in the ONNX file, equal to the attribute that transformers returns.
        axes: Named, symbolic or fixed axes, in order.
        argmax_axis: Axis along which the prediction is taken; None where there is none.
        family_names: Name of the same head in another model family.
    """

    name: str
    axes: tuple[str | int, ...]
    argmax_axis: int | None = -1
    family_names: dict[str, str] = field(default_factory=dict)

    def name_in(self, family: str) -> str:
        """Return the output's name for a model family (``albert`` or ``bert``)."""
        return self.family_names.get(family, self.name)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a head takes and gives.

    Args:
        architecture: Suffix of the transformers class, such as ``ForMaskedLM``.
        outputs: Outputs in the order in which the file lists them.
        input_axes: Axes of each of the three int64 inputs.
    """

    architecture: str
    outputs: tuple[Output, ...]
    input_axes: tuple[str, ...] = (BATCH, SEQUENCE)


TASKS: dict[str, Task] = {
    "feature-extraction": Task(
        architecture="Model",
        outputs=(
            Output(name="last_hidden_state", axes=(BATCH, SEQUENCE, "<hidden>"), argmax_axis=None),
            Output(name="pooler_output", axes=(BATCH, "<hidden>"), argmax_axis=None),
        ),
    ),
    "pretraining": Task(
        architecture="ForPreTraining",
        outputs=(
            Output(name="prediction_logits", axes=(BATCH, SEQUENCE, "<vocab>")),
            Output(
                name="sop_logits",
                axes=(BATCH, 2),
                # BERT was trained on next-sentence, not sentence-order, prediction.
                family_names={"bert": "seq_relationship_logits"},
            ),
        ),
    ),
    "fill-mask": Task(
        architecture="ForMaskedLM",
        outputs=(Output(name="logits", axes=(BATCH, SEQUENCE, "<vocab>")),),
    ),
    "text-classification": Task(
        architecture="ForSequenceClassification",
        outputs=(Output(name="logits", axes=(BATCH, "<labels>")),),
    ),
    "multiple-choice": Task(
        architecture="ForMultipleChoice",
        outputs=(Output(name="logits", axes=(BATCH, CHOICES)),),
        input_axes=(BATCH, CHOICES, SEQUENCE),
    ),
    "token-classification": Task(
        architecture="ForTokenClassification",
        outputs=(Output(name="logits", axes=(BATCH, SEQUENCE, "<labels>")),),
    ),
    "question-answering": Task(
        architecture="ForQuestionAnswering",
        outputs=(
            Output(name="start_logits", axes=(BATCH, SEQUENCE)),
            Output(name="end_logits", axes=(BATCH, SEQUENCE)),
        ),
    ),
}

# Other names of tasks: those that optimum 2.3's ``TasksManager`` has for one of ours.
SYNONYMS: dict[str, str] = {
    "default": "feature-extraction",
    "image-feature-extraction": "feature-extraction",
    "mask-generation": "feature-extraction",
    "masked-lm": "fill-mask",
    "sentence-similarity": "feature-extraction",
    "sequence-classification": "text-classification",
    "zero-shot-classification": "text-classification",
}

# Model type -> prefix of its transformers classes.
FAMILIES: dict[str, str] = {"albert": "Albert", "bert": "Bert"}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A precision in which a model ships.

    Args:
        file: Its path in the deployment directory; the names that optimum and
            Transformers.js look for.
        budget: Largest size as a share of the unique float32 parameter bytes.
        budget_bytes: What the graph itself may add, in bytes.
        engines: Engines of ``runtime.session.ENGINES`` that run it on the CPU, the preferred one
            first.
        gpu_engines: Likewise on a GPU.
    """

    file: str
    budget: float
    budget_bytes: int
    engines: tuple[str, ...]
    gpu_engines: tuple[str, ...] = ()

    def limit(self, parameter_bytes: int) -> int:
        """Return the largest size of the file in bytes."""
        return int(self.budget * parameter_bytes) + self.budget_bytes


# Q/DQ graphs have several nodes and two scales for every activation of every iteration.
VARIANTS: dict[str, Variant] = {
    "fp32": Variant(
        file="onnx/model.onnx",
        budget=1.02,
        budget_bytes=1_000_000,
        engines=("ort", "openvino"),
        gpu_engines=("trt", "ort-cuda"),
    ),
    "fp16": Variant(
        file="onnx/model_fp16.onnx",
        budget=0.51,
        budget_bytes=500_000,
        engines=("ort", "openvino"),
        gpu_engines=("trt", "ort-cuda"),
    ),
    "bf16": Variant(
        file="onnx/model_bf16.onnx",
        budget=0.51,
        budget_bytes=500_000,
        engines=("openvino",),
        gpu_engines=("trt",),
    ),
    # TensorRT refuses its operators, and ONNX Runtime has no kernels for them on a GPU.
    "int8": Variant(
        file="onnx/model_int8.onnx", budget=0.27, budget_bytes=550_000, engines=("ort", "openvino")
    ),
    "int8-qdq": Variant(
        file="onnx/model_int8_qdq.onnx",
        budget=0.27,
        budget_bytes=1_250_000,
        engines=("openvino", "ort"),
        gpu_engines=("trt",),
    ),
    "int8-fp16": Variant(
        file="onnx/model_int8_fp16.onnx",
        budget=0.27,
        budget_bytes=1_250_000,
        engines=("ort",),
        gpu_engines=("trt",),
    ),
    "fp8-qdq": Variant(
        file="onnx/model_fp8_qdq.onnx",
        budget=0.27,
        budget_bytes=1_250_000,
        engines=("ort",),
        gpu_engines=("trt",),
    ),
}
# What a release makes unless told otherwise: they need no calibration and run everywhere.
DEFAULT_VARIANTS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, dtype and axes of one input or output of an ONNX file."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``manifest.json`` holds."""
        return {"name": self.name, "dtype": self.dtype, "axes": list(self.axes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` returned."""
        return cls(name=value["name"], dtype=value["dtype"], axes=tuple(value["axes"]))


def task_named(name: str) -> Task:
    """Look a task up.

    Raises:
        InputError: Unknown task; the message lists the known ones.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; use auto or one of: {', '.join(TASKS)}")
    return TASKS[name]


def variant_named(name: str) -> Variant:
    """Look a variant up.

    Raises:
        InputError: Unknown variant; the message lists the known ones.
    """
    return lookup(VARIANTS, name, "variant")


def input_specs(task: Task) -> tuple[TensorSpec, ...]:
    """Return the three int64 inputs of a task."""
    return tuple(TensorSpec(name=n, dtype="int64", axes=task.input_axes) for n in INPUT_NAMES)


def output_specs(task: Task, config: dict[str, Any]) -> tuple[TensorSpec, ...]:
    """Return a task's outputs with the sizes of a model configuration filled in.

    Args:
        task: A row of ``TASKS``.
        config: A Hugging Face ``config.json`` with ``model_type``, ``hidden_size``,
            ``vocab_size`` and, where it names labels, ``id2label``.
    """
    sizes = {
        "<hidden>": config["hidden_size"],
        "<vocab>": config["vocab_size"],
        "<labels>": label_count(config),
    }
    return tuple(
        TensorSpec(
            name=output.name_in(config["model_type"]),
            dtype="float32",
            axes=tuple(
                sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in output.axes
            ),
        )
        for output in task.outputs
    )


def label_count(config: dict[str, Any]) -> int:
    """Return the number of labels of a configuration; transformers' default is 2."""
    if config.get("id2label"):
        return len(config["id2label"])
    return int(config.get("num_labels", 2))
