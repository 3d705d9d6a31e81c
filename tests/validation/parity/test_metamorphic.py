"""Metamorphic checks: sound artifacts pass, each relation fails for the mistake it is there for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from albert_deploy.export.graph.file import load, save
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import INPUT_NAMES, VARIANTS
from albert_deploy.runtime.engines.table import choose_engine, open_file
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.gate.faults import (
    FAULTS,
    ignore_types,
    lose_mask,
    make_nan,
    sort_mask,
    swap_labels,
)
from albert_deploy.validation.parity.metamorphic import TOLERANCES, MetamorphicConfig, metamorphic

TASKS = (
    "text-classification",
    "question-answering",
    "multiple-choice",
    "token-classification",
    "pretraining",
)
MADE = ("fp16", "int8")


@pytest.fixture(scope="module")
def made(make_export: Callable[..., Path]) -> dict[str, Path]:
    found = {}
    for task in TASKS:
        out = make_export(task)
        quantize(out, QuantizeConfig(variants=MADE))
        found[task] = out
    return found


def _texts() -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    random = np.random.default_rng(0)
    return [random.integers(5, 200, n) for n in (7, 12, 30)]


def _checked(
    directory: Path, variant: str, file: Path | None = None, **options: int
) -> list[dict[str, Any]]:
    manifest = read_manifest(directory)
    path = file or directory / VARIANTS[variant].file
    with (
        open_reference(manifest) as source,
        open_file(path, variant, choose_engine(manifest, variant)) as session,
    ):
        return metamorphic(
            session,
            source,
            contract=manifest["contract"],
            config=manifest["source"]["config"],
            texts=_texts(),
            variant=variant,
            options=MetamorphicConfig(**options),
        )


def _spoilt(
    directory: Path, variant: str, plant: Callable[[ir.Model], str | None], folder: Path
) -> set[str]:
    model = load(directory / VARIANTS[variant].file)
    assert plant(model) is not None
    save(model, folder / "bad.onnx")
    rows = _checked(directory, variant, folder / "bad.onnx")
    return {row["check"] for row in rows if row["verdict"] == "fail"}


@pytest.mark.medium
@pytest.mark.parametrize("task", TASKS)
def test_a_sound_artifact_passes_every_check(made: dict[str, Path], task: str) -> None:
    outputs = {o["name"] for o in read_manifest(made[task])["contract"]["outputs"]}
    for variant in ("fp32", "fp16"):
        rows = _checked(made[task], variant)
        assert [row for row in rows if row["verdict"] != "pass"] == []
        checks = {row["check"] for row in rows}
        assert len(checks) == 14
        assert {(row["check"], row["output"]) for row in rows} == {
            (check, output) for check in checks for output in outputs
        }


@pytest.mark.medium
def test_dynamic_int8_depends_on_its_batch_and_the_figure_says_so(made: dict[str, Path]) -> None:
    rows = {row["check"]: row for row in _checked(made["text-classification"], "int8")}
    assert 1e-4 < rows["batch 1 against N"]["error"] < TOLERANCES["int8"].invariance
    # The same rows in another order have the same ranges.
    assert rows["row order"]["error"] < 1e-6


@pytest.mark.medium
@pytest.mark.parametrize(
    ("plant", "checks"),
    [
        (sort_mask, {"first half hidden", "left padding", "hidden tokens", "holed mask"}),
        (lose_mask, {"second half hidden", "right padding", "extra padding", "empty mask"}),
        (ignore_types, {"token types"}),
        (swap_labels, {"largest batch", "length 1", "longest"}),
        (make_nan, {"row order", "token types", "longest"}),
    ],
    ids=["left padding", "half of the mask", "token types", "labels", "nan"],
)
def test_each_mistake_fails_its_relations(
    made: dict[str, Path], tmp_path: Path, plant: Callable[[ir.Model], str | None], checks: set[str]
) -> None:
    assert checks <= _spoilt(made["token-classification"], "fp16", plant, tmp_path)


@pytest.mark.medium
def test_a_model_of_few_positions_and_one_type_has_fewer_checks(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(max_position_embeddings=8, type_vocab_size=1)
    export(str(checkpoint), ExportConfig(), out=tmp_path / "out")
    rows = _checked(tmp_path / "out", "fp32", rows=3, batch=2)
    assert {row["verdict"] for row in rows} == {"pass"}
    assert "token types" not in {row["check"] for row in rows}
    model = load(tmp_path / "out" / VARIANTS["fp32"].file)
    assert ignore_types(model) is None


@pytest.mark.medium
def test_what_it_refuses(made: dict[str, Path]) -> None:
    manifest = read_manifest(made["text-classification"])
    assert set(TOLERANCES) == set(VARIANTS)
    with open_reference(manifest) as source:
        for texts, variant, reason in (([], "fp32", "no texts"), (_texts(), "int4", "int4")):
            with pytest.raises(InputError, match=reason):
                metamorphic(
                    source,
                    source,
                    contract=manifest["contract"],
                    config={},
                    texts=texts,
                    variant=variant,
                )
    with pytest.raises(InputError, match="batch is 1"):
        MetamorphicConfig(batch=1)


@pytest.mark.medium
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_every_fault_leaves_a_file_that_runs_and_answers_otherwise(
    made: dict[str, Path], task: str, variant: str, tmp_path: Path
) -> None:
    directory, manifest = made[task], read_manifest(made[task])
    ids = np.resize(_texts()[2], (2, 2, 12) if task == "multiple-choice" else (3, 12))
    mask, types = np.ones_like(ids), (np.arange(12) > 5) + np.zeros_like(ids)
    mask[..., 8:] = 0
    mask[0, ..., :3] = 0
    feeds = dict(zip(INPUT_NAMES, (ids, mask, types), strict=True))
    engine = choose_engine(manifest, variant)
    with open_file(directory / VARIANTS[variant].file, variant, engine) as session:
        before = session.run(feeds)
    for fault in FAULTS:
        folder = Path(shutil.copytree(directory / "onnx", tmp_path / fault.name.replace("%", "")))
        model = load(folder / Path(VARIANTS[variant].file).name)
        assert fault.plant(model)
        save(model, folder / "bad.onnx")
        with open_file(folder / "bad.onnx", variant, engine) as session:
            after = session.run(feeds)
        assert list(after) == list(before), fault.name
        assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in before.items()}
        assert any(not np.array_equal(after[n], before[n]) for n in before), fault.name
