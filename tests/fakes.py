"""A machine whose seconds and bytes pass only when a fake session works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from albert_deploy.validation.bench.interleave import Contender, Device

MB = 1_000_000
Fails = Callable[[tuple[int, int], int], Exception | None]


def never(shape: tuple[int, int], run: int) -> Exception | None:
    return None


class FakeMachine:
    def __init__(self) -> None:
        self.now = 0.0
        self.kept = 0
        self.cached = 0
        self.log: list[tuple[str, str]] = []

    @property
    def device(self) -> Device:
        return Device(
            used_bytes=lambda: self.kept + self.cached,
            release=self._release,
            clock=lambda: self.now,
        )

    def _release(self) -> None:
        self.cached = 0

    def runs(self, name: str) -> int:
        return sum(entry[0] == name and entry[1] not in ("open", "close") for entry in self.log)


class FakeSession:
    """Takes ``seconds`` for each token of a batch, half of them on the device, and 10 bytes."""

    engine = "fake"
    outputs = ("logits",)

    def __init__(
        self,
        machine: FakeMachine,
        name: str,
        seconds: float = 1e-5,
        *,
        fails: Fails = never,
        value: float = 1.0,
        keeps: bool = False,
    ) -> None:
        self.machine, self.name, self.seconds = machine, name, seconds
        self.fails, self.value, self.keeps = fails, value, keeps
        self.device_ms = 0.0
        self.seen: dict[tuple[int, int], int] = {}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        rows, width = feeds["input_ids"].shape
        self.machine.log.append((self.name, f"{rows}x{width}"))
        self.seen[rows, width] = self.seen.get((rows, width), 0) + 1
        failure = self.fails((rows, width), self.seen[rows, width])
        if failure is not None:
            raise failure
        self.machine.now += self.seconds * rows * width
        self.device_ms = self.seconds * rows * width * 500
        if self.keeps:
            self.machine.kept += 10 * rows * width * (self.seen[rows, width] == 1)
        else:
            self.machine.cached = max(self.machine.cached, 10 * rows * width)
        return {"logits": np.full((rows, 2), self.value, np.float32)}

    def close(self) -> None:
        self.machine.log.append((self.name, "close"))

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fake_contender(
    machine: FakeMachine,
    name: str,
    seconds: float = 1e-5,
    *,
    opens: float = 0.5,
    error: Exception | None = None,
    load_ms: float | None = None,
    **how: Any,
) -> Contender:
    """A contender that takes ``opens`` seconds to load, and 5 MB; or fails to."""

    def load() -> FakeSession:
        machine.log.append((name, "open"))
        if error is not None:
            raise error
        machine.kept += 5 * MB
        machine.now += opens
        return FakeSession(machine, name, seconds, **how)

    return Contender(name=name, open=load, bytes=1, sha256="", data_type="fp16", load_ms=load_ms)


def feeds(rows: int, width: int) -> dict[str, Any]:
    return {"input_ids": np.zeros((rows, width), np.int64)}
