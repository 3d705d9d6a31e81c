"""The reports of a validation: JSON and JUnit for machines, Markdown, HTML, pictures for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import REPORTS, write_json, write_text
from albert_deploy.validation.report.html import render_html
from albert_deploy.validation.report.junit import junit
from albert_deploy.validation.report.markdown import summary, table, trace_table
from albert_deploy.validation.report.pictures import PICTURES, write_pictures

if TYPE_CHECKING:
    from albert_deploy.validation.evaluate.evidence import Evidence

_FILE = "templates/validation.schema.json"


def read_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the report that this version writes.

    It lists every key, and admits others: a program that reads a report must pass over keys
    that it does not know.
    """
    text = (resources.files("albert_deploy.validation.report") / _FILE).read_text(encoding="utf-8")
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


__all__ = [
    "FILES",
    "SCHEMA",
    "summary",
    "table",
    "trace_table",
    "write_reports",
    "write_texts",
]

SCHEMA = "albert-deploy/validation/2"
_JSON, _SUMMARY, _HTML, _JUNIT = "validation.json", "summary.md", "report.html", "junit.xml"
# What a validation may write, as paths in the deployment directory.
FILES = tuple(f"{REPORTS}/{name}" for name in (_JSON, _SUMMARY, _HTML, _JUNIT, *PICTURES))
# Where GitHub wants the summary of a job's step, and the most it takes of one step.
_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_STEP_BYTES = 1024 * 1024


def write_reports(
    directory: Path, report: Mapping[str, Any], evidence: Evidence | None
) -> list[Path]:
    """Write every report of a validation, and a CI job's summary where there is one.

    The job's summary is the file that ``GITHUB_STEP_SUMMARY`` names; it is appended to, and is
    none of the deployment directory's files.

    Args:
        directory: Deployment directory.
        report: What was found; what JSON cannot hold, such as NaN, is written as null.
        evidence: What was seen; None where nothing could be run.

    Returns:
        The paths written, all below ``directory``.

    Raises:
        InputError: A file cannot be written.
        MachineError: The disk is full.
    """
    plain: dict[str, Any] = as_json(report)
    written = write_texts(directory, plain)
    append_step_summary(plain)
    errors = evidence.errors if evidence is not None else {}
    return [*written, *write_pictures(directory / REPORTS, plain, errors)]


def write_texts(directory: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write the reports less the pictures, which stay as they are; return the paths written.

    For a report that another step adds to, such as a check of speed.

    Raises:
        InputError: A file cannot be written.
        MachineError: The disk is full.
    """
    folder = directory / REPORTS
    plain: dict[str, Any] = as_json(report)
    write_json(folder / _JSON, plain)
    # What the search for products to keep real has left, its table and picture.
    searches = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("search*.md"))]
    write_text(folder / _SUMMARY, summary(plain, more=searches))
    write_text(folder / _HTML, render_html(plain))
    write_text(folder / _JUNIT, junit(plain))
    return [folder / name for name in (_JSON, _SUMMARY, _HTML, _JUNIT)]


def append_step_summary(report: Mapping[str, Any]) -> Path | None:
    """Append the summary to the file that ``GITHUB_STEP_SUMMARY`` names; return it, if any.

    Raises:
        InputError: The file cannot be written.
    """
    name = os.environ.get(_STEP_SUMMARY)
    if not name:
        return None
    path = Path(name)
    try:
        used = path.stat().st_size if path.exists() else 0
        # GitHub drops the whole summary of a step when it is over the limit.
        text = summary(report, pictures=False, limit=min(_STEP_BYTES - used - 2, _STEP_BYTES))
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n" if text else "")
    except OSError as error:
        raise InputError(
            f"cannot write {path}, which {_STEP_SUMMARY} names: {error.strerror or error}; "
            "unset the variable or name a file that can be written"
        ) from error
    return path


def as_json(value: Any) -> Any:
    """Return a report of plain JSON values.

    NaN and infinity become null, tuples lists, paths and keys texts, NumPy scalars numbers, and
    lone surrogates, which UTF-8 cannot hold, question marks.
    """
    if isinstance(value, Path):
        value = str(value)
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {as_json(str(key)): as_json(item) for key, item in value.items()}
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Sequence):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
