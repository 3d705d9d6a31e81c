"""Classify the lines of standard input with optimum-onnx, from each ONNX file of a directory.

Runs in an environment of its own, see ``optimum_onnx.sh``; it uses nothing of albert-deploy.
Prints the lines of JSON that ``compare_answers.py`` reads.
"""

from __future__ import annotations

import json
import sys
from typing import Any

FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}


def classify(directory: str, file: str, texts: list[str]) -> list[dict[str, Any]]:
    """Return the probability of every label for each text, one text at a time."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = ORTModelForSequenceClassification.from_pretrained(
        directory, subfolder="onnx", file_name=file, local_files_only=True
    )
    labels = model.config.id2label
    rows = []
    for text in texts:
        logits = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0]
        scores = {labels[i]: share for i, share in enumerate(logits.softmax(-1).tolist())}
        rows.append({"text": text, "scores": scores})
    return rows


def main() -> int:
    """Print one line of JSON for each file."""
    if len(sys.argv) != 2:
        print("usage: python optimum_onnx.py DIR < texts", file=sys.stderr)
        return 2
    sys.stdin.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    texts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    for variant, file in FILES.items():
        rows = classify(sys.argv[1], file, texts)
        print(json.dumps({"variant": variant, "rows": rows}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
