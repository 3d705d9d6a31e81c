"""Tensors of strings become inputs and options, and answers become tensors, or it is said why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_requests import ASKED, request, tensor

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.options import TAKES, Options, options_for
from albert_deploy.runtime.serving.settings import Settings
from albert_deploy.runtime.serving.wire import (
    Request,
    asked_options,
    read_items,
    read_options,
    row_names,
    write_answers,
)

SETTINGS = Settings(directory=Path())


@pytest.mark.parametrize("task", ASKED)
def test_items_are_those_that_were_sent(task: str) -> None:
    for items, _ in ASKED[task]:
        assert read_items(task, request(items), SETTINGS) == items


@pytest.mark.parametrize("text", ["", "é", "日本語 🎬", "a\nb\tc", 'q"u\\o', "nul \0 end", "﻿bom"])
def test_texts_come_through_unchanged(text: str) -> None:
    given = Request(tensors={"text": tensor([text, "x"])}, parameters={})
    assert [one["text"] for one in read_items("fill-mask", given, SETTINGS)] == [text, "x"]


def test_strings_are_read_as_bytes_are() -> None:
    """Triton gives either, by the type of the tensor."""
    array = np.array([["é"]], dtype=np.object_)
    assert read_items("fill-mask", Request(tensors={"text": array}, parameters={}), SETTINGS) == [
        {"text": "é"}
    ]
    array = np.array([["\ud800"]], dtype=np.object_)
    with pytest.raises(InputError, match="text 1 is no UTF-8 at byte 1; encode it so"):
        read_items("fill-mask", Request(tensors={"text": array}, parameters={}), SETTINGS)


@pytest.mark.parametrize("cut", [b"\xc3", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80"])
def test_what_is_no_text_is_named(cut: bytes) -> None:
    array = np.array([[b"good"], [b"ab" + cut]], dtype=np.object_)
    with pytest.raises(InputError, match="text 2 is no UTF-8 at byte 3"):
        read_items("fill-mask", Request(tensors={"text": array}, parameters={}), SETTINGS)


def test_a_text_has_a_limit_in_bytes() -> None:
    small = replace(SETTINGS, max_text_bytes=4)
    assert read_items("fill-mask", request([{"text": "éé"}]), small) == [{"text": "éé"}]
    with pytest.raises(InputError, match="text 1 has 5 bytes; 4 at most"):
        read_items("fill-mask", request([{"text": "ééa"}]), small)
    choices = request([{"context": "a", "choices": ["b", "abcde"]}])
    with pytest.raises(InputError, match="choices 1 has 5 bytes; 4 at most"):
        read_items("multiple-choice", choices, small)


def test_choices_have_a_limit() -> None:
    few = replace(SETTINGS, max_choices=2)
    good = {"context": "a", "choices": ["b", "c"]}
    assert read_items("multiple-choice", request([good, good]), few) == [good, good]
    with pytest.raises(InputError, match="choices has 3 of a question; 2 at most"):
        read_items("multiple-choice", request([{"context": "a", "choices": ["b"] * 3}]), few)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), r"text has shape \[\]; wanted two axes"),
        ((1,), r"text has shape \[1\]; wanted two axes"),
        ((1, 1, 1), r"text has shape \[1, 1, 1\]; wanted two axes"),
        ((0, 1), r"text has shape \[0, 1\]; wanted two axes, neither of them empty"),
        ((1, 0), r"text has shape \[1, 0\]; wanted two axes, neither of them empty"),
        ((2, 3), r"text has shape \[2, 3\]; wanted \[2, 1\]"),
    ],
)
def test_a_wrong_shape_is_named(shape: tuple[int, ...], message: str) -> None:
    array = np.full(shape, b"a", dtype=np.object_)
    with pytest.raises(InputError, match=message):
        read_items("fill-mask", Request(tensors={"text": array}, parameters={}), SETTINGS)


def test_the_first_tensor_counts_the_inputs() -> None:
    with pytest.raises(InputError, match="the request has no question"):
        read_items("question-answering", request([{"context": "a"}]), SETTINGS)
    tensors = {"question": tensor(["a", "b"]), "context": tensor(["c"])}
    with pytest.raises(InputError, match="context has 1 rows and question 2; give as many"):
        read_items("question-answering", Request(tensors=tensors, parameters={}), SETTINGS)


@pytest.mark.parametrize("task", TAKES)
def test_the_server_alone_sets_the_batch(task: str) -> None:
    assert set(asked_options(task)) == set(TAKES[task]) - {"batch_size"}
    with pytest.raises(InputError, match="parameter 'batch_size' is not known; use: "):
        read_options(task, {"batch_size": 1}, SETTINGS)
    assert read_options(task, {}, replace(SETTINGS, batch_size=9)) == Options(batch_size=9)


@pytest.mark.parametrize(
    ("task", "given", "wanted"),
    [
        ("text-classification", {"top_k": 3, "truncation": True}, {"top_k": 3, "truncation": True}),
        ("fill-mask", {"targets": "film,river"}, {"targets": ("film", "river")}),
        ("fill-mask", {"targets": "film"}, {"targets": ("film",)}),
        ("token-classification", {"ignore_labels": "O,B-PER"}, {"ignore_labels": ("O", "B-PER")}),
        ("token-classification", {"ignore_labels": ""}, {"ignore_labels": ("",)}),
        ("feature-extraction", {"pooled": True}, {"pooled": True}),
        (
            "question-answering",
            {"doc_stride": 0, "align_to_words": False},
            {"doc_stride": 0, "align_to_words": False},
        ),
    ],
)
def test_options_are_those_of_the_runtime(
    task: str, given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    found = read_options(task, given, SETTINGS)
    assert found == options_for(task, wanted | {"batch_size": SETTINGS.batch_size})
    assert found != Options(batch_size=SETTINGS.batch_size)


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(InputError) as caught:
        read_options("fill-mask", {"x" * 10_000: 1}, SETTINGS)
    assert len(str(caught.value)) < 300
    with pytest.raises(InputError) as caught:
        read_options("fill-mask", {"top_k": "x" * 10_000}, SETTINGS)
    assert len(str(caught.value)) < 300


def test_answers_are_json_in_utf8() -> None:
    answers: list[Any] = [{"label": "schön", "score": 0.1}, [[1.5]], "日", []]
    array = write_answers(answers)
    assert (array.shape, array.dtype) == ((4, 1), np.dtype(object))
    assert [json.loads(one) for (one,) in array] == answers
    assert "schön".encode() in array[0, 0]
    assert write_answers([]).shape == (0, 1)


def test_rows_are_named_from_one() -> None:
    assert row_names(2) == ["text 1 of the request", "text 2 of the request"]
