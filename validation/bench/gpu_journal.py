"""The JSON of a GPU benchmark under way: what a killed run leaves, and where the next goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import write_json

SCHEMA = 1
CRASHED = "an earlier run ended, without a word or killed, while this was under way"


class Journal:
    """A report that is written whenever something new is known.

    Attributes:
        report: What the file holds, see ``gpu_bench.gpu_bench``.
        resumed: It was begun by an earlier run.
    """

    def __init__(self, path: Path | None, report: dict[str, Any], *, resumed: bool = False) -> None:
        self.path = path
        self.report = report
        self.resumed = resumed

    def save(self) -> None:
        """Write the file, atomically."""
        if self.path is not None:
            write_json(self.path, self.report)

    @contextlib.contextmanager
    def under_way(self, **what: str) -> Iterator[None]:
        """Keep in the file what is being done while the block runs.

        An engine that ends the whole process (a segmentation fault, the system's memory killer)
        cannot be caught, but the next run finds who it was and leaves it out.
        """
        self.report["under_way"] = what
        self.save()
        try:
            yield
        except BaseException:
            # Interrupted by a person: nobody is to blame.
            self.report["under_way"] = None
            self.save()
            raise
        self.report["under_way"] = None

    def geometry(self, name: str) -> dict[str, Any]:
        """Return the part of the report about a model, made where it is not there."""
        empty: dict[str, Any] = {"model": {}, "entrants": {}, "shapes": {}, "lengths": {}}
        found: dict[str, Any] = self.report["geometries"].setdefault(name, empty)
        return found


def open_journal(
    path: Path | None,
    identity: Mapping[str, Any],
    machine: Mapping[str, Any],
    *,
    command: str = "",
    fresh: bool = False,
) -> Journal:
    """Begin a journal, or go on with the one that is there.

    Args:
        path: The JSON file; None writes none.
        identity: What has to be the same for figures to stand in one table: GPU, driver,
            versions, options.
        machine: For people.
        command: What was typed, for people.
        fresh: Begin anew, whatever is there.

    Raises:
        InputError: The file is there and is none of ours.
    """
    begun = None if fresh or path is None or not path.exists() else _read(path)
    if begun is None or begun["identity"] != json.loads(json.dumps(identity)):
        report = {
            "schema": SCHEMA,
            "command": command,
            "identity": dict(identity),
            "machine": dict(machine),
            "complete": False,
            "stopped": None,
            "under_way": None,
            "notes": [],
            "peaks": {},
            "geometries": {},
        }
        return Journal(path, report)
    journal = Journal(path, begun | {"command": command}, resumed=True)
    _blame(journal)
    return journal


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; remove it or pass `fresh=True`") from error
    if not isinstance(found, dict) or "schema" not in found or "geometries" not in found:
        raise InputError(
            f"{path} is no benchmark of a GPU; choose another `out` or pass `fresh=True`"
        )
    return found if found["schema"] == SCHEMA else None


def _blame(journal: Journal) -> None:
    """Leave out who was at work when an earlier run ended."""
    what = journal.report["under_way"]
    if what is None:
        return
    entrants = journal.geometry(what["geometry"])["entrants"]
    entrants.setdefault(what["entrant"], {})["crashed"] = f"{CRASHED}: {what['doing']}"
    journal.report["under_way"] = None
