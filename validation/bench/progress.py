"""The report of a bench under way: what a killed run leaves, and where the next goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import write_json

# What has to be the same for figures of two runs to stand in one table.
_SAME = ("source", "columns", "threads", "settings")
_SAME_MACHINE = ("cpu", "cores", "versions")


class Progress:
    """A report that is written whenever something new is known.

    Attributes:
        report: What the file holds, see ``bench.bench``.
        resumed: It was begun by an earlier run.
    """

    def __init__(self, path: Path | None, report: dict[str, Any]) -> None:
        self.path = path
        self.report = report
        begun = None if path is None or not path.exists() else _read(path)
        self.resumed = begun is not None and not begun["complete"] and _alike(begun, report)
        if begun is not None and self.resumed:
            report |= {key: begun[key] for key in ("runs", "crashed")}
            if (what := begun["under_way"]) is not None:
                report["crashed"][what["contender"]] = (
                    f"an earlier run was killed or crashed during this: {what['doing']}"
                )

    def save(self) -> None:
        """Write the file, atomically."""
        if self.path is not None:
            write_json(self.path, self.report)

    @contextlib.contextmanager
    def under_way(self, contender: str, doing: str) -> Iterator[None]:
        """Keep in the file what is being done while the block runs.

        An engine that ends the whole process (a segmentation fault, the system's memory killer)
        cannot be caught, but the next run finds which it was and leaves it out.
        """
        self.report["under_way"] = {"contender": contender, "doing": doing}
        self.save()
        try:
            yield
        finally:
            self.report["under_way"] = None
            self.save()


def _alike(begun: dict[str, Any], report: dict[str, Any]) -> bool:
    pairs = [(begun[key], report[key]) for key in _SAME]
    pairs += [(begun["machine"].get(k), report["machine"].get(k)) for k in _SAME_MACHINE]
    pairs += [[one["machine"].get("gpu", {}).get("name") for one in (begun, report)]]  # type: ignore[list-item]
    return all(old == json.loads(json.dumps(new)) for old, new in pairs)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; remove it or choose another") from error
    if not isinstance(found, dict) or not {"runs", "complete", "columns"} <= set(found):
        raise InputError(f"{path} is no report of a bench; remove it or choose another `out`")
    return found
