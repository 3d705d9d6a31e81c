"""A report as JUnit XML, which continuous integration systems show as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from albert_deploy.validation.gate.verdicts import ERROR, FAIL, PASS, UNDECIDED, all_checks
from albert_deploy.validation.report.wording import compact, printable


def junit(report: Mapping[str, Any]) -> str:
    """Return one test suite per variant with one test case per check.

    A check that failed is a failure of its kind, such as ``parity``; one that the data cannot
    decide is a failure of type ``undecided``; a variant that could not be run is an error.

    Args:
        report: As in ``validation.json``.
    """
    suites: dict[str, list[dict[str, Any]]] = {}
    for check in all_checks(report):
        suites.setdefault(check["variant"], []).append(check)
    name = f"albert-deploy validate {report.get('task', '')}".strip()
    root = ElementTree.Element("testsuites", _counts(all_checks(report), name))
    for variant, checks in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", _counts(checks, variant))
        if report.get("time"):
            suite.set("timestamp", printable(report["time"]))
        record = report.get("variants", {}).get(variant, {})
        properties = ElementTree.SubElement(suite, "properties")
        for key in ("file", "sha256", "bytes", "engine"):
            if record.get(key) is not None:
                ElementTree.SubElement(
                    properties, "property", name=key, value=printable(record[key])
                )
        for check in checks:
            suite.append(_case(variant, check))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(variant: str, check: Mapping[str, Any]) -> ElementTree.Element:
    kind, verdict = str(check.get("kind", "check")), check["verdict"]
    # Two checks of one name would hide each other; the kind tells parity of an output from others.
    case = ElementTree.Element(
        "testcase",
        classname=printable(variant),
        name=printable(f"{kind}: {check.get('name', '')}"),
        time="0",
    )
    message = printable(check.get("message") or "")
    if verdict == PASS:
        if message:
            ElementTree.SubElement(case, "system-out").text = message
        return case
    tag, of_type = {
        FAIL: ("failure", kind),
        UNDECIDED: ("failure", UNDECIDED),
        ERROR: ("error", kind),
    }[verdict]
    result = ElementTree.SubElement(case, tag, message=message, type=printable(of_type))
    lines = [message]
    lines += [
        f"{key}: {compact(check[key])}" for key in ("value", "limit") if check.get(key) is not None
    ]
    result.text = "\n".join(lines)
    return case


def _counts(checks: list[dict[str, Any]], name: str) -> dict[str, str]:
    verdicts = [check["verdict"] for check in checks]
    return {
        "name": printable(name),
        "tests": str(len(verdicts)),
        "failures": str(sum(verdict in (FAIL, UNDECIDED) for verdict in verdicts)),
        "errors": str(verdicts.count(ERROR)),
        "skipped": "0",
        "time": "0",
    }
