"""The source in float64 is float64 throughout, and what it says of files becomes a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.export.graph.file import load, save
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime.engines.table import open_file
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.data.datasets import read_data
from albert_deploy.validation.data.rows import ClassificationRow, Row, RowsConfig, encode_rows
from albert_deploy.validation.evaluate.evaluate import decisions, run_grid
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.exact import ROWS, Float64, exact_rows, open_exact
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.gate.faults import scale_weight
from albert_deploy.validation.gate.gate import judge
from albert_deploy.validation.gate.policy import Policy, Rules
from albert_deploy.validation.parity.difference import BATCHES, Case, edge_grid

RULES = Rules(policy=Policy(), variant="fp32")


@pytest.fixture(scope="module")
def made(make_export: Callable[..., Path]) -> Path:
    return make_export()


@pytest.fixture(scope="module")
def exact(made: Path) -> Iterator[Any]:
    with open_exact(read_manifest(made)) as session:
        yield session


def _feeds(number: int, length: int = 6) -> Feeds:
    ids = np.random.default_rng(number).integers(5, 20, (1, length))
    return dict(
        zip(
            ("input_ids", "attention_mask", "token_type_ids"),
            (ids, np.ones_like(ids), np.zeros_like(ids)),
            strict=True,
        )
    )


def test_no_value_on_the_way_is_float32(exact: Any) -> None:
    import torch

    seen = set()
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output: seen.update(
                value.dtype
                for value in (output if isinstance(output, tuple) else (output,))
                if isinstance(value, torch.Tensor)
            )
        )
        for module in exact.model.modules()
    ]
    outputs = exact.run(_feeds(0))
    for hook in hooks:
        hook.remove()
    assert seen == {torch.float64}
    assert all(value.dtype == np.float64 for value in outputs.values())


def test_it_is_the_same_network(made: Path, exact: Any) -> None:
    with open_reference(read_manifest(made)) as source:
        for number in range(4):
            ours, theirs = exact.run(_feeds(number)), source.run(_feeds(number))
            for name, value in ours.items():
                assert 0 < np.abs(value - theirs[name]).max() < 1e-5 * np.abs(value).max()


def test_a_closed_one_says_so(made: Path) -> None:
    session = open_exact(read_manifest(made))
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(_feeds(0))


def _verdicts(directory: Path, file: Path, exact: Session) -> dict[str, str]:
    """Return the checks against float64 on some rows and a small grid."""
    manifest = read_manifest(directory)
    contract = manifest["contract"] | {"max_length": 17}
    decide = decisions(contract, manifest["task"])
    rows = [_feeds(number) for number in range(8)]
    texts = [feeds["input_ids"].reshape(-1) for feeds in rows]
    float64 = Float64(exact, decide, ["fp32"])
    with open_reference(manifest) as source, open_file(file, "fp32", "ort") as session:
        sessions = {SOURCE: source, "fp32": session}
        float64.run(sessions, rows, failures={})
        cases = edge_grid(contract, manifest["source"]["config"], texts)
        grid = run_grid(sessions, cases, decide, float64=float64)
    found = judge(RULES, differences={"grid": grid["fp32"]}, roundings=float64.found["fp32"])
    assert set(float64.found["fp32"]) == {"rows", "grid"}
    return {check.name: check.verdict for check in found}


def test_the_file_passes_and_a_small_fault_in_it_does_not(
    made: Path, exact: Any, tmp_path: Path
) -> None:
    file = made / "onnx" / "model.onnx"
    name = "logits on grid, error against float64"
    assert _verdicts(made, file, exact)[name] == "pass"
    model = load(file)
    assert scale_weight(model)
    save(model, tmp_path / "fault.onnx")
    assert _verdicts(made, tmp_path / "fault.onnx", exact)[name] == "fail"


def test_what_was_not_compared_fails(made: Path) -> None:
    manifest = read_manifest(made)
    decide = decisions(manifest["contract"], manifest["task"])
    with open_reference(manifest) as source:
        cases = [Case(name="one", feeds=_feeds(0))]
        grid = run_grid({SOURCE: source, "fp32": source}, cases, decide)
    failed = [
        c.message for c in judge(RULES, differences={"grid": grid["fp32"]}) if c.limit is None
    ]
    assert failed == [
        "logits on grid has only finite values",
        "logits on grid was not compared with the source in float64",
    ]


def test_rows_are_the_first_and_those_that_changed() -> None:
    examples = [
        ClassificationRow(id=str(i), text=f"text {i}", pair=None, label=0) for i in range(100)
    ]
    first = [_feeds(i) for i in range(64)]
    source: dict[str, Any] = {example.id: 0 for example in examples}
    evidence = Evidence(examples=list(examples), feeds=first)

    def encode(rows: Any) -> list[Row]:
        return [Row(id=row.id, feeds=[_feeds(int(row.id))], windows=None) for row in rows]

    assert len(exact_rows(evidence, ["fp32"], encode)) == ROWS
    evidence.predictions = {SOURCE: source, "fp32": source | {"70": 1, "90": 1}}
    found = exact_rows(evidence, ["fp32"], encode)
    assert len(found) == ROWS + 2
    assert (found[-1]["input_ids"] == _feeds(90)["input_ids"]).all()
    # Numbers always differ; they are no choice.
    evidence.predictions = {SOURCE: {"1": 0.5}, "fp32": {"1": 0.50001}}
    assert len(exact_rows(evidence, ["fp32"], encode)) == ROWS


def test_a_variant_that_fails_is_left_out(made: Path, exact: Any) -> None:
    class Broken:
        engine, outputs = "ort", ("logits",)

        def run(self, feeds: Feeds) -> Any:
            raise MachineError("no answer")

        def close(self) -> None:
            pass

    failures: dict[str, str] = {}
    manifest = read_manifest(made)
    float64 = Float64(exact, decisions(manifest["contract"], manifest["task"]), ["fp32"])
    with open_reference(manifest) as source:
        sessions: dict[str, Any] = {SOURCE: source, "fp32": Broken()}
        float64.run(sessions, [_feeds(0), _feeds(1)], failures=failures)
    assert failures == {"fp32": "no answer"}
    assert float64.found == {"fp32": {}}


@pytest.mark.slow
def test_the_pretrained_checkpoint_is_no_false_alarm(shared: Path, tmp_path: Path) -> None:
    """Its float32 source is 2e-4 of the scale off on long rows; so may the file be."""
    out = tmp_path / "out"
    export(str(shared / "checkpoints" / "albert-phoneme"), ExportConfig(), out=out)
    manifest = read_manifest(out)
    contract, task = manifest["contract"], manifest["task"]
    decide = decisions(contract, task)
    rows = read_data("mlm", shared / "data" / "phonemes").rows[:64]
    encoded = encode_rows(rows, contract, load_tokenizer(out), RowsConfig(truncate=True))
    texts = [row.feeds[0]["input_ids"].reshape(-1) for row in encoded]
    cases = edge_grid(contract, manifest["source"]["config"], texts)
    longest = [case for case in cases if f"length {contract['max_length']}" in case.name]
    chosen = [case for case in longest if case.name.startswith("batch 2")]
    assert BATCHES[1] == 2
    assert chosen
    with (
        open_reference(manifest) as source,
        open_exact(manifest) as exact,
        open_file(out / "onnx" / "model.onnx", "fp32", "ort") as session,
    ):
        float64 = Float64(exact, decide, ["fp32"])
        grid = run_grid({SOURCE: source, "fp32": session}, chosen, decide, float64=float64)
    found = judge(RULES, differences={"grid": grid["fp32"]}, roundings=float64.found["fp32"])
    assert [check.message for check in found if check.verdict != "pass"] == []
    # The constant that was here before refuses it.
    assert grid["fp32"]["logits"].relative > 1e-4
