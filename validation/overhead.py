"""How much of an evaluation's time is inside the engine, and how much is ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError


def bench_harness(
    dataset: Path | None = None,
    *,
    tokenizer: Path | None = None,
    rows: int = 50,
    geometry: str = "base",
    variant: str = "int8",
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate a reader with random weights on SQuAD's rows and measure where the time goes.

    One quantized model runs, without any source beside it: all that is not the engine, from
    tokenizing to scoring, is held against the quickest model alone.

    Args:
        dataset: Folder or file of SQuAD v1.1; None for the shipped sample, whose texts are short.
        tokenizer: Folder of the tokenizer; None for that of the shipped sample, which makes more
            tokens of a text than ALBERT's own.
        rows: Questions, evenly spread over the data.
        geometry: Key of ``scripts.bench.GEOMETRIES``.
        variant: Key of ``VARIANTS`` that needs no calibration.
        seed: Seed of the weights.
        note: Called with a line about each stage.

    Returns:
        ``rows``, ``window_tokens`` (mean of the first windows), ``engine_seconds``,
        ``total_seconds`` and ``share`` of the time that was inside the engine.

    Raises:
        InputError: The data cannot be read, or the geometry is unknown.
        MachineError: A package is missing or the disk is full.
    """
    from albert_deploy.export.samples import SAMPLES
    from albert_deploy.export.step import ExportConfig, export
    from albert_deploy.quantize.step import QuantizeConfig, quantize
    from albert_deploy.runtime.engines.table import choose_engine, open_session
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.runtime.tasks.tokenize import load_tokenizer
    from albert_deploy.validation.data.datasets import read_data
    from albert_deploy.validation.evaluate.evaluate import SOURCE, EvaluateConfig, Keep, evaluate

    if rows < 1:
        raise InputError(f"got {rows} rows to measure on; use at least 1")
    sample = SAMPLES["sample-squad"]
    everything = read_data("squad", dataset or sample.data).rows
    chosen = everything[:: max(1, len(everything) // rows)][:rows]
    with tempfile.TemporaryDirectory(prefix="albert-deploy-harness-") as folder:
        checkpoint, directory = Path(folder) / "checkpoint", Path(folder) / "deployment"
        note(f"making an ALBERT-{geometry} reader with random weights in {folder}")
        _random_reader(geometry, checkpoint, tokenizer or sample.checkpoint, seed)
        export(str(checkpoint), ExportConfig(), out=directory)
        quantize(directory, QuantizeConfig(variants=(variant,)))
        manifest = read_manifest(directory)
        note(f"{len(chosen)} questions through {variant}")
        engine = choose_engine(manifest, variant)
        with open_session(directory, variant=variant, engine=engine) as session:
            session.run(_short_feeds())  # The first run of an engine sets up its memory.
            evidence = evaluate(
                {SOURCE: session},
                contract=manifest["contract"],
                task=manifest["task"],
                tokenizer=load_tokenizer(directory),
                decide={},
                dataset=("squad", dataset or sample.data),
                examples=chosen,
                config=EvaluateConfig(),
                keep=Keep(reports=Path(folder) / "reports", models={SOURCE: variant}),
            )
    lengths = [len(text) for text in evidence.texts]
    return {
        "rows": evidence.rows,
        "window_tokens": sum(lengths) / len(lengths),
        "engine_seconds": evidence.engine_seconds[SOURCE],
        "total_seconds": evidence.total_seconds,
        "share": evidence.engine_share,
    }


def harness_text(found: dict[str, Any]) -> str:
    """Return the result of ``bench_harness`` as a line for people."""
    return (
        f"{found['rows']} questions of {found['window_tokens']:.0f} tokens: "
        f"{found['engine_seconds']:.2f} s of {found['total_seconds']:.2f} s inside the engine, "
        f"{found['share']:.1%}"
    )


def _random_reader(geometry: str, out: Path, tokenizer: Path, seed: int) -> None:
    import torch
    from transformers import AlbertConfig, AlbertForQuestionAnswering

    from albert_deploy.scripts.bench import random_checkpoint

    random_checkpoint(geometry, out=out, seed=seed)
    config = AlbertConfig.from_pretrained(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AlbertForQuestionAnswering(config).save_pretrained(out)
    (out / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())


def _short_feeds() -> dict[str, Any]:
    import numpy as np

    from albert_deploy.runtime.contract import INPUT_NAMES

    return {name: np.ones((1, 8), np.int64) for name in INPUT_NAMES}
