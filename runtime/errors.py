"""Every error this project raises on purpose, and the exit code of each.

::

    AlbertDeployError
    ├── InputError        3  the checkpoint, data, directory or text given cannot be used
    ├── ContractError     4  sharing, coverage or heads: the artifact is not what was asked for
    ├── ParityError       5  outputs differ from the fp32 source by more than the limit
    ├── AccuracyError     6  the task score dropped by more than the gate allows
    ├── PerformanceError  7  a variant is not as fast or not as small as was required
    ├── UndecidedError    8  the data is too little to tell whether the gate holds
    └── MachineError      9  this machine lacks a package, a device, disk space or a network

Code 0 is a pass, 2 a usage error, 10 an internal error (a bug here) and 130 an interrupt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

_Row = TypeVar("_Row")

EXIT_PASS = 0
EXIT_USAGE = 2
EXIT_INTERNAL = 10
EXIT_INTERRUPTED = 130


class AlbertDeployError(Exception):
    """Root of the tree; its message says what was got, what was wanted and what to do."""

    exit_code = EXIT_INTERNAL


class InputError(AlbertDeployError):
    """The checkpoint, data, directory or text that was given cannot be used."""

    exit_code = 3


class ContractError(AlbertDeployError):
    """An artifact breaks an invariant: sharing, coverage, heads or recorded bytes."""

    exit_code = 4


class ParityError(AlbertDeployError):
    """Outputs differ from those of the fp32 source by more than the limit."""

    exit_code = 5


class AccuracyError(AlbertDeployError):
    """The task score dropped by more than the gate allows."""

    exit_code = 6


class PerformanceError(AlbertDeployError):
    """A variant is not as fast or not as small as was required of it."""

    exit_code = 7


class UndecidedError(AlbertDeployError):
    """The data is too little to tell whether a variant holds its gate."""

    exit_code = 8


class MachineError(AlbertDeployError):
    """This machine cannot do it: a package, a device, disk space or a network is missing."""

    exit_code = 9


EXIT_CODES: dict[int, str] = {
    EXIT_PASS: "pass",
    EXIT_USAGE: "usage: an option or argument is wrong",
    InputError.exit_code: "bad input: checkpoint, data, directory or text",
    ContractError.exit_code: "contract breach: sharing, coverage, heads or recorded bytes",
    ParityError.exit_code: "parity breach: outputs differ too much from the fp32 source",
    AccuracyError.exit_code: "accuracy breach: the task score dropped too far",
    PerformanceError.exit_code: "performance breach: a variant does not pay",
    UndecidedError.exit_code: "undecided: too few rows to tell whether the gate holds",
    MachineError.exit_code: "not possible on this machine",
    EXIT_INTERNAL: "internal error",
    EXIT_INTERRUPTED: "interrupted",
}


def check_known(name: str, known: Collection[str], what: str) -> None:
    """Fail where a name is not among those that are known.

    Raises:
        InputError: It is not; the message lists them.
    """
    if name not in known:
        raise InputError(f"unknown {what} {name!r}; use one of: {', '.join(known)}")


def lookup(table: Mapping[str, _Row], name: str, what: str) -> _Row:
    """Return a row of a table, as ``check_known`` allows it."""
    check_known(name, table, what)
    return table[name]
