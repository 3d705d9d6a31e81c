"""TensorRT's log: the one logger of this process, and the lines of a while collected from it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from albert_deploy.runtime.trt.flavours import Flavour


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of TensorRT's log; ``severity`` is ``VERBOSE``, ``INFO``, ``WARNING``, …."""

    severity: str
    text: str


# By the class that a flavour's loggers derive from.
_LOGGERS: dict[Any, Any] = {}
_SINKS: list[list[LogLine]] = []
_LOCK = threading.Lock()


def logger(flavour: Flavour) -> Any:
    """Return the one logger of this process for a flavour.

    TensorRT takes one logger for the process and ignores those of later builders and runtimes:
    all that is made of the flavour has to be given this one.
    """
    with _LOCK:
        base = flavour.module.ILogger
        if base not in _LOGGERS:
            _LOGGERS[base] = _make_logger(flavour.module)
        return _LOGGERS[base]


def _make_logger(module: Any) -> Any:
    class Log(module.ILogger):  # type: ignore[misc]
        """Hands lines to whoever collects; TensorRT's own logger only prints."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            line = LogLine(severity=str(getattr(severity, "name", severity)), text=message)
            for sink in _SINKS.copy():
                sink.append(line)

    return Log()


@contextlib.contextmanager
def collecting() -> Iterator[list[LogLine]]:
    """Collect the lines that TensorRT logs while the block runs, of all threads."""
    lines: list[LogLine] = []
    _SINKS.append(lines)
    try:
        yield lines
    finally:
        # By identity: two lists of equal lines are equal.
        _SINKS[:] = [sink for sink in _SINKS if sink is not lines]
