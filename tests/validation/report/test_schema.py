"""Every key of a report is in its schema, and in the document."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.validation.gate.baseline import SCHEMA
from albert_deploy.validation.report.report import as_json, read_schema

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "validation-report.md"


@pytest.fixture(scope="module")
def jsonschema() -> Any:
    """It takes seconds to load: not while tests are collected."""
    return importlib.import_module("jsonschema")


def test_the_schema_is_one(jsonschema: Any) -> None:
    schema = read_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == SCHEMA


def test_a_full_report_fits(
    full_report: dict[str, Any], assert_documented: Callable[[dict[str, Any]], None]
) -> None:
    assert_documented(as_json(full_report))


def _absent(node: dict[str, Any], values: list[Any], path: str = "") -> Iterator[str]:
    """Yield the keys of a schema that none of the values has."""
    objects = [value for value in values if isinstance(value, dict)]
    lists = [value for value in values if isinstance(value, list)]
    for key, child in node.get("properties", {}).items():
        found = [value[key] for value in objects if key in value]
        if not found:
            yield f"{path}.{key}"
        yield from _absent(child, found, f"{path}.{key}")
    if isinstance(node.get("additionalProperties"), dict):
        found = [item for value in objects for item in value.values()]
        yield from _absent(node["additionalProperties"], found, f"{path}.<name>")
    if "items" in node:
        yield from _absent(node["items"], [item for value in lists for item in value], f"{path}[]")


def test_a_full_report_has_every_key(full_report: dict[str, Any]) -> None:
    # The one left out is there only where a release was asked to check it.
    assert list(_absent(read_schema(), [as_json(full_report)])) == [".performance"]


def test_an_undocumented_key_is_noticed(
    full_report: dict[str, Any],
    assert_documented: Callable[[dict[str, Any]], None],
    jsonschema: Any,
) -> None:
    full_report["variants"]["int8"]["metrics"]["f1"]["novel"] = 1
    with pytest.raises(AssertionError, match="novel"):
        assert_documented(as_json(full_report))
    # Programs pass over keys that they do not know.
    jsonschema.Draft202012Validator(read_schema()).validate(as_json(full_report))


@pytest.mark.parametrize("key", ["verdict", "task", "source", "dataset", "variants", "schema"])
def test_a_report_without_a_promised_key_does_not_fit(
    full_report: dict[str, Any], key: str, jsonschema: Any
) -> None:
    del full_report[key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        jsonschema.validate(as_json(full_report), read_schema())


def describe_schema(schema: dict[str, Any]) -> str:
    """Return every key as a table in GitHub's Markdown: path, type and meaning.

    ``<name>`` stands for any key, ``[]`` for any element.
    """
    lines = ["| key | type | | meaning |", "|---|---|---|---|"]
    for path, node, needed in _keys(schema, ""):
        always = "always" if needed else ""
        lines.append(f"| `{path}` | {_types(node)} | {always} | {node.get('description', '')} |")
    return "\n".join(lines)


def _keys(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for key, child in node.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        yield here, child, key in node.get("required", ())
        yield from _keys(child, here)
    for key, suffix in (("items", "[]"), ("additionalProperties", ".<name>")):
        child = node.get(key)
        # What holds single values is told where it is named.
        if isinstance(child, dict) and ("properties" in child or key != "items"):
            if key != "items":
                yield f"{path}{suffix}", child, False
            yield from _keys(child, f"{path}{suffix}")


def _types(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    found = node.get("type", "any")
    return found if isinstance(found, str) else " or ".join(found)


def test_the_document_lists_every_key() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("which compares -->\n")[1]
    # After a change: put what describe_schema returns there.
    assert table.strip() == describe_schema(read_schema())


def test_every_key_is_described() -> None:
    for line in describe_schema(read_schema()).splitlines():
        assert line.split("|")[4].strip(), line
