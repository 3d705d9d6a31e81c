"""Sessions with a limit for each run, whose failures name the model."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError, MachineError
from albert_deploy.runtime.session import Feeds, Session

_hung: list[TimedSession] = []


def hung() -> bool:
    """Tell whether an engine of this process has not come back from a run.

    Its thread is a daemon, and its session is never freed. Where that engine's library waits for
    its own threads at the end of a process, ``os._exit`` is the way out, once all is written.
    """
    return any(one.inside for one in _hung)


class TimedSession(Session):
    """A session whose runs end: in an answer, in an error that names the model, or in time.

    With a limit, runs happen on one thread of their own. An engine lets other threads go on
    while it computes; one that did not could be ended by no thread, only from outside.

    Attributes:
        engine: See ``Session``.
        outputs: See ``Session``.
        failure: Why it cannot run any more; None while it can.
    """

    def __init__(self, session: Session, name: str, timeout_s: float | None = None) -> None:
        if timeout_s is not None and timeout_s <= 0:
            raise InputError(f"the timeout is {timeout_s} s; use more than 0, or none")
        self.engine = str(getattr(session, "engine", "engine"))
        self.outputs = tuple(session.outputs)
        self.failure: str | None = None
        self._session, self._name, self._timeout_s = session, name, timeout_s
        self._questions: queue.SimpleQueue[Feeds | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def inside(self) -> bool:
        """Tell whether a run that took too long is still under way."""
        # Nobody takes what such a run tells at last.
        return self.failure is not None and self._answers.empty()

    def run(self, feeds: Feeds, where: str = "") -> dict[str, npt.NDArray[np.float32]]:
        """See ``Session.run``.

        Args:
            feeds: See ``Session.run``.
            where: Which row this is, for errors.

        Raises:
            MachineError: It did not answer in time, now or earlier.
            ContractError: The engine failed, or its outputs are not those it promised.
            InputError: See ``Session.run``.
        """
        place = f" on {where}" if where else ""
        if self.failure is not None:
            raise MachineError(self.failure)
        outputs = self._answer(feeds)
        if outputs is None:
            self.failure = (
                f"{self._name} ({self.engine}) gave no answer within {self._timeout_s:g} s{place}; "
                "use another engine, or raise the timeout if it is only slow"
            )
            _hung.append(self)
            raise MachineError(self.failure)
        if isinstance(outputs, AlbertDeployError):
            raise outputs
        if isinstance(outputs, Exception):
            reason = next(iter(str(outputs).splitlines()), "") or type(outputs).__name__
            raise ContractError(
                f"{self._name} ({self.engine}) failed{place}: {reason[:300]}; make it again"
            ) from outputs
        return self._checked(outputs, len(feeds["input_ids"]), place)

    def close(self) -> None:
        """Free the model, unless a run is still inside of it."""
        if self._thread is not None:
            self._questions.put(None)
        if not self.inside:
            self._session.close()

    def _answer(self, feeds: Feeds) -> Any:
        if self._timeout_s is None:
            return _outcome(self._session, feeds)
        if self._thread is None:
            # A daemon: a run that never ends must not keep the process.
            self._thread = threading.Thread(
                target=_serve, args=(self._session, self._questions, self._answers), daemon=True
            )
            self._thread.start()
        self._questions.put(feeds)
        try:
            return self._answers.get(timeout=self._timeout_s)
        except queue.Empty:
            return None

    def _checked(self, outputs: Any, rows: int, place: str) -> dict[str, npt.NDArray[np.float32]]:
        wrong = [n for n in self.outputs if n not in outputs or len(outputs[n]) != rows]
        if wrong:
            raise ContractError(
                f"{self._name} ({self.engine}) gave no {' and '.join(wrong)} of {rows} rows{place};"
                " make it again"
            )
        found: dict[str, npt.NDArray[np.float32]] = outputs
        return found


def watch(session: Session, name: str, timeout_s: float | None = None) -> TimedSession:
    """Return the session under watch; one that already is stays as it is.

    Args:
        session: Any session.
        name: How errors name it, such as its variant.
        timeout_s: Longest time of one run, in seconds; None for no limit.

    Raises:
        InputError: The limit is not above 0.
    """
    return session if isinstance(session, TimedSession) else TimedSession(session, name, timeout_s)


def open_timed(
    openers: Mapping[str, Callable[[], Session]],
    stack: contextlib.ExitStack,
    *,
    required: str,
    timeout_s: float | None = None,
) -> tuple[dict[str, Session], dict[str, str]]:
    """Open models under watch; a variant that cannot be opened is a failure and stops no other.

    Args:
        openers: What opens each model.
        stack: Closes them.
        required: The one without which nothing can be done, such as the source.
        timeout_s: See ``watch``.

    Returns:
        The sessions, and by name why the others could not be opened.

    Raises:
        AlbertDeployError: The required one cannot be opened.
    """
    sessions: dict[str, Session] = {}
    failures: dict[str, str] = {}
    for name, opener in openers.items():
        try:
            sessions[name] = stack.enter_context(watch(opener(), name, timeout_s))
        except AlbertDeployError as error:
            if name == required:
                raise
            failures[name] = str(error)
    return sessions, failures


def _serve(
    session: Session, questions: queue.SimpleQueue[Feeds | None], answers: queue.SimpleQueue[Any]
) -> None:
    while (feeds := questions.get()) is not None:
        answers.put(_outcome(session, feeds))


def _outcome(session: Session, feeds: Feeds) -> Any:
    try:
        return session.run(feeds)
    except Exception as error:  # every engine has its own kinds, and none may stop the others
        return error
