"""A model of Triton's Python backend that takes texts and gives answers, all in one process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.inputs import FIELDS
from albert_deploy.runtime.pipeline import load
from albert_deploy.runtime.serving.backend import guarded, read_request, refusal, response
from albert_deploy.runtime.serving.settings import ANSWER, read_settings
from albert_deploy.runtime.serving.steps import answer_requests
from albert_deploy.runtime.serving.wire import Request


class TritonPythonModel:
    """What Triton calls; the name is the one that it looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model, every file of it compared with its hash."""
        self._settings = read_settings(args)
        self._model = load(
            self._settings.directory,
            self._settings.variant,
            self._settings.engine,
            self._settings.threads,
        )
        self._model.warm_up(self._settings.batch_size)
        self._names = tuple(chain(*FIELDS[self._model.task]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests that came about together."""
        return guarded(requests, self._answer)

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        read: list[Request | InputError] = []
        for one in requests:
            try:
                read.append(read_request(one, self._names))
            except InputError as error:
                read.append(error)
        good = [one for one in read if isinstance(one, Request)]
        answers = iter(answer_requests(self._model, good, self._settings))
        found = [next(answers) if isinstance(one, Request) else one for one in read]
        return [
            refusal(one) if isinstance(one, Exception) else response({ANSWER: one}) for one in found
        ]

    def finalize(self) -> None:
        """Free the model."""
        self._model.close()
