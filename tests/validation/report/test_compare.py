"""Two releases are compared where that says something, and every change is told once."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.report.compare import SCHEMA, compare, table
from albert_deploy.validation.report.report import as_json


def _release(folder: Path, report: dict[str, Any]) -> Path:
    (folder / "reports").mkdir(parents=True)
    text = json.dumps(as_json(report))
    (folder / "reports" / "validation.json").write_text(text, encoding="utf-8")
    return folder


def _changes(comparison: dict[str, Any], name: str) -> dict[str, Any]:
    return {change["quantity"]: change for change in comparison["variants"][name]["changes"]}


def test_a_release_is_equal_to_itself(tmp_path: Path, full_report: dict[str, Any]) -> None:
    first = _release(tmp_path / "a", full_report)
    second = _release(tmp_path / "b", full_report)
    found = compare(first, second)
    assert found["schema"] == SCHEMA
    assert found["better"] == found["worse"] == found["data_differs"] == []
    assert found["same_source"] is True
    assert all(variant["same_file"] is True for variant in found["variants"].values())
    assert table(found).startswith("# text-classification: 0 better, 0 worse\n")
    json.dumps(found, allow_nan=False)


def test_what_changed_is_better_or_worse(tmp_path: Path, full_report: dict[str, Any]) -> None:
    other = copy.deepcopy(full_report)
    int8 = other["variants"]["int8"]
    int8["sha256"] = "0" * 64
    int8["verdict"] = "pass"
    int8["metrics"]["accuracy"] |= {"variant": 86.0, "variant_interval": [84.5, 87.5]}
    int8["metrics"]["f1"]["variant"] -= 0.5
    int8["bytes"] += 1000
    int8["latency"]["median_ms"] *= 0.5
    other["variants"]["int8-qdq"]["latency"]["median_ms"] *= 1.02
    int8["parity"]["logits"]["sqnr_db"] = 20.0
    found = compare(_release(tmp_path / "a", full_report), _release(tmp_path / "b", other))
    changes = _changes(found, "int8")
    better = {quantity: change["better"] for quantity, change in changes.items()}
    assert better == {
        "accuracy": True,
        "f1": False,
        "agreement": None,
        "sqnr_db": False,
        "max_error": None,
        "bytes": False,
        "latency_ms": True,
    }
    assert changes["accuracy"]["clear"] is True
    assert changes["f1"]["clear"] is False
    assert changes["accuracy"]["change"] == pytest.approx(86.0 - 80.05)
    # Two measurements of one file differ that much.
    assert _changes(found, "int8-qdq")["latency_ms"]["better"] is None
    assert found["variants"]["int8"]["same_file"] is False
    assert "int8: verdict fail became pass" in found["better"]
    assert any("f1" in text and "chance" in text for text in found["worse"])
    text = table(found)
    assert "| int8      | file       |" in text
    assert "differs" in text
    assert "identical" in text


def test_less_perplexity_is_better(tmp_path: Path, full_report: dict[str, Any]) -> None:
    metrics = full_report["variants"]["int8"]["metrics"]
    metrics["pseudo_perplexity"] = metrics.pop("f1")
    other = copy.deepcopy(full_report)
    other["variants"]["int8"]["metrics"]["pseudo_perplexity"]["variant"] -= 1
    found = compare(_release(tmp_path / "a", full_report), _release(tmp_path / "b", other))
    assert _changes(found, "int8")["pseudo_perplexity"]["better"] is True


def test_a_variant_of_one_release_only(tmp_path: Path, full_report: dict[str, Any]) -> None:
    other = copy.deepcopy(full_report)
    del other["variants"]["fp16"]
    other["variants"]["bf16"] = copy.deepcopy(full_report["variants"]["fp16"])
    found = compare(_release(tmp_path / "a", full_report), _release(tmp_path / "b", other))
    assert found["variants"]["fp16"]["in"] == "first"
    assert found["variants"]["bf16"]["in"] == "second"
    assert found["worse"] == ["fp16: only the first release has it"]
    assert "only in second" in table(found)


def test_values_that_are_no_longer_finite_are_worse(
    tmp_path: Path, full_report: dict[str, Any]
) -> None:
    other = copy.deepcopy(full_report)
    output = other["variants"]["fp16"]["grid"]["logits"]
    output |= {"finite": False, "sqnr_db": float("-inf"), "relative": float("nan")}
    found = compare(_release(tmp_path / "a", full_report), _release(tmp_path / "b", other))
    assert found["worse"] == ["fp16: outputs have NaN or infinite values now"]


def test_the_least_report_can_be_compared(
    tmp_path: Path, full_report: dict[str, Any], least_report: dict[str, Any]
) -> None:
    full_report["dataset"] = least_report["dataset"]
    found = compare(_release(tmp_path / "a", least_report), _release(tmp_path / "b", full_report))
    assert found["variants"]["int8"]["in"] == "both"
    assert "accuracy" in table(found)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [("name", "cola", "cola"), ("rows", 871, "871"), ("revision", "other", "revision")],
)
def test_different_data_is_refused(
    tmp_path: Path, full_report: dict[str, Any], key: str, value: Any, word: str
) -> None:
    other = copy.deepcopy(full_report)
    other["dataset"][key] = value
    first, second = _release(tmp_path / "a", full_report), _release(tmp_path / "b", other)
    with pytest.raises(InputError, match=word):
        compare(first, second)
    found = compare(first, second, allow_different_data=True)
    assert len(found["data_differs"]) == 1
    assert "say little about each other" in table(found)


def test_different_tasks_are_refused(tmp_path: Path, full_report: dict[str, Any]) -> None:
    first = _release(tmp_path / "a", full_report)
    second = _release(tmp_path / "b", full_report | {"task": "question-answering"})
    with pytest.raises(InputError, match="task: 'text-classification' and 'question-answering'"):
        compare(first, second)


def test_what_is_no_report_is_bad_input(tmp_path: Path, full_report: dict[str, Any]) -> None:
    first = _release(tmp_path / "a", full_report)
    with pytest.raises(InputError, match=r"has no reports.validation.json.*albert-deploy validate"):
        compare(first, tmp_path / "none")
    place = first / "reports" / "validation.json"
    older = json.dumps(as_json(full_report | {"schema": "albert-deploy/validation/1"}))
    short = json.dumps({"schema": full_report["schema"], "task": 1})
    for text, word in (
        ("{", "cannot read"),
        ("[]", "its schema is None"),
        ("{}", "its schema is None"),
        (older, "its schema is 'albert-deploy/validation/1', wanted 'albert-deploy/validation/2'"),
        (short, "lacks task, verdict"),
    ):
        place.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=word):
            compare(first, first)
