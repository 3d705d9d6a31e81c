"""The self-test: what it detects, what it lets pass, and the two shipped samples in full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.errors import AccuracyError, InputError
from albert_deploy.runtime.manifest import read_manifest, sha256_of
from albert_deploy.validation.evaluate.evaluate import EvaluateConfig
from albert_deploy.validation.gate.detection import (
    CONTROL,
    CachedSession,
    Detection,
    SelfTest,
    raise_for_self_test,
    self_test_table,
)
from albert_deploy.validation.gate.faults import FAULTS
from albert_deploy.validation.gate.self_test import SelfTestConfig, self_test

NAMES = [fault.name for fault in FAULTS]


@pytest.fixture(scope="module")
def made(make_export: Callable[..., Path]) -> Path:
    out = make_export(hidden_size=64)
    quantize(out, QuantizeConfig(variants=("fp16", "int8")))
    return out


@pytest.mark.medium
def test_every_fault_is_detected_and_the_directory_stays_as_it_was(
    made: Path, progress: pytest.LogCaptureFixture
) -> None:
    before = {p: sha256_of(p) for p in made.rglob("*") if p.is_file()}
    config = SelfTestConfig(evaluate=EvaluateConfig(unlabelled_rows=12, grid_texts=8))
    result = self_test(made, config)
    assert {p: sha256_of(p) for p in made.rglob("*") if p.is_file()} == before
    assert result.undetected == ()
    assert result.false_alarms == ()
    assert result.to_json()["verdict"] == "pass"
    raise_for_self_test(result)
    assert [(r.variant, r.fault) for r in result.rows] == [
        (variant, fault) for variant in ("fp32", "fp16", "int8") for fault in (CONTROL, *NAMES)
    ]
    assert progress.messages == [
        f"{v}: {len(NAMES)} of {len(NAMES)} faults detected" for v in ("fp32", "fp16", "int8")
    ]
    rows = {(r.variant, r.fault): r for r in result.rows}
    scaled = rows["int8", "weight scale off by 2%"]
    assert "contract: weights gain" in scaled.caught_by
    assert scaled.planted is not None
    assert "_scale" in scaled.planted
    table = self_test_table(result)
    assert len(table.splitlines()) == len(result.rows) + 2
    assert "token types ignored" in table


@pytest.mark.medium
def test_limits_that_let_a_fault_pass_are_told(made: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text('[fp32]\nmax_error_ratio = "off"\nmin_agreement = "off"\n')
    config = SelfTestConfig(
        variants=("fp32",), gate=gate, evaluate=EvaluateConfig(unlabelled_rows=4, grid_texts=4)
    )
    rows = {row.fault: row for row in self_test(made, config).rows}
    # The metamorphic checks stay, whatever the policy says.
    assert rows["half of the mask lost"].verdict == "detected"
    assert all(name.startswith("metamorphic") for name in rows["swapped label"].caught_by)


def _row(fault: str, *caught: str, planted: str | None = "somewhere") -> Detection:
    return Detection(fault=fault, variant="int8", planted=planted, caught_by=caught, detail="why")


def test_an_undetected_fault_and_a_false_alarm_fail() -> None:
    passed = SelfTest(rows=(_row(CONTROL), _row("a", "parity: x"), _row("b", planted=None)))
    raise_for_self_test(passed)
    assert [row.verdict for row in passed.rows] == ["pass", "detected", "not applicable"]
    missed = SelfTest(rows=(_row(CONTROL), _row("a")))
    assert missed.to_json()["verdict"] == "fail"
    with pytest.raises(AccuracyError, match=r"let pass: a in int8 \(somewhere\)"):
        raise_for_self_test(missed)
    alarm = SelfTest(rows=(_row(CONTROL, "accuracy: f1"), _row("a", "parity: x")))
    with pytest.raises(AccuracyError, match="without any fault the gate fails int8: why"):
        raise_for_self_test(alarm)


def test_rows_are_at_least_one() -> None:
    with pytest.raises(InputError, match="0 rows"):
        SelfTestConfig(rows=0)


def test_a_remembering_session_runs_each_input_once() -> None:
    class Counted:
        engine, outputs, runs = "ort", ("logits",), 0

        def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.runs += 1
            return {"logits": feeds["input_ids"].astype(np.float32)}

        def close(self) -> None:
            self.runs = -1

    counted = Counted()
    feeds = [{"input_ids": np.full((1, 3), i, np.int64)} for i in range(3)]
    # Room for two of the three.
    with CachedSession(counted, most_bytes=24) as session:  # type: ignore[arg-type]
        for _ in range(2):
            for i, each in enumerate(feeds):
                assert session.run(each)["logits"].tolist() == [[i] * 3]
        assert counted.runs == 4
    assert counted.runs == -1


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_all_faults_are_detected_on_the_shipped_samples(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    export(str(sample.checkpoint), ExportConfig(), out=tmp_path / "out")
    quantize(tmp_path / "out", QuantizeConfig(variants=("fp16", "int8")))
    config = SelfTestConfig(dataset=(sample.dataset, sample.data), rows=100)
    result = self_test(tmp_path / "out", config)
    assert result.undetected == ()
    assert len(result.rows) == 3 * (1 + len(FAULTS))
    # A control may lose too much of its score; it must not fail anything else.
    for row in result.false_alarms:
        assert all(check.startswith("accuracy") for check in row.caught_by), row
    assert read_manifest(tmp_path / "out")["task"]
