"""Configurations say in Triton's own format what was meant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from served_directories import dtype_names, parsed

from albert_deploy.scripts.serving.model_config import ServedModel, Step, Tensor, config_text

TEXT = Tensor(name="text", dtype="bytes", dims=(1,))
PAIR = Tensor(name="text_pair", dtype="bytes", dims=(1,), optional=True)
ANSWER = Tensor(name="answer", dtype="bytes", dims=(1,))
PLAIN = ServedModel(name="a", backend="python", max_batch=8, inputs=(TEXT,), outputs=(ANSWER,))


def read(model: ServedModel) -> Any:
    return parsed(config_text(model))


def test_the_plain_form() -> None:
    found = read(PLAIN)
    assert (found.name, found.backend, found.platform) == ("a", "python", "")
    assert found.max_batch_size == 8
    assert [(one.name, list(one.dims), one.optional) for one in found.input] == [
        ("text", [1], False)
    ]
    assert [(one.name, list(one.dims)) for one in found.output] == [("answer", [1])]
    assert [(one.count, one.Kind.Name(one.kind)) for one in found.instance_group] == [
        (1, "KIND_CPU")
    ]
    assert found.HasField("dynamic_batching")
    assert list(found.dynamic_batching.preferred_batch_size) == []
    assert not found.HasField("ensemble_scheduling")
    assert not found.model_warmup
    assert not found.parameters


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("bytes", "TYPE_STRING"),
        ("int64", "TYPE_INT64"),
        ("int32", "TYPE_INT32"),
        ("float32", "TYPE_FP32"),
        ("float16", "TYPE_FP16"),
    ],
)
def test_every_type_is_a_type_of_tritons(dtype: str, wanted: str) -> None:
    tensor = Tensor(name="t", dtype=dtype, dims=(-1, 3))
    found = read(replace(PLAIN, inputs=(tensor,), outputs=(tensor,)))
    assert dtype_names(found.input) == dtype_names(found.output) == {"t": wanted}
    assert list(found.input[0].dims) == [-1, 3]


def test_inputs_may_be_left_out() -> None:
    assert [one.optional for one in read(replace(PLAIN, inputs=(TEXT, PAIR))).input] == [
        False,
        True,
    ]


def test_batches_and_queues() -> None:
    found = read(replace(PLAIN, preferred=(4, 8), delay_us=250, queue=99))
    assert list(found.dynamic_batching.preferred_batch_size) == [4, 8]
    assert found.dynamic_batching.max_queue_delay_microseconds == 250
    assert found.dynamic_batching.default_queue_policy.max_queue_size == 99
    assert not read(replace(PLAIN, max_batch=0)).HasField("dynamic_batching")


def test_instances_on_a_gpu_have_profiles() -> None:
    found = read(replace(PLAIN, instances=3, gpu=True, profiles=(0, 1)))
    (group,) = found.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (3, "KIND_GPU")
    assert list(group.profile) == ["0", "1"]


@pytest.mark.parametrize("shape", [(1, 16), (8, 2, 16)])
def test_each_instance_is_warmed_up(shape: tuple[int, ...]) -> None:
    tokens = tuple(
        Tensor(name=name, dtype="int64", dims=(-1,) * (len(shape) - 1)) for name in ("ids", "mask")
    )
    found = read(replace(PLAIN, inputs=tokens, warmup=(shape,)))
    (warmup,) = found.model_warmup
    assert warmup.batch_size == shape[0]
    assert warmup.inputs.keys() == {"ids", "mask"}
    for one in warmup.inputs.values():
        assert list(one.dims) == list(shape[1:])
        assert one.zero_data
        assert one.data_type == parsed("input { data_type: TYPE_INT64 }").input[0].data_type
    several = read(replace(PLAIN, inputs=tokens, warmup=(shape, (1, *shape[1:]))))
    assert len({one.name for one in several.model_warmup}) == 2 - (shape[0] == 1)


def test_an_ensemble_names_its_steps() -> None:
    found = read(
        replace(
            PLAIN,
            backend="",
            platform="ensemble",
            steps=(
                Step(model="one", inputs=("text",), outputs=("ids",)),
                Step(model="two", inputs=("ids", "text"), outputs=("answer",)),
            ),
        )
    )
    assert (found.platform, found.backend) == ("ensemble", "")
    one, two = found.ensemble_scheduling.step
    assert (one.model_name, one.model_version) == ("one", -1)
    assert dict(one.output_map) == {"ids": "ids"}
    assert (two.model_name, dict(two.input_map)) == ("two", {"ids": "ids", "text": "text"})
    # Triton refuses these of an ensemble.
    assert not found.instance_group
    assert not found.HasField("dynamic_batching")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        'a "quoted" word',
        "it's",
        "C:\\models\\new",
        "\\",
        "\\n",
        "two\nlines\r\n\tand a tab",
        "\x01\x07\x1b\x7f",
        "naïve",
        "模型",
        "🎬 film",
        "line\u2028separator\x85",
        "{ name: 'x' } # no comment",
        "/a/b c/{d}",
    ],
)
def test_texts_survive(text: str) -> None:
    found = read(replace(PLAIN, parameters={"directory": text, text or "empty": "x"}))
    assert {k: v.string_value for k, v in found.parameters.items()} == {
        "directory": text,
        text or "empty": "x",
    }


def test_a_broken_configuration_does_not_parse() -> None:
    from google.protobuf import text_format

    text = config_text(PLAIN)
    with pytest.raises(text_format.ParseError):
        parsed(text.replace("dims", "dim"))
    with pytest.raises(text_format.ParseError):
        parsed(text.replace("TYPE_STRING", "TYPE_TEXT"))
