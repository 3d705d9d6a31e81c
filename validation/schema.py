"""The JSON Schema of ``reports/validation.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

_FILE = "templates/validation.schema.json"


def read_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the report that this version writes.

    It lists every key, and admits others: a program that reads a report must pass over keys
    that it does not know.
    """
    text = (resources.files("albert_deploy.validation") / _FILE).read_text(encoding="utf-8")
    return dict(json.loads(text))


def describe_schema(schema: Mapping[str, Any]) -> str:
    """Return every key as a table in GitHub's Markdown: path, type and meaning.

    ``<name>`` stands for any key, ``[]`` for any element.
    """
    lines = ["| key | type | | meaning |", "|---|---|---|---|"]
    for path, node, needed in _keys(schema, ""):
        always = "always" if needed else ""
        lines.append(f"| `{path}` | {_types(node)} | {always} | {node.get('description', '')} |")
    return "\n".join(lines)


def _keys(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    for key, child in node.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        yield here, child, key in node.get("required", ())
        yield from _keys(child, here)
    for key, suffix in (("items", "[]"), ("additionalProperties", ".<name>")):
        child = node.get(key)
        # What holds single values is told where it is named.
        if isinstance(child, Mapping) and ("properties" in child or key != "items"):
            if key != "items":
                yield f"{path}{suffix}", child, False
            yield from _keys(child, f"{path}{suffix}")


def _types(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    found = node.get("type", "any")
    return found if isinstance(found, str) else " or ".join(found)
