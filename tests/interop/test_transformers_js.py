"""Transformers.js in Node answers from a deployment directory as our runtime and PyTorch do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts" / "tools" / "interop"
COMPARE = SCRIPTS.parent / "compare_answers.py"
# What npm says where no registry can be reached; anything else that fails is a failure.
UNREACHABLE = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH")

pytestmark = [pytest.mark.medium, pytest.mark.node]


@pytest.fixture(scope="module")
def classify() -> Path:
    """The script beside its installed packages; a second installation does nothing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm, which are not here")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").split(".")[0]) < 20:
        pytest.skip(f"needs Node 20 or later, here is {version.stdout.strip()}")
    folder = SCRIPTS / "transformers_js"
    installed = subprocess.run(
        ["npm", "install", "--fetch-retries=1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if installed.returncode and UNREACHABLE.search(installed.stderr):
        pytest.skip("needs an npm registry, which cannot be reached from here")
    assert installed.returncode == 0, installed.stderr
    return folder / "classify.mjs"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return (SCRIPTS / "sentences.txt").read_text(encoding="utf-8").splitlines()


def run_node(
    classify: Path, directory: Path, dtype: str, texts: list[str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", classify, directory, dtype],
        input="\n".join(texts),
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def run_compare(directory: Path, result: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMPARE, directory],
        input=json.dumps(result) if result else "",
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_answers_as_our_runtime(
    dtype: str, classify: Path, directory: Path, texts: list[str]
) -> None:
    ran = run_node(classify, directory, dtype, texts)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["variant"] == dtype
    assert [row["text"] for row in result["rows"]] == texts
    compared = run_compare(directory, result)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert f"{dtype}: {len(texts)} texts, 0 labels differ" in compared.stdout


def test_answers_as_pytorch(
    classify: Path, source: Path, directory: Path, texts: list[str]
) -> None:
    """Tokenizer and model by transformers, from the source: none of our code on either side."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        source, attn_implementation="eager"
    ).eval()
    rows = json.loads(run_node(classify, directory, "fp32", texts).stdout)["rows"]
    neutral = []
    for text, row in zip(texts, rows, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0]
        wanted = dict(zip(model.config.id2label.values(), logits.softmax(-1).tolist(), strict=True))
        assert row["scores"] == pytest.approx(wanted, abs=1e-4), text
        low, middle, high = sorted(wanted.values())
        assert min(middle - low, high - middle) > 1e-3, "equal scores would hide a mix-up"
        neutral.append(wanted["neutral"])
    assert max(neutral) - min(neutral) > 0.01, "one answer to every text would hide one too"


def test_a_long_text_is_cut(classify: Path, directory: Path) -> None:
    """Transformers.js cuts the closing [SEP] off too, so its answer is near ours, not equal."""
    text = "a long and warm film that never ends " * 60
    ran = run_node(classify, directory, "fp32", [text])
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(ran.stdout)["rows"]
    assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_a_missing_variant_is_not_looked_for_elsewhere(classify: Path, directory: Path) -> None:
    ran = run_node(classify, directory, "q4", ["a film"])
    assert ran.returncode != 0
    assert "model_q4.onnx" in ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize("wrong", ["score", "label", "nan", "nothing"])
def test_compare_sees_other_answers(wrong: str, directory: Path, texts: list[str]) -> None:
    """Without it, the comparisons above could be blind."""
    scores = {"negative": 0.2, "neutral": 0.3, "positive": 0.5}
    if wrong == "label":
        scores = {"NEGATIVE": 0.2, "neutral": 0.3, "positive": 0.5}
    elif wrong == "nan":
        scores = dict.fromkeys(scores, float("nan"))
    rows = [{"text": text, "scores": scores} for text in texts[:2]]
    result = {"variant": "int8", "rows": rows} if wrong != "nothing" else None
    compared = run_compare(directory, result)
    assert compared.returncode == 1, compared.stdout
    told = {"score": "DIFFERENT", "label": "NEGATIVE", "nan": "DIFFERENT", "nothing": "no answers"}
    assert told[wrong] in compared.stdout + compared.stderr
