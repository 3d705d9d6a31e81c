"""A run ends in an answer, in an error that names the model, or in time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.validation.evaluate.timeout import TimedSession, hung, open_timed, watch

FEEDS = {"input_ids": np.ones((2, 3), np.int64)}


class Fake:
    engine = "fake"
    outputs = ("logits",)

    def __init__(
        self, answer: Any = None, seconds: float = 0.0, until: threading.Event | None = None
    ) -> None:
        self.answer, self.seconds, self.until = answer, seconds, until
        self.closed, self.runs = False, 0

    def run(self, feeds: Any) -> Any:
        self.runs += 1
        time.sleep(self.seconds)
        if self.until is not None:
            self.until.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"logits": np.zeros((2, 2), np.float32)} if self.answer is None else self.answer

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_an_answer_passes_and_its_time_is_counted(timeout_s: float | None) -> None:
    fake = Fake(seconds=0.02)
    with TimedSession(fake, "int8", timeout_s) as session:
        assert session.run(FEEDS)["logits"].shape == (2, 2)
        assert session.run(FEEDS)["logits"].shape == (2, 2)
        assert watch(session, "other") is session
    assert fake.closed


def test_a_hung_engine_is_named_and_not_asked_again() -> None:
    going_on = threading.Event()
    fake = Fake(until=going_on)
    session = TimedSession(fake, "int8", 0.05)
    with pytest.raises(MachineError, match=r"int8 \(fake\) gave no answer within 0.05 s on row 7"):
        session.run(FEEDS, "row 7")
    with pytest.raises(MachineError, match="on row 7"):
        session.run(FEEDS, "row 8")
    assert fake.runs == 1
    assert hung()
    session.close()
    assert not fake.closed  # Its memory is in use.
    going_on.set()
    end = time.monotonic() + 300
    while hung() and time.monotonic() < end:
        time.sleep(0.01)
    assert not hung()  # It came back.
    session.close()
    assert fake.closed


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_failures_are_errors_that_name_the_model(timeout_s: float | None) -> None:
    with pytest.raises(ContractError, match=r"int8 \(fake\) failed on row 1: bad node; make"):
        TimedSession(Fake(RuntimeError("bad node\nat 0x0")), "int8", timeout_s).run(FEEDS, "row 1")
    with pytest.raises(InputError, match=r"^wrong shape$"):
        TimedSession(Fake(InputError("wrong shape")), "int8", timeout_s).run(FEEDS)
    with pytest.raises(ContractError, match="gave no logits of 2 rows"):
        TimedSession(Fake({"other": np.zeros(2)}), "int8", timeout_s).run(FEEDS)
    with pytest.raises(ContractError, match="gave no logits of 2 rows"):
        TimedSession(Fake({"logits": np.zeros((1, 2))}), "int8", timeout_s).run(FEEDS)
    with pytest.raises(InputError, match="timeout is 0"):
        TimedSession(Fake(), "int8", 0)


def test_a_variant_that_cannot_be_opened_stops_no_other() -> None:
    def broken() -> Any:
        raise ContractError("corrupt")

    with contextlib.ExitStack() as stack:
        openers = {"source": Fake, "int8": broken, "fp32": Fake}
        sessions, failures = open_timed(openers, stack, required="source")
        assert list(sessions) == ["source", "fp32"]
        assert failures == {"int8": "corrupt"}
        with pytest.raises(ContractError, match="corrupt"):
            open_timed(openers, stack, required="int8")


def test_a_process_ends_while_an_engine_hangs() -> None:
    program = """
import ctypes
from albert_deploy.runtime.errors import MachineError
from albert_deploy.validation.evaluate.timeout import TimedSession, hung
class Hanging:
    engine, outputs = "native", ("logits",)
    def run(self, feeds): ctypes.CDLL(None).sleep(600)
session = TimedSession(Hanging(), "int8", 0.2)
assert not hung()
try:
    session.run({"input_ids": [[1]]})
except MachineError as error:
    print(error, hung())
raise SystemExit(9)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 9, done.stderr
    assert "int8 (native) gave no answer within 0.2 s" in done.stdout
    assert done.stdout.rstrip().endswith("True")
