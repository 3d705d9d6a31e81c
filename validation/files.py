"""Files of data sets as text, and how a layout says that a row cannot be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from albert_deploy.runtime.errors import InputError

_Kind = TypeVar("_Kind", str, list[Any])


@dataclass(frozen=True)
class Bad:
    """A malformed row: an error, unless such rows are to be skipped."""

    reason: str


@dataclass(frozen=True)
class Dropped:
    """A row that official scores leave out: it is skipped and counted."""

    reason: str


def read_text(file: Path, remedy: str = "give another file") -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Args:
        file: The file.
        remedy: What to do where it cannot be read.

    Raises:
        InputError: It cannot be read, or is not UTF-8; the message names the line.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read {file}: {error}; {remedy}") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def json_field(record: object, key: str, kind: type[_Kind], where: str, layout: str) -> _Kind:
    """Return a field of a JSON object that has to be a list, or a string with text in it.

    Args:
        record: The object.
        key: Name of the field.
        kind: ``str`` or ``list``.
        where: How an error names the object.
        layout: How an error names the layout that is wanted.

    Raises:
        InputError: The field is missing or something else.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, kind) and (not isinstance(value, str) or value.strip()):
        return value
    shown = "missing" if value is None else repr(value)[:80]
    wanted = "text" if kind is str else "a list"
    raise InputError(f"{where}: {key!r} is {shown}, wanted {wanted}; use a file in {layout}")


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder: of its files' names and digests, sorted.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            name = file.relative_to(path).as_posix()
            total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
