"""What Triton never gets to parse, and what it does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albert_deploy.scripts.serving.front.bodies import MOST_VALUES, bad_body

TENSOR: dict[str, Any] = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}


def infer(**changes: Any) -> bytes:
    return json.dumps({"inputs": [TENSOR | changes]}).encode()


def more(**changes: Any) -> bytes:
    return json.dumps({"inputs": [TENSOR], **changes}).encode()


SOUND = {
    "a text": infer(),
    "rows": infer(shape=[2, 1], data=[["a"], ["b"]]),
    "flat rows": infer(shape=[2, 1], data=["a", "b"]),
    "binary": infer(data=None) and json.dumps(
        {"inputs": [{k: TENSOR[k] for k in ("name", "shape", "datatype")}
                    | {"parameters": {"binary_data_size": 5}}],
         "outputs": [{"name": "answer", "parameters": {"binary_data": True}}]}
    ).encode(),
    "tokens": infer(shape=[32, 512], datatype="INT64", data=[[7] * 512] * 32),
    "options": more(id="7", parameters={"top_k": 2, "function_to_apply": "none"}),
    "brackets and escapes in a text": infer(data=['[{"' * 20_000 + "\\n\u00e9"]),
}  # fmt: skip
UNSOUND = {
    "empty": (b"", "empty"),
    "blank": (b" \n", "empty"),
    "null": (b"null", "the body is null"),
    "a number": (b"7", "the body is a number"),
    "a text": (b'"text"', "the body is a text"),
    "a list": (b"[]", "the body is a list"),
    "NaN": (b'{"inputs": NaN}', "NaN is no number"),
    "infinity": (b'{"inputs": 1e999}', "too large a number"),
    "trailing bytes": (infer() + b"x", "Extra data"),
    "half": (infer()[:-3], "is no JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "is no JSON"),
    "no UTF-8": (b'{"inputs": "\xff"}', "no UTF-8 at byte 13"),
    "deep": (b"[" * 40_000, "nested too deep"),
    "deep objects": (b'{"inputs":' * 40_000, "nested too deep"),
    "deep data": (
        infer(datatype="INT64", data=json.loads("[" * 9 + "1" + "]" * 9)),
        "nested more than 4 deep",
    ),
    "many keys": (json.dumps({str(i): 1 for i in range(150_000)}).encode(), "is not offered here"),
    "many parameters": (more(parameters={str(i): 1 for i in range(65)}), "at most 64 keys"),
    "many values": (
        infer(datatype="INT64", data=[1] * (MOST_VALUES + 1)),
        "more than 200,000 values",
    ),
    "many tensors": (json.dumps({"inputs": [TENSOR] * 17}).encode(), "at most 16 tensors"),
    "a lone surrogate": (infer(data=["\ud800"]), "lone surrogate"),
    "a surrogate as a key": (more(parameters={"\udfff": 1}), "lone surrogate"),
    "no inputs": (b"{}", "inputs is null"),
    "inputs that are none": (b'{"inputs": [1]}', "inputs has a number"),
    "no name": (json.dumps({"inputs": [{"shape": [1]}]}).encode(), "name is null"),
    "a huge shape": (infer(shape=[10**9, 10**9]), "no more than|more than 200,000"),
    "a negative shape": (infer(shape=[-1, 1]), "no shape of"),
    "a shape of truths": (infer(shape=[True]), "no shape of"),
    "numbers as texts": (infer(data=[1]), "text has a number; wanted texts"),
    "texts as numbers": (infer(datatype="INT64"), "text has a text; wanted numbers"),
    "null in the data": (infer(data=[None]), "has null"),
    "classification": (
        more(outputs=[{"name": "answer", "parameters": {"classification": 3}}]),
        "'classification' is not offered here",
    ),
    "shared memory": (
        infer(parameters={"shared_memory_region": "x"}),
        "'shared_memory_region' is not offered",
    ),
    "an unknown key": (more(extra=1), "'extra' is not offered"),
    "an object as a parameter": (more(parameters={"top_k": {}}), "top_k is an object"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_requests_pass(name: str) -> None:
    assert bad_body(SOUND[name], generate=False) is None


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_requests_are_named(name: str) -> None:
    body, message = UNSOUND[name]
    told = bad_body(body, generate=False) or ""
    assert any(word in told for word in message.split("|"))
    assert len(told) < 500


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": "a"}, None),
        ({"text": "a", "top_k": 2, "parameters": {"top_k": 1}}, None),
        ({"context": "a", "choices": ["b", "c"]}, None),
        ({str(i): 1 for i in range(50_000)}, "more than 64 keys"),
        ({"text": {"a": 1}}, "text has an object"),
        ({"text": None}, "text has null"),
        ({"text": [[["a"]]]}, "nested more than 2 deep"),
        ({"text": "\ud83d"}, "lone surrogate"),
        (["a"], "the body is a list"),
    ],
)
def test_fields_of_generate(body: Any, message: str | None) -> None:
    told = bad_body(json.dumps(body).encode(), generate=True)
    assert told is None if message is None else message in (told or "")


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_break_it(body: bytes, generate: bool) -> None:
    told = bad_body(body, generate=generate)
    assert told is None or told.encode()
