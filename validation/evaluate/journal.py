"""The journal of a validation under way, so that one that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Self

from albert_deploy.runtime.manifest import os_failure, package_version

FOLDER = ".progress"
# Raised whenever a line of the journal, or what a row becomes, changes its form.
SCHEMA = 2
# What computes the outputs; another version may round in another way.
_PACKAGES = ("numpy", "onnxruntime", "openvino", "tokenizers", "torch", "transformers")


def journal_key(
    models: Mapping[str, str], rows: Iterable[object], settings: Mapping[str, Any]
) -> str:
    """Return the name of a journal: the SHA-256 of all that its lines depend on.

    Args:
        models: SHA-256 of the file of each model, by name.
        rows: The rows of the data, in their order.
        settings: Whatever else changes the outputs, in JSON's types.
    """
    digest = hashlib.sha256()
    facts = {
        "schema": SCHEMA,
        "models": dict(models),
        "settings": settings,
        "packages": {name: package_version(name) for name in _PACKAGES},
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for row in rows:
        digest.update(repr(row).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


class Journal:
    """Lines of JSON, one for each group of rows that is done, appended as it is done.

    A line that a kill tore, and all after it, are dropped when the journal is opened again.

    Args:
        path: The file; None keeps nothing.

    Raises:
        MachineError: The disk is full.
        InputError: The folder cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.done: list[dict[str, Any]] = []
        self._file: IO[bytes] | None = None
        self._empty = True
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._file.seek(0)
            whole = 0
            for line in self._file:
                entry = _entry(line, len(self.done))
                if entry is None:
                    break
                self.done.append(entry)
                whole += len(line)
            self._file.truncate(whole)
            self._empty = not self.done
            self._file.seek(0, 2)
        except OSError as error:
            raise os_failure(error, path) from error

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append an entry, whose ``group`` counts the entries from 0.

        It is with the system when this returns, so that a kill of the process does not lose it.

        Raises:
            MachineError: The disk is full.
            InputError: The file cannot be written.
        """
        if self._file is None or self.path is None:
            return
        try:
            self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            self._empty = False
        except OSError as error:
            raise os_failure(error, self.path) from error

    def close(self) -> None:
        """Close the file and leave it for the next run, unless nothing is in it."""
        if self._file is None or self.path is None:
            return
        self._file.close()
        self._file = None
        if self._empty:
            self.path.unlink(missing_ok=True)
            # Where other journals are there, or other reports, the folder stays.
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entry(line: bytes, wanted: int) -> dict[str, Any] | None:
    """Return the entry of a line; None where it is torn, or not the next one."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and entry.get("group") == wanted else None
