"""The runtime installed by itself answers for every head as transformers does here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from same_answers import (
    CONTEXT,
    assert_same,
    both_heads,
    chosen,
    deployments,
    pipeline,
    read,
    tokenizer_of,
)

from albert_deploy.runtime.contract import TASKS
from albert_deploy.scripts.tools.runtime_size import install, install_image

pytestmark = pytest.mark.slow

MASKED = ("the [MASK] was long", "a [MASK] river")
QUESTION = "what is the film of"
CHOICES = {"context": "the film was long", "question": "who", "choices": ["a river", "it", "long"]}
# Task -> inputs and options of a call.
ASKED: dict[str, tuple[Any, dict[str, Any]]] = {
    "text-classification": (["the film was long", "a river"], {"top_k": None}),
    "token-classification": ([CONTEXT, "the film"], {"aggregation_strategy": "average"}),
    "fill-mask": (list(MASKED), {"targets": ["film", "long", "river"]}),
    "feature-extraction": (["the film was long"], {}),
    "question-answering": (
        [{"question": QUESTION, "context": " ".join([CONTEXT] * 5)}],
        {"align_to_words": False, "top_k": 3},
    ),
    "multiple-choice": ([CHOICES], {}),
    "pretraining": ([{"text": MASKED[0], "text_pair": MASKED[1]}], {"top_k": 3}),
}
ANSWER = """
import json, sys
from albert_deploy.runtime import load
found = {}
for task, (directory, inputs, options) in json.load(sys.stdin).items():
    with load(directory, variant="fp32", engine="ort") as model:
        found[task] = model(inputs, **options)
heavy = {"torch", "transformers", "onnx", "huggingface_hub"} & set(sys.modules)
print(json.dumps([found, sorted(heavy)]))
"""
UNREACHABLE = ("No matching distribution", "Could not find a version", "Connection", "timed out")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python of an environment with the runtime and ONNX Runtime alone."""
    try:
        return install(tmp_path_factory.mktemp("fresh") / "env")
    except subprocess.CalledProcessError as error:
        why = str(error.stderr)
        if any(sign in why for sign in UNREACHABLE):
            pytest.skip(f"pip reaches no package index: {why.strip().splitlines()[-1]}")
        raise


@pytest.fixture(scope="module")
def made(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Checkpoint and deployment directory of every task."""
    deployed = deployments(make_checkpoint, tmp_path_factory)
    return {task: deployed(task) for task in ASKED}


def run(python: str, *arguments: str, given: str = "") -> str:
    """Run away from the checkout, whose folders would hide what is installed."""
    folder = Path(python).parent
    done = subprocess.run(
        [python, *arguments], input=given, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_answers_for_every_head_as_transformers_does(
    python: str, made: dict[str, tuple[Path, Path]]
) -> None:
    assert ASKED.keys() == TASKS.keys()
    where = run(python, "-c", "import albert_deploy.runtime as r; print(r.__file__)")
    assert Path(where.strip()).is_relative_to(Path(python).parents[1])
    asked = json.dumps({task: (str(made[task][1]), *ASKED[task]) for task in ASKED})
    installed = run(python, "-c", ANSWER, given=asked)
    found, heavy = json.loads(installed)
    assert heavy == []
    for task in ("text-classification", "token-classification", "fill-mask", "feature-extraction"):
        inputs, options = ASKED[task]
        assert_same(found[task], pipeline(task, made[task][0])(inputs, **options))
    (asked_of,) = ASKED["question-answering"][0]
    windows, wanted, _ = read(made["question-answering"][0], **asked_of, top_k=3)
    assert windows > 1
    assert_same(found["question-answering"], wanted)
    assert_same(found["multiple-choice"], [chosen(made["multiple-choice"][0], CHOICES)])
    tokens, scores, order = both_heads(made["pretraining"][0], *MASKED, 3)
    (told,) = found["pretraining"]
    assert [[one["token"] for one in row] for row in told["predictions"]] == tokens
    assert_same([[one["score"] for one in row] for row in told["predictions"]], scores)
    assert_same(told["sentence_order"], order)
    decode = tokenizer_of(made["pretraining"][0]).decode
    assert told["predictions"][0][0]["token_str"] == decode([tokens[0][0]])

    # What the image leaves out is nothing that an answer needs.
    small = install_image(Path(python).parents[2] / "image")
    packages = {*run(small, "-c", LISTED).split()}
    assert packages == {"albert-deploy", "numpy", "tokenizers", "click", "tqdm", "onnxruntime"}
    assert run(small, "-c", ANSWER, given=asked) == installed
    command = ("-m", "albert_deploy.scripts.cli", "predict", str(made["fill-mask"][1]))
    (line,) = run(small, *command, MASKED[0], "--targets", "film,river").splitlines()
    assert [one["token_str"] for one in json.loads(line)] != []


LISTED = """
from importlib.metadata import distributions
print(*(one.name.replace("_", "-").lower() for one in distributions()))
"""
