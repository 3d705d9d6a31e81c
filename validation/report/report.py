"""The reports of a validation: JSON and JUnit for machines, Markdown, HTML, pictures for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import REPORTS, write_json, write_text
from albert_deploy.validation.report.html import render_html
from albert_deploy.validation.report.junit import junit
from albert_deploy.validation.report.markdown import summary
from albert_deploy.validation.report.pictures import PICTURES, draw_pictures

_FILE = "templates/validation.schema.json"


def read_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the report that this version writes.

    It lists every key, and admits others: a program that reads a report must pass over keys
    that it does not know.
    """
    text = (resources.files("albert_deploy.validation.report") / _FILE).read_text(encoding="utf-8")
    return dict(json.loads(text))


_JSON, _SUMMARY, _HTML, _JUNIT = "validation.json", "summary.md", "report.html", "junit.xml"
# What a validation may write, as paths in the deployment directory.
FILES = tuple(f"{REPORTS}/{name}" for name in (_JSON, _SUMMARY, _HTML, _JUNIT))
FILES += tuple(f"{REPORTS}/{name}.svg" for name in PICTURES)
# Where GitHub wants the summary of a job's step, and the most it takes of one step.
_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_STEP_BYTES = 1024 * 1024


def write_reports(directory: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write every form of a report; remove the pictures that an earlier one left.

    Args:
        directory: Deployment directory.
        report: What was found; what JSON cannot hold, such as NaN, is written as null.

    Returns:
        The paths written, all below ``directory``.

    Raises:
        InputError: A file cannot be written.
        MachineError: The disk is full.
    """
    folder = directory / REPORTS
    plain: dict[str, Any] = as_json(report)
    write_json(folder / _JSON, plain)
    pictures = draw_pictures(plain)
    # What the search for products to keep real has left, its table and picture.
    searches = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("search*.md"))]
    texts = {
        _SUMMARY: summary(plain, pictures, more=searches),
        _HTML: render_html(plain, pictures),
        _JUNIT: junit(plain),
    } | {f"{name}.svg": picture.svg for name, picture in pictures.items()}
    for name, text in texts.items():
        write_text(folder / name, text)
    for name in PICTURES.keys() - pictures.keys():
        (folder / f"{name}.svg").unlink(missing_ok=True)
    return [folder / name for name in (_JSON, *texts)]


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
        text = summary(as_json(report), limit=min(_STEP_BYTES - used - 2, _STEP_BYTES))
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
