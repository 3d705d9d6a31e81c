"""Questions are answered as by the pipeline that transformers had until version 5.

It needs the environment that ``test_optimum_onnx`` needs, which has such a version, and likewise
runs only on request: ``ALBERT_DEPLOY_OPTIMUM_VENV=FOLDER``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime import load

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "tools" / "interop"
VARIABLE = "ALBERT_DEPLOY_OPTIMUM_VENV"
QUESTIONS = 30
# Windows of 384 tokens hold every short context; those of 100 share out the long ones.
SHORT: dict[str, Any] = {"max_seq_len": 100, "doc_stride": 20}
OPTIONS: list[dict[str, Any]] = [
    {**window, **widened, "top_k": count, "handle_impossible_answer": impossible}
    for window, widened in (({}, {}), (SHORT, {}), (SHORT, {"align_to_words": False}))
    for count in (1, 3)
    for impossible in (False, True)
]
ANSWER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import transformers
assert transformers.__version__.startswith("4."), transformers.__version__
checkpoint, asked, options = json.load(sys.stdin)
answer = transformers.pipeline("question-answering", model=checkpoint, device="cpu")
print(json.dumps([[answer(**one, **how) for how in options] for one in asked]))
"""


def questions() -> tuple[Path, list[dict[str, str]]]:
    """The sample's checkpoint, and questions on its paragraphs, the last ones on many at once."""
    from albert_deploy.export.samples import SAMPLES

    sample = SAMPLES["sample-squad"]
    (file,) = (sample.data if sample.data.is_dir() else sample.data.parent).glob("dev*.json")
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    every = [
        {"question": asked["question"], "context": paragraph["context"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    drawn = every[:: max(len(every) // QUESTIONS, 1)][:QUESTIONS]
    contexts = list(dict.fromkeys(one["context"] for one in every))
    for number in range(QUESTIONS - 6, QUESTIONS):
        others = contexts[number : number + 5]
        others.insert(number % 5, drawn[number]["context"])
        drawn[number] = drawn[number] | {"context": " ".join(others)}
    return sample.checkpoint, drawn


@pytest.mark.slow
@pytest.mark.skipif(
    VARIABLE not in os.environ,
    reason=f"makes an environment of 1.3 GB: set {VARIABLE} to a folder for it",
)
def test_answers_as_transformers_4_did(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    environment = Path(os.environ[VARIABLE])
    if not (environment / ".installed").exists():
        made = subprocess.run(
            [SCRIPTS / "optimum_onnx.sh", request.getfixturevalue("directory"), environment],
            input="a text\n",
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert made.returncode == 0, made.stderr
    checkpoint, asked = questions()
    told = subprocess.run(
        [environment / "bin" / "python", "-c", ANSWER],
        input=json.dumps([str(checkpoint), asked, OPTIONS]),
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert told.returncode == 0, told.stderr
    export(str(checkpoint), ExportConfig(), out=tmp_path / "out")
    model = load(tmp_path / "out", variant="fp32", engine="ort")
    wanted = json.loads(told.stdout)
    empty = 0
    for number, options in enumerate(OPTIONS):
        for one, answers in zip(asked, wanted, strict=True):
            found, expected = model(one, **options), answers[number]
            assert isinstance(found, list) == isinstance(expected, list), (one, options)
            found, expected = (x if isinstance(x, list) else [x] for x in (found, expected))
            for mine, theirs in zip(found, expected, strict=True):
                assert mine.keys() == theirs.keys()
                assert mine.pop("score") == pytest.approx(theirs.pop("score"), abs=1e-4)
                assert mine == theirs, (one, options)
                empty += mine["answer"] == ""
    assert empty  # Otherwise handle_impossible_answer was not compared.
