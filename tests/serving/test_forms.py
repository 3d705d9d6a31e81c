"""Every form that this Triton can load, for all heads: the answers are those of this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime import load

_LONG = "the long river was warm and the film is a long film about a warm river"
# Task -> inputs by field, a row each.
INPUTS: dict[str, list[dict[str, Any]]] = {
    "text-classification": [{"text": "a warm film"}, {"text": _LONG}],
    "feature-extraction": [{"text": "a warm film"}, {"text": "a long river was warm"}],
    "fill-mask": [{"text": "a [MASK] film"}, {"text": "who is the [MASK] [MASK]"}],
    "pretraining": [{"text": "a [MASK] film"}, {"text": "the river was warm"}],
    "token-classification": [{"text": "a warm film"}, {"text": _LONG}],
    "question-answering": [
        {"question": "what was warm", "context": _LONG},
        {"question": "who is long", "context": " ".join([_LONG] * 5)},
    ],
    "multiple-choice": [
        {"context": _LONG, "question": "what is it", "choices": ["a film", "a river", "a word"]},
        {"context": "a warm film", "question": "who is it", "choices": ["a", "the", "long film"]},
    ],
}


@pytest.mark.parametrize("form", ["direct", "python"])
@pytest.mark.parametrize("task", sorted(INPUTS))
def test_a_served_head_answers_as_in_this_process(
    start: Callable[..., Any],
    bundle_of: Callable[..., Path],
    make_export: Callable[..., Path],
    connect: Callable[..., Any],
    same: Callable[[Any, Any], bool],
    task: str,
    form: str,
) -> None:

    out = make_export(task)
    with load(out) as model:
        wanted = list(model.stream(INPUTS[task]))
    bundle = bundle_of(out, form=form, threads=1)
    with start(bundle) as served:
        for protocol in ("http", "grpc"):
            client = connect(served, protocol)
            rows = INPUTS[task]
            together = [
                client.tensor(
                    name, [row[name] if name == "choices" else [row[name]] for row in rows]
                )
                for name in rows[0]
            ]
            assert same(client.send(together), wanted)
            for row, answer in zip(rows, wanted, strict=True):
                alone = [
                    client.tensor(name, [value if name == "choices" else [value]])
                    for name, value in row.items()
                ]
                assert same(client.send(alone), [answer])


def test_the_network_of_an_ensemble_takes_tokens_by_itself(
    start: Callable[..., Any], sample: Path, bundle_of: Callable[..., Path], connect: Any
) -> None:
    import numpy as np

    from albert_deploy.runtime.engines.table import open_session

    rng = np.random.default_rng(0)
    feeds = {
        "input_ids": rng.integers(5, 2000, (3, 16)),
        "attention_mask": np.ones((3, 16), np.int64),
        "token_type_ids": np.zeros((3, 16), np.int64),
    }
    with open_session(sample) as session:
        wanted = session.run(feeds)["logits"]
    with start(bundle_of(sample, form="python", name="mine")) as served:
        assert served.name == "mine"
        client = connect(served, "grpc")
        tensors = []
        for name, array in feeds.items():
            tensors.append(client.kinds.InferInput(name, list(array.shape), "INT64"))
            tensors[-1].set_data_from_numpy(array)
        found = client.client.infer("mine_model", tensors).as_numpy("logits")
    assert np.abs(found - wanted).max() < 1e-4


def test_what_a_bundle_settles_is_not_asked_again(program: Path, bundled: Path) -> None:
    import subprocess

    for option in (["--variant", "int8"], ["--instances", "3"], ["--engine", "openvino"]):
        run = subprocess.run(
            [program, "serve", bundled, "--port", "0", "--no-grpc", *option],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == 3
        assert f"leave out {option[0]}" in run.stderr


def test_a_form_for_another_triton_says_so(
    program: Path, sample: Path, bundle_of: Callable[..., Path]
) -> None:
    import subprocess

    bundle = bundle_of(sample, form="onnxruntime")
    run = subprocess.run(
        [program, "serve", bundle, "--port", "0", "--no-grpc"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 3
    assert "needs a backend that this Triton has not" in run.stderr
