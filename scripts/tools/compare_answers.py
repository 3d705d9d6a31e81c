"""Compare what another tool answered from a deployment directory with what our runtime answers.

Usage: ``TOOL ... | python scripts/tools/compare_answers.py DIR``, where the tool prints, for each
variant, one line of JSON: ``{"variant", "rows": [{"text", "scores": {label: probability}}]}``.
Ends with 1 where a label or a score differs by more than ``LIMITS``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.tasks.tokenize import encode, load_tokenizer

# Largest difference of a probability. Both sides run the same file, so only the engines differ;
# one activation that rounds the other way moves an INT8 answer by about a thousandth.
LIMITS = {"fp32": 1e-5, "fp16": 1e-3, "int8": 1e-2}


def answers(directory: Path, variant: str, texts: Iterable[str]) -> list[dict[str, float]]:
    """Classify each text by itself; return the probability of every label.

    Args:
        directory: Deployment directory of a single-label text classifier.
        variant: ``fp32``, ``fp16`` or ``int8``.
        texts: Texts; what is longer than the model takes is cut.
    """
    contract = read_manifest(directory)["contract"]
    if contract["problem_type"] != "single_label_classification":
        raise SystemExit(f"{directory}: wanted a single-label text classifier")
    tokenizer = load_tokenizer(directory)
    rows = []
    with open_session(directory, variant=variant) as session:
        for text in texts:
            feeds = encode(tokenizer, text, max_length=contract["max_length"], truncate=True)
            logits = session.run(feeds)["logits"][0].astype(np.float64)
            powers = np.exp(logits - logits.max())
            shares = (powers / powers.sum()).tolist()
            rows.append(dict(zip(contract["labels"], shares, strict=True)))
    return rows


def compare(directory: Path, result: dict[str, Any]) -> tuple[float, int]:
    """Compare one variant's answers.

    Returns:
        The largest difference of a probability, and how many texts got another label.
    """
    texts = [row["text"] for row in result["rows"]]
    largest, changed = 0.0, 0
    for row, ours in zip(result["rows"], answers(directory, result["variant"], texts), strict=True):
        theirs = row["scores"]
        if set(theirs) != set(ours):
            raise SystemExit(f"got labels {sorted(theirs)}, wanted {sorted(ours)}")
        largest = max(largest, *(abs(theirs[label] - ours[label]) for label in ours))
        changed += max(theirs, key=theirs.__getitem__) != max(ours, key=ours.__getitem__)
    return largest, changed


def main() -> int:
    """Read results from standard input and print one line for each."""
    if len(sys.argv) != 2:
        print("usage: TOOL ... | python compare_answers.py DIR", file=sys.stderr)
        return 2
    results = [json.loads(line) for line in sys.stdin if line.strip()]
    if not results or not all(result["rows"] for result in results):
        print("got no answers to compare", file=sys.stderr)
        return 1
    failed = False
    for result in results:
        limit = LIMITS[result["variant"]]
        largest, changed = compare(Path(sys.argv[1]), result)
        # Written so that a score that is not a number fails.
        good = largest <= limit and not changed
        failed |= not good
        print(
            f"{result['variant']}: {len(result['rows'])} texts, {changed} labels differ, largest "
            f"score difference {largest:.1e} (limit {limit:.0e}): {'same' if good else 'DIFFERENT'}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
