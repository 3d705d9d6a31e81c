"""Served answers are those of the runtime, whoever else asks at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_models import stand_in
from serving_requests import (
    ASKED,
    CONTEXT,
    LONG,
    SHORT,
    answered,
    assert_close,
    plain,
    request,
    told,
)

from albert_deploy.runtime import load
from albert_deploy.runtime.contract import CHOICES, TASKS
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.pipeline import Model, read_task_info
from albert_deploy.runtime.serving.settings import Settings
from albert_deploy.runtime.serving.steps import answer_requests, answers_from, tokens_of
from albert_deploy.runtime.serving.wire import Array, Request

SETTINGS = Settings(directory=Path())
BUCKETS = replace(SETTINGS, lengths=(16, 32, 64))


def watched(model: Model, runs: list[int]) -> Model:
    """Note the rows of each run of the network."""
    real = model._session.run

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        runs.append(len(feeds["input_ids"]))
        return real(feeds)

    model._session.run = run  # type: ignore[method-assign]
    return model


def test_every_task_is_asked() -> None:
    assert ASKED.keys() == TASKS.keys()


@pytest.mark.parametrize("task", ASKED)
def test_many_requests_are_answered_as_each_would_be(task: str) -> None:
    model, rng = stand_in(task), np.random.default_rng(7)
    asked = [ASKED[task][i] for i in rng.permutation(np.repeat(range(len(ASKED[task])), 5))]
    requests = [request(*one) for one in asked]
    for size in (1, 3, 32):
        found = answer_requests(model, requests, replace(SETTINGS, batch_size=size))
        assert len(found) == len(asked)
        for answers, one in zip(found, asked, strict=True):
            assert told(answers) == answered(model, one)


def test_texts_of_different_requests_share_runs() -> None:
    runs: list[int] = []
    model = watched(stand_in("text-classification"), runs)
    requests = [request([{"text": SHORT}], {"top_k": k}) for k in (1, 2, 3)] * 5
    answer_requests(model, requests, SETTINGS)
    assert runs == [15]
    runs.clear()
    answer_requests(model, requests, replace(SETTINGS, batch_size=6))
    assert sorted(runs) == [3, 6, 6]
    assert answer_requests(model, [], SETTINGS) == []


@pytest.mark.parametrize("task", ASKED)
def test_a_warm_up_is_one_run_of_the_network(task: str) -> None:
    shapes = []
    model = stand_in(task)
    real = model._session.run

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        shapes.append(feeds["input_ids"].shape)
        return real(feeds)

    model._session.run = run  # type: ignore[method-assign]
    model.warm_up(4)
    model.warm_up(2, 9999)
    assert shapes == ([(1, 4, 16), (1, 2, 64)] if task == "multiple-choice" else [(4, 16), (2, 64)])


@pytest.mark.medium
@pytest.mark.parametrize("task", ASKED)
def test_an_ensemble_answers_as_the_runtime_does(
    exported_task: Callable[[str], Path], task: str
) -> None:
    directory = exported_task(task)
    manifest = read_manifest(directory)
    info = read_task_info(directory, manifest)
    ranked = CHOICES in manifest["contract"]["inputs"][0]["axes"]
    assert ranked == (task == "multiple-choice")
    outputs = info.outputs
    with load(directory, "fp32", "ort") as model, open_session(directory, engine="ort") as session:
        for asked in ASKED[task]:
            wanted = answered(model, asked)
            for settings in (SETTINGS, BUCKETS):
                given = request(*asked)
                feeds = tokens_of(info, given, settings, ranked=ranked)
                (shape,) = {value.shape for value in feeds.values()}
                assert len(shape) == 2 + ranked
                assert {value.dtype for value in feeds.values()} == {np.dtype(np.int64)}
                assert settings is SETTINGS or shape[-1] in BUCKETS.lengths
                assert feeds["attention_mask"].any(axis=-1).all()
                made = session.run(feeds)
                assert tuple(made) == outputs
                assert_close(told(answers_from(info, given, made, settings)), wanted)
            (first, *_) = told(answer_requests(model, [request(*asked)], SETTINGS)[0])
            assert_close(first, wanted[0])


@pytest.mark.parametrize("task", ASKED)
def test_steps_of_an_ensemble_pass_rows_on_in_order(task: str) -> None:
    """Outputs hang on a row's own tokens here, so that a row in a wrong place shows."""
    model = stand_in(task)
    ranked = task == "multiple-choice"
    for asked in ASKED[task]:
        given = request(*asked)
        feeds = tokens_of(model._info, given, BUCKETS, ranked=ranked)
        outputs = model._session.run(feeds)
        wanted = answered(model, asked)
        assert_close(told(answers_from(model._info, given, outputs, BUCKETS)), wanted)
        if len({str(one) for one in wanted}) > 1:
            turned = {name: value[::-1] for name, value in outputs.items()}
            with pytest.raises(AssertionError):
                assert_close(told(answers_from(model._info, given, turned, BUCKETS)), wanted)


def test_a_question_makes_several_windows() -> None:
    info = stand_in("question-answering")._info
    given = request([{"question": "who", "context": CONTEXT * n} for n in (1, 6)])
    feeds = tokens_of(info, given, BUCKETS, ranked=False)
    alone = tokens_of(
        info, request([{"question": "who", "context": CONTEXT}]), BUCKETS, ranked=False
    )
    assert len(feeds["input_ids"]) > 3 * len(alone["input_ids"]) > 0


def test_half_precision_is_read() -> None:
    model = stand_in("text-classification")
    given = request([{"text": SHORT}, {"text": LONG}])
    outputs = model._session.run(tokens_of(model._info, given, SETTINGS, ranked=False))
    half = {name: value.astype(np.float16) for name, value in outputs.items()}
    found = told(answers_from(model._info, given, half, SETTINGS))
    wanted = told(answers_from(model._info, given, outputs, SETTINGS))
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    assert found[0]["score"] == pytest.approx(wanted[0]["score"], abs=1e-2)


def _many(task: str, count: int) -> Request:
    return request([plain(task)] * count)


def _raw(name: str, array: Array) -> Request:
    return Request(tensors={name: array}, parameters={})


def _choices(count: int) -> Request:
    return request([{"context": "a", "choices": ["b"] * count}])


BAD: dict[str, tuple[str, Request, str]] = {
    "no tensor": ("text-classification", Request(tensors={}, parameters={}), "has no text"),
    "one of two": (
        "question-answering",
        request([{"question": "who"}]),
        "text 1 of the request lacks context",
    ),
    "flat": (
        "text-classification",
        _raw("text", np.array([b"a"], np.object_)),
        r"text has shape \[1\]; wanted two axes",
    ),
    "wide": (
        "text-classification",
        _raw("text", np.array([[b"a", b"b"]], np.object_)),
        r"text has shape \[1, 2\]; wanted \[1, 1\]",
    ),
    "no row": (
        "text-classification",
        _raw("text", np.empty((0, 1), np.object_)),
        r"text has shape \[0, 1\]",
    ),
    "no choice": (
        "multiple-choice",
        Request(
            tensors={
                "context": np.array([[b"a"]], np.object_),
                "choices": np.empty((1, 0), np.object_),
            },
            parameters={},
        ),
        r"choices has shape \[1, 0\]",
    ),
    "fewer pairs": (
        "text-classification",
        Request(
            tensors={
                "text": np.array([[b"a"], [b"b"]], np.object_),
                "text_pair": np.array([[b"a"]], np.object_),
            },
            parameters={},
        ),
        "text_pair has 1 rows and text 2",
    ),
    "no UTF-8": (
        "text-classification",
        _raw("text", np.array([[b"a\xff"]], np.object_)),
        "text 1 is no UTF-8 at byte 2",
    ),
    "large": (
        "text-classification",
        request([{"text": "a"}, {"text": "a" * 65_537}]),
        "text 2 has 65,537 bytes; 65,536 at most",
    ),
    "many choices": ("multiple-choice", _choices(33), "choices has 33 of a question; 32 at most"),
    "long": (
        "text-classification",
        request([{"text": SHORT}, {"text": LONG * 9}]),
        "text 2 of the request has .* the limit is 64",
    ),
    "no mask": ("fill-mask", request([{"text": SHORT}]), "text 1 of the request has no mask"),
    "empty context": (
        "question-answering",
        request([{"question": "who", "context": ""}]),
        "text 1 of the request",
    ),
}
for _name, (_value, _message) in {
    "unknown option": ({"topk": 1}, r"parameter 'topk' is not known; use: truncation, max_length"),
    "batch size": ({"batch_size": 9}, "parameter 'batch_size' is not known"),
    "text for a number": ({"top_k": "x"}, "top_k is 'x'; wanted a whole number"),
    "nought": ({"top_k": 0}, "top_k is 0; use at least 1"),
    "truth for a number": ({"top_k": True}, "top_k is 'True'; wanted a whole number"),
    "fraction": ({"top_k": 1.5}, "top_k is '1.5'; wanted a whole number"),
    "fraction of tokens": ({"max_length": 12.5}, "max_length is '12.5'; wanted a whole number"),
    "not a number": ({"max_length": float("nan")}, "max_length is 'nan'; wanted a whole number"),
    "huge number": ({"max_length": 2**63}, "max_length is '9223372036854775808'; wanted .* up to"),
    "no token": ({"max_length": 1, "truncation": True}, "leaves none for the text"),
    "text for a truth": ({"truncation": "false"}, "truncation is 'false'; wanted true or false"),
    "number for a truth": ({"truncation": 2}, "truncation is '2'; wanted true or false"),
    "number for a text": ({"function_to_apply": 1}, "function_to_apply is '1'; wanted a text"),
    "no function": ({"function_to_apply": "tanh"}, "function_to_apply is 'tanh'; use one of"),
    "list": ({"top_k": [1]}, r"top_k is '\[1\]'; wanted a whole number"),
}.items():
    BAD[_name] = ("text-classification", request([{"text": SHORT}], _value), _message)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_and_its_neighbours_are_answered(name: str) -> None:
    task, bad, message = BAD[name]
    model = stand_in(task)
    good = ASKED[task][1]
    before, found, after = answer_requests(model, [request(*good), bad, request(*good)], SETTINGS)
    assert told(before) == told(after) == answered(model, good)
    assert isinstance(found, InputError)
    with pytest.raises(InputError, match=message):
        raise found
    with pytest.raises(InputError, match=message):
        tokens_of(model._info, bad, SETTINGS, ranked=task == "multiple-choice")


ODD = ("", "x", "a,b", 0, -1, True, False, 1.5, -0.5, float("nan"), float("inf"), 2**63, -(2**63))


@pytest.mark.parametrize("task", ASKED)
def test_no_option_of_any_value_breaks_a_neighbour(task: str) -> None:
    from albert_deploy.runtime.serving.wire import asked_options

    model = stand_in(task)
    items = [plain(task)]
    wanted = answered(model, (items, {}))
    for name in asked_options(task):
        for value in (*ODD, None, [1], {"a": 1}):
            odd, good = answer_requests(
                model, [request(items, {name: value}), request(items)], SETTINGS
            )
            assert told(good) == wanted
            assert isinstance(odd, InputError | np.ndarray), (name, value)
            if isinstance(value, float | list | dict):
                assert isinstance(odd, InputError), (name, value)


def test_an_answer_that_cannot_be_given_is_the_fault_of_its_own_request() -> None:
    """That labels and outputs disagree shows only after the network ran."""
    model = stand_in("text-classification")
    good, bad = request([{"text": SHORT}]), request([{"text": SHORT}, {"text": LONG}])
    real = model.encode

    def encode(item: Any, options: Any, row: str) -> Any:
        encoded = real(item, options, row=row)
        return replace(encoded, answer=_refuses) if item["text"] == LONG else encoded

    model.encode = encode  # type: ignore[method-assign]
    before, found, after = answer_requests(model, [good, bad, good], SETTINGS)
    assert told(before) == told(after) == answered(model, ([{"text": SHORT}], {}))
    assert str(found) == "no answer"


def _refuses(rows: Any) -> Any:
    raise InputError("no answer")


@pytest.mark.parametrize("task", ASKED)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_answer_is_made_of_what_is_no_number(task: str, value: float) -> None:
    model = stand_in(task, values=(value,))
    given = request(*ASKED[task][0])
    with pytest.raises(ContractError, match="is NaN or infinite"):
        answer_requests(model, [given], SETTINGS)
    feeds = tokens_of(model._info, given, SETTINGS, ranked=task == "multiple-choice")
    outputs = model._session.run(feeds)
    with pytest.raises(ContractError, match="is NaN or infinite"):
        answers_from(model._info, given, outputs, SETTINGS)


def test_a_request_makes_no_more_rows_than_it_may() -> None:
    model = stand_in("text-classification")
    few = replace(SETTINGS, max_rows=3)
    assert len(tokens_of(model._info, _many(model.task, 3), few, ranked=False)["input_ids"]) == 3
    with pytest.raises(InputError, match="makes 4 rows of tokens, 3 at most"):
        tokens_of(model._info, _many(model.task, 4), few, ranked=False)
    windows = request([{"question": "who", "context": CONTEXT * 9}])
    info = stand_in("question-answering")._info
    with pytest.raises(InputError, match="rows of tokens, 3 at most; give fewer or shorter"):
        tokens_of(info, windows, few, ranked=False)


def test_a_request_is_no_longer_than_the_network_takes() -> None:
    info = stand_in("text-classification")._info
    short = replace(SETTINGS, lengths=(4, 8))
    assert tokens_of(info, request([{"text": "a"}]), short, ranked=False)["input_ids"].shape[1] in (
        4,
        8,
    )
    with pytest.raises(InputError, match=r"the request has \d+ tokens, the network takes 8"):
        tokens_of(info, request([{"text": "a"}, {"text": LONG}]), short, ranked=False)


def test_padding_is_hidden_and_has_its_own_token() -> None:
    model = stand_in("text-classification")
    info = replace(model._info, pad_id=3)
    feeds = tokens_of(
        info,
        request([{"text": "a"}, {"text": SHORT}]),
        replace(SETTINGS, lengths=(64,)),
        ranked=False,
    )
    hidden = feeds["attention_mask"] == 0
    assert hidden.sum() > 64
    assert set(feeds["input_ids"][hidden]) == {3}
    assert set(feeds["token_type_ids"][hidden]) == {0}
    assert set(feeds["attention_mask"].ravel()) == {0, 1}


def test_outputs_of_another_request_are_refused() -> None:
    model = stand_in("text-classification")
    outputs = model._session.run(
        tokens_of(model._info, _many(model.task, 3), SETTINGS, ranked=False)
    )
    for count in (2, 4):
        with pytest.raises(InputError, match=f"logits has 3 rows, the request {count}"):
            answers_from(model._info, _many(model.task, count), outputs, SETTINGS)
