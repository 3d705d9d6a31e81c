"""A server that breaks is started again, but not for ever; one that is told to stop is not."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest

from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.scripts.serving import supervise
from albert_deploy.scripts.serving.supervise import Served, WatchConfig

SERVED = cast(Served, type("Stand", (), {"memory": "albert-test-none-"})())


def again(monkeypatch: pytest.MonkeyPatch, outcomes: list[Any]) -> Any:
    """Start again, each try with the next outcome, and return the server."""

    async def started(*_: Any) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(supervise, "_started", started)
    monkeypatch.setattr(supervise, "_PAUSE_S", 0)
    run = supervise._again(SERVED, WatchConfig(), cast(Any, None), "why", deque())
    return asyncio.run(run)


def test_it_is_tried_again_until_it_runs(
    monkeypatch: pytest.MonkeyPatch, progress: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervise, "_check_files", lambda _: None)
    made = again(monkeypatch, [ContractError("first"), ContractError("second"), "server"])
    assert made == "server"
    assert progress.messages == [f"restarting Triton: {why}" for why in ("why", "first", "second")]


def test_five_times_within_a_minute_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_check_files", lambda _: None)
    with pytest.raises(MachineError, match="broke 6 times within 60 s, the last time as no 5"):
        again(monkeypatch, [ContractError(f"no {n}") for n in range(1, 9)])


def test_damaged_files_end_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_: Any) -> None:
        raise ContractError("onnx/model.onnx was changed")

    monkeypatch.setattr(supervise, "_check_files", check)
    with pytest.raises(ContractError, match="was changed"):
        again(monkeypatch, ["never"])


def test_told_to_stop_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[Any, bool]:
        stop, ended = asyncio.Event(), False

        async def start() -> Any:
            nonlocal ended
            try:
                await asyncio.sleep(60)
            finally:
                ended = True

        asyncio.get_running_loop().call_later(0.02, stop.set)
        return await supervise._unless(stop, start()), ended

    assert asyncio.run(main()) == (None, True)


def test_times_are_above_nought() -> None:
    for name in ("start_s", "drain_s"):
        with pytest.raises(InputError, match=f"{name} is 0"):
            WatchConfig(**{name: 0})


def test_files_that_are_gone_are_a_broken_contract(tmp_path: Path) -> None:
    served = cast(Served, type("Stand", (), {"directory": tmp_path / "gone", "variant": "fp32"})())
    with pytest.raises(ContractError, match="not there any more"):
        supervise._check_files(served)
