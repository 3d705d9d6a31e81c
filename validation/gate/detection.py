"""The detection table of the gate's self-test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import AccuracyError
from albert_deploy.runtime.session import Feeds, Session

CONTROL = "none"
UNDETECTED = "undetected"


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What became of one fault in one variant.

    Attributes:
        fault: Name of the fault; ``none`` for the control.
        variant: Key of ``VARIANTS``.
        planted: What was changed, for people; None where the model has nothing to change.
        caught_by: Names of the checks that fail, and do not fail without the fault; of the
            control those that fail.
        detail: Message of the first of them.
    """

    fault: str
    variant: str
    planted: str | None
    caught_by: tuple[str, ...]
    detail: str

    @property
    def verdict(self) -> str:
        """``detected``, ``undetected`` or ``not applicable``; of the control pass or fail."""
        if self.fault == CONTROL:
            return "fail" if self.caught_by else "pass"
        if self.planted is None:
            return "not applicable"
        return "detected" if self.caught_by else UNDETECTED

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold."""
        return {
            "fault": self.fault,
            "variant": self.variant,
            "planted": self.planted,
            "verdict": self.verdict,
            "caught_by": list(self.caught_by),
            "detail": self.detail,
        }


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """The detection table.

    Attributes:
        rows: A control and all faults, for each variant.
    """

    rows: tuple[Detection, ...]

    @property
    def undetected(self) -> tuple[Detection, ...]:
        """Faults that no check caught."""
        return tuple(row for row in self.rows if row.verdict == UNDETECTED)

    @property
    def false_alarms(self) -> tuple[Detection, ...]:
        """Controls that fail."""
        return tuple(row for row in self.rows if row.fault == CONTROL and row.caught_by)

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold."""
        failed = self.undetected or self.false_alarms
        return {
            "verdict": "fail" if failed else "pass",
            "rows": [row.to_json() for row in self.rows],
        }


def raise_for_self_test(result: SelfTest) -> None:
    """Raise where a fault was not detected or a sound variant failed; a pass returns.

    Raises:
        AccuracyError: Names the faults, or what failed without one.
    """
    if found := result.undetected:
        listed = "; ".join(f"{row.fault} in {row.variant} ({row.planted})" for row in found)
        raise AccuracyError(f"the gate let pass: {listed}; narrow its limits")
    if found := result.false_alarms:
        listed = "; ".join(f"{row.variant}: {row.detail}" for row in found)
        raise AccuracyError(f"without any fault the gate fails {listed}; make it pass first")


def self_test_table(result: SelfTest) -> str:
    """Return the detection table in Markdown."""
    lines = ["| variant | fault | planted in | verdict | caught by |", "|---|---|---|---|---|"]
    for row in result.rows:
        names = ", ".join(row.caught_by[:3]) + (", …" if len(row.caught_by) > 3 else "")
        place = f"`{row.planted}`" if row.planted else ""
        lines.append(f"| {row.variant} | {row.fault} | {place} | {row.verdict} | {names} |")
    return "\n".join(lines) + "\n"


# Scores of a masked language model are 15 MB a text.
_MOST_BYTES = 512_000_000


class CachedSession(Session):
    """A session that gives the outputs of an input that it ran before without running it.

    Args:
        session: A session; it is closed with this one.
        most_bytes: Outputs that are kept; what comes after is run again each time.
    """

    def __init__(self, session: Session, most_bytes: int = _MOST_BYTES) -> None:
        self.engine, self.outputs = session.engine, session.outputs
        self._session, self._left = session, most_bytes
        self._known: dict[tuple[object, ...], dict[str, npt.NDArray[np.float32]]] = {}

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """See ``Session.run``; outputs are shared between calls and must not be changed."""
        key = tuple((name, value.shape, value.tobytes()) for name, value in sorted(feeds.items()))
        if key in self._known:
            return dict(self._known[key])
        outputs = self._session.run(feeds)
        size = sum(value.nbytes for value in outputs.values())
        if size <= self._left:
            self._left -= size
            self._known[key] = dict(outputs)
        return outputs

    def close(self) -> None:
        """See ``Session.close``."""
        self._known.clear()
        self._session.close()
