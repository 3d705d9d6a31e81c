"""Models of Triton's Python backend, called as Triton calls them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import triton_stand_in as triton
from serving_requests import ASKED, answered, assert_close, request, tensor, told

from albert_deploy.runtime import load
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.serving.backend import guarded, one_by_one, read_request, refusal
from albert_deploy.runtime.serving.settings import ANSWER

TASK = "text-classification"
GOOD = {"text": tensor(["the film was long"])}
BAD = {"text": np.array([[b"\xff"]], np.object_)}
INVALID, INTERNAL = triton.TritonError.INVALID_ARG, triton.TritonError.INTERNAL
Started = Callable[..., Any]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    triton.logged.clear()


@pytest.fixture
def started(exported_task: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that initializes a model, ``started("direct", batch_size="4")``."""
    import importlib

    running = []

    def start(module: str, directory: Path | None = None, **given: str) -> Any:
        place = directory or exported_task(TASK)
        code = importlib.import_module(f"albert_deploy.runtime.serving.{module}")
        values = {"directory": str(place), "engine": "ort"} | given
        told = {key: {"string_value": value} for key, value in values.items()}
        model = code.TritonPythonModel()
        model.initialize(
            {"model_config": json.dumps({"parameters": told}), "model_repository": str(tmp_path)}
        )
        running.append(model)
        return model

    yield start
    for model in running:
        if hasattr(model, "finalize"):
            model.finalize()


def asked(tensors: dict[str, Any], **parameters: Any) -> triton.InferenceRequest:
    return triton.InferenceRequest(tensors, parameters)


def given_back(response: triton.InferenceResponse) -> dict[str, Any]:
    assert not response.has_error(), response.error().message()  # type: ignore[union-attr]
    return {one.name(): one.as_numpy() for one in response.output_tensors()}


def refused(response: triton.InferenceResponse) -> tuple[int, str]:
    error = response.error()
    assert error is not None
    assert response.output_tensors() == []
    return error.code(), error.message()


def test_a_direct_model_answers_each_request(started: Started, exported_task: Any) -> None:
    model = started("direct")
    requests = [asked(dict(request(items).tensors), **options) for items, options in ASKED[TASK]]
    requests.insert(1, asked(BAD))
    requests.insert(3, asked(GOOD, top_k="x"))
    requests.insert(4, triton.InferenceRequest(GOOD, "[1]"))
    requests.insert(5, triton.InferenceRequest(GOOD, "{"))
    requests.append(asked({"question": GOOD["text"]}))
    found = model.execute(requests)
    assert len(found) == len(requests)
    with load(exported_task(TASK), "fp32", "ort") as local:
        wanted = [answered(local, one) for one in ASKED[TASK]]
    good = [0, 2, 6, 7]
    for place, answers in zip(good, wanted, strict=True):
        outputs = given_back(found[place])
        assert outputs.keys() == {ANSWER}
        assert_close(told(outputs[ANSWER]), answers)
    errors = [refused(one) for i, one in enumerate(found) if i not in good]
    assert {code for code, _ in errors} == {INVALID}
    for (_, message), hint in zip(
        errors,
        ("no UTF-8", "top_k", "parameters cannot be read", "parameters cannot be read", "no text"),
        strict=True,
    ):
        assert hint in message
    assert triton.logged == []


def test_what_the_protocol_adds_is_no_option(started: Started) -> None:
    model = started("direct")
    extra = {"binary_data_output": True, "headers": {"a": "b"}, "top_k": 1}
    (found,) = model.execute([asked(GOOD, **extra)])
    ((answer,),) = (told(given_back(found)[ANSWER]),)
    assert isinstance(answer, list)
    assert len(answer) == 1


def test_an_ensemble_answers_as_a_direct_model_does(started: Started) -> None:
    direct = started("direct")
    given = {"max_rows": "8", "lengths": "16,32,64"}
    tokens, network, answer = (
        started("tokens", **given),
        started("network"),
        started("answer", **given),
    )
    requests = [dict(request(items).tensors) for items, _ in ASKED[TASK]]
    options = [options for _, options in ASKED[TASK]]
    plain = [asked(one, **more) for one, more in zip(requests, options, strict=True)]
    wanted = [told(given_back(one)[ANSWER]) for one in direct.execute(plain)]
    feeds = [given_back(one) for one in tokens.execute([*plain, asked(BAD)])[:-1]]
    assert refused(tokens.execute([asked(BAD)])[0])[0] == INVALID
    shapes = {one["input_ids"].shape[1] for one in feeds}
    assert shapes <= {16, 32, 64}
    assert len(shapes) > 1  # Requests of several lengths run in one call.
    outputs = [given_back(one) for one in network.execute([asked(one) for one in feeds])]
    assert [len(one["logits"]) for one in outputs] == [len(one["input_ids"]) for one in feeds]
    last = [
        asked(one | made, **more)
        for one, made, more in zip(requests, outputs, options, strict=True)
    ]
    found = [told(given_back(one)[ANSWER]) for one in answer.execute(last)]
    assert_close(found, wanted)
    code, message = refused(answer.execute([asked(requests[0])])[0])
    assert (code, "gave no logits" in message) == (INTERNAL, True)


def test_a_network_runs_requests_of_a_length_together(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, network = started("tokens"), started("network")
    runs = []
    real = network._session.run

    def run(feeds: Any) -> Any:
        runs.append(feeds["input_ids"].shape)
        return real(feeds)

    monkeypatch.setattr(network._session, "run", run)
    texts = ["the film", "a warm river is long", "the river", "a film"]
    feeds = [
        given_back(one) for one in tokens.execute([asked({"text": tensor([t])}) for t in texts])
    ]
    found = [given_back(one)["logits"] for one in network.execute([asked(one) for one in feeds])]
    assert sorted(rows for rows, _ in runs) == [1, 3]
    alone = [given_back(network.execute([asked(one)])[0])["logits"] for one in feeds]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(alone), atol=1e-5)


def test_a_bad_request_to_the_network_spoils_no_other(started: Started) -> None:
    """Who asks the network itself may send inputs that do not fit each other, or no token ids."""
    tokens, network = started("tokens"), started("network")
    feeds = given_back(tokens.execute([asked(GOOD)])[0])
    wanted = given_back(network.execute([asked(feeds)])[0])["logits"]
    wide = feeds | {"attention_mask": np.ones((1, 99), np.int64)}
    unknown = feeds | {"input_ids": feeds["input_ids"] + 1_000_000}
    for bad in (wide, unknown):
        before, found, after = network.execute([asked(feeds), asked(bad), asked(feeds)])
        for one in (before, after):
            np.testing.assert_allclose(given_back(one)["logits"], wanted, atol=1e-5)
        assert found.has_error()
    before, found, after = network.execute(
        [asked(feeds), asked({"input_ids": feeds["input_ids"]}), asked(feeds)]
    )
    assert refused(found)[0] == INVALID
    assert not before.has_error()


@pytest.mark.parametrize("module", ["direct", "network", "tokens", "answer"])
def test_a_damaged_directory_is_not_served(
    started: Started, exported_task: Any, tmp_path: Path, module: str
) -> None:
    damaged = shutil.copytree(exported_task(TASK), tmp_path / "damaged")
    file = "onnx/model.onnx" if module == "network" else "tokenizer.json"
    with (damaged / file).open("ab") as opened:
        opened.write(b"\n")
    with pytest.raises(ContractError, match="is not the file that the manifest recorded"):
        started(module, damaged)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("yours"), INVALID, "yours"),
        (ContractError("ours"), INTERNAL, "ours"),
        (MachineError("its"), INTERNAL, "its"),
    ],
)
def test_a_refusal_says_whose_fault_it_is(error: Any, code: int, message: str) -> None:
    assert refused(refusal(error)) == (code, message)

    def answer(_: Any) -> Any:
        raise error

    assert [refused(one) for one in one_by_one([1, 2], answer)] == [(code, message)] * 2
    assert [refused(one) for one in guarded([1, 2], answer)] == [(code, message)] * 2


def test_a_fault_of_ours_is_logged_and_not_told() -> None:
    def answer(_: Any) -> Any:
        raise RuntimeError("a secret path")

    found = guarded([1, 2, 3], answer)
    assert [refused(one) for one in found] == [
        (INTERNAL, "internal error; see the server's log")
    ] * 3
    assert triton.logged == ["internal error: RuntimeError: a secret path"]


def test_only_named_tensors_are_read() -> None:
    found = read_request(asked(GOOD | {"more": np.zeros(1)}), ("text", "text_pair"))
    assert found.tensors.keys() == {"text"}
    assert found.parameters == {}
    odd: Any = SimpleNamespace(inputs=list, parameters=lambda: None)
    assert read_request(odd, ("text",)).tensors == {}
