"""A deployment directory that other tools then load, and the source it was made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Three labels, so that a mix-up of their order cannot hide behind symmetry.
LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="session")
def source(make_checkpoint: Callable[..., Path]) -> Path:
    """A classifier with random weights and the tokenizer that the sample ships."""
    sample = REPOSITORY / "export" / "samples" / "sst2"
    vocabulary: dict[str, Any] = json.loads((sample / "tokenizer.json").read_text("utf-8"))
    folder = make_checkpoint(
        tokenizer=False,
        vocab_size=len(vocabulary["model"]["vocab"]),
        max_position_embeddings=128,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample / name, folder / name)
    sharpen(folder / "model.safetensors")
    return folder


def sharpen(path: Path) -> None:
    """Make attention choose between tokens: while it averages them all, masks hardly matter."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    for name, weight in weights.items():
        if name.endswith(("query.weight", "key.weight")):
            weights[name] = weight * 6
        elif weight.ndim == 2:
            weights[name] = weight * 2
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def directory(source: Path, made_once: Callable[..., Path]) -> Path:
    """The deployment directory of ``source`` with all three variants."""
    from albert_deploy.export.step import ExportConfig, export
    from albert_deploy.quantize.step import QuantizeConfig, quantize

    def make(out: Path) -> None:
        export(str(source), ExportConfig(), out=out)
        quantize(out, QuantizeConfig())

    return made_once("classifier", make)
