"""Every limit of the gate can fail, and the verdict becomes the right error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from albert_deploy.runtime.errors import AccuracyError, InputError, ParityError
from albert_deploy.validation.gate import (
    DEFAULT_GATE,
    Limits,
    judge,
    raise_for_verdict,
    read_gate,
)
from albert_deploy.validation.parity import Difference


def _difference(noise: float) -> Difference:
    difference = Difference("argmax")
    source = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)
    difference.add(source, source + np.float32(noise))
    return difference


def _judge(limits: Limits, noise: float = 0.0, drop: float = 0.0, changed: int = 0) -> list[str]:
    differences = {"rows": {"logits": _difference(0)}, "grid": {"logits": _difference(noise)}}
    metrics = {"accuracy": {"source": 80.0, "variant": 80.0 - drop}}
    found = judge(limits, differences=differences, metrics=metrics, changed=changed)
    return [breach.kind for breach in found]


@pytest.mark.parametrize(
    ("limits", "good", "bad", "kind"),
    [
        (Limits(max_relative_error=1e-4), {"noise": 5e-5}, {"noise": 2e-4}, "parity"),
        (Limits(min_sqnr_db=40.0), {"noise": 1e-3}, {"noise": 0.1}, "parity"),
        (Limits(max_changed_predictions=1), {"changed": 1}, {"changed": 2}, "accuracy"),
        (Limits(max_drop=0.1), {"drop": 0.1}, {"drop": 0.11}, "accuracy"),
        (Limits(max_drop=0.1), {"drop": -5.0}, {"drop": 0.2}, "accuracy"),
        (Limits(min_score_share=0.99), {"drop": 0.8}, {"drop": 0.81}, "accuracy"),
        (Limits(), {"noise": 0.1}, {"noise": float("nan")}, "parity"),
    ],
)
def test_each_limit(
    limits: Limits, good: dict[str, float], bad: dict[str, float], kind: str
) -> None:
    assert _judge(limits, **good) == []  # type: ignore[arg-type]
    assert _judge(limits, **bad) == [kind]  # type: ignore[arg-type]


def _report(*kinds: str) -> dict[str, object]:
    breaches = [{"kind": kind, "message": f"{kind} is off"} for kind in kinds]
    return {"variants": {"fp32": {"breaches": []}, "int8": {"breaches": breaches}}}


def test_a_verdict_becomes_its_error() -> None:
    raise_for_verdict(_report())
    with pytest.raises(ParityError, match="int8: parity is off"):
        raise_for_verdict(_report("accuracy", "parity"))
    with pytest.raises(AccuracyError, match="int8: accuracy is off"):
        raise_for_verdict(_report("accuracy"))


def test_a_gate_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("[int8]\nmin_score_share = 0.5\nmax_drop = 2\n")
    gate = read_gate(path)
    assert gate["int8"] == Limits(min_sqnr_db=10.0, min_score_share=0.5, max_drop=2)
    assert gate["fp32"] == DEFAULT_GATE["fp32"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[int4]\nmax_drop = 1\n", "no variant"),
        ("[int8]\nmax_dorp = 1\n", "unknown key 'max_dorp'"),
        ("[int8]\nmax_drop = 'much'\n", "wanted a number"),
        ("[int8]\nmax_drop = true\n", "wanted a number"),
        ("int8 = 3\n", "no variant"),
        ("[int8\n", "cannot read"),
    ],
)
def test_a_gate_file_with_a_mistake_is_refused(text: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=hint):
        read_gate(path)
