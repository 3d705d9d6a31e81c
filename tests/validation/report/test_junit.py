"""Every check is a test case, and no text makes the XML invalid."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import hypothesis
import hypothesis.strategies as st
import junitparser
import pytest

from albert_deploy.validation.report.junit import junit


def _cases(report: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (case.classname, case.name): case
        for suite in junitparser.JUnitXml.fromstring(junit(report).encode())
        for case in suite
    }


def test_one_case_per_check(full_report: dict[str, Any]) -> None:
    cases = _cases(full_report)
    listed = [
        (name, f"{check['kind']}: {check['name']}")
        for name, variant in (full_report["variants"] | full_report["engines"]).items()
        for check in variant["checks"]
    ]
    assert sorted(cases) == sorted([*listed, ("fp8-qdq", "run: runs")])
    assert cases["fp32", "parity: logits on rows"].is_passed
    (failure,) = cases["int8", "accuracy: accuracy"].result
    assert isinstance(failure, junitparser.Failure)
    assert failure.type == "accuracy"
    assert "limit: -1" in failure.text
    assert failure.message == "accuracy changed by -1.72 points, the margin is 1"
    (undecided,) = cases["int8-qdq", "accuracy: accuracy"].result
    assert isinstance(undecided, junitparser.Failure)
    assert undecided.type == "undecided"
    (error,) = cases["fp8-qdq", "run: runs"].result
    assert isinstance(error, junitparser.Error)
    assert "60 s" in error.message


def test_the_counts_add_up(full_report: dict[str, Any]) -> None:
    xml = junitparser.JUnitXml.fromstring(junit(full_report).encode())
    assert (xml.tests, xml.failures, xml.errors) == (14, 2, 1)
    counted = [(suite.tests, suite.failures, suite.errors) for suite in xml]
    assert [sum(column) for column in zip(*counted, strict=True)] == [14, 2, 1]


def test_a_variant_without_checks_has_its_verdict(least_report: dict[str, Any]) -> None:
    cases = _cases(least_report)
    assert cases["fp32", "gate: verdict"].is_passed
    assert isinstance(cases["int8", "gate: verdict"].result[0], junitparser.Failure)


def test_what_does_not_pay_fails(least_report: dict[str, Any]) -> None:
    case = _cases(least_report | {"performance": "int8 is slower than fp32"})[
        "release", "performance: pays"
    ]
    assert case.result[0].message == "int8 is slower than fp32"


@pytest.mark.parametrize("verdict", ["unknown", None, "passed"])
def test_an_unknown_verdict_is_an_error(full_report: dict[str, Any], verdict: Any) -> None:
    full_report["variants"]["fp32"]["checks"][0]["verdict"] = verdict
    (error,) = _cases(full_report)["fp32", "parity: logits on rows"].result
    assert isinstance(error, junitparser.Error)
    assert "unknown verdict" in error.message


@hypothesis.given(st.text())
def test_any_text_makes_valid_xml(text: str) -> None:
    check = {"kind": "parity", "name": text, "verdict": "fail", "message": text, "value": text}
    report = {"task": text, "time": text, "variants": {text: {"checks": [check], "file": text}}}
    root = ElementTree.fromstring(junit(report).encode())
    case = root.find("testsuite/testcase")
    assert case is not None
    if text.isprintable():
        assert case.get("name") == f"parity: {text}"
        assert case.get("classname") == text


def test_hostile_texts_stay_texts(full_report: dict[str, Any], hostile: tuple[str, ...]) -> None:
    checks = full_report["variants"]["fp32"]["checks"]
    for i, text in enumerate(hostile):
        checks.append({"kind": "k", "name": f"{i}", "verdict": "fail", "message": text})
    cases = _cases(full_report)
    assert cases["fp32", "k: 0"].result[0].message == "<script>alert(1)</script>"
    assert cases["fp32", "k: 1"].result[0].text == "]]> & </td></table><!-- <b>"
    assert "\\x00\\x07\\x1b[31m" in cases["fp32", "k: 3"].result[0].message


def test_a_variant_that_gave_no_answer_is_one_error(full_report: dict[str, Any]) -> None:
    message = full_report["variants"]["fp8-qdq"]["failure"]
    check = {"kind": "run", "name": "runs", "verdict": "fail", "message": message}
    full_report["variants"]["fp8-qdq"]["checks"] = [check]
    cases = [case for place, case in _cases(full_report).items() if place[0] == "fp8-qdq"]
    assert [type(case.result[0]) for case in cases] == [junitparser.Error]
    assert cases[0].result[0].message == message
