"""The last iteration computes the first token only, exactly where no head reads another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from feeds import masked, run_one

from albert_deploy.export.graph.file import load
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.schemes.dynamic import Int8Config, to_int8
from albert_deploy.quantize.schemes.pruning import keep_first_token
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError

pytestmark = pytest.mark.medium

LAYERS = 3
HIDDEN = f"encoder/iteration_{LAYERS - 1:02d}/"


@pytest.fixture(scope="module")
def traced(make_checkpoint: Callable[..., Path]) -> Callable[..., ir.Model]:
    """A function that exports a tiny checkpoint."""

    def make(task: str, family: str, folder: Path) -> ir.Model:
        export(str(make_checkpoint(task, family)), ExportConfig(), out=folder)
        return load(folder / VARIANTS["fp32"].file)

    return make


@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("text-classification", "albert"),
        ("text-classification", "bert"),
        ("multiple-choice", "albert"),
    ],
)
def test_no_number_changes(
    task: str, family: str, traced: Callable[..., ir.Model], tmp_path: Path
) -> None:
    model = traced(task, family, tmp_path / "out")
    feeds = masked(20, choices=2 if task == "multiple-choice" else 0)
    wanted = run_one(model, feeds, tmp_path)["logits"]
    before = len(model.graph)
    assert keep_first_token(model) == 20
    cuts = [n for n in model.graph if n.op_type == "Slice" and n.name.startswith(HIDDEN)]
    assert len(cuts) == 2
    assert len(model.graph) == before + 2
    got = run_one(model, feeds, tmp_path)["logits"]
    assert np.abs(got - wanted).max() <= 1e-6 * np.abs(wanted).max()
    assert keep_first_token(model) == 0
    to_int8(model, Int8Config())
    error = np.abs(run_one(model, feeds, tmp_path)["logits"] - wanted).max()
    assert error <= 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize("task", ["question-answering", "pretraining", "feature-extraction"])
def test_tasks_that_read_every_token_are_left_alone(
    task: str, traced: Callable[..., ir.Model], tmp_path: Path
) -> None:
    model = traced(task, "albert", tmp_path / "out")
    before = [n.name for n in model.graph]
    assert keep_first_token(model) == 0
    assert [n.name for n in model.graph] == before


def test_rows_that_cannot_be_cut_fail(traced: Callable[..., ir.Model], tmp_path: Path) -> None:
    model = traced("text-classification", "albert", tmp_path / "out")
    heads = next(n for n in model.graph if n.name == f"{HIDDEN}group_0/layer_0/attention/Transpose")
    # Someone else looks at all queries, after they were made heads.
    seen = ir.node("Identity", [heads.outputs[0]], name="seen")
    seen.outputs[0].name = "queries"
    model.graph.append(seen)
    model.graph.outputs.append(seen.outputs[0])
    with pytest.raises(ContractError, match="reads rows that no pass can cut"):
        keep_first_token(model)
