"""The first step of an ensemble in Triton's Python backend: texts to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from albert_deploy.runtime.contract import CHOICES
from albert_deploy.runtime.inputs import FIELDS
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.pipeline import read_task_info
from albert_deploy.runtime.serving.backend import guarded, one_by_one, read_request, response
from albert_deploy.runtime.serving.settings import read_settings
from albert_deploy.runtime.serving.steps import tokens_of


class TritonPythonModel:
    """What Triton calls; the name is the one that it looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer, compared with its hash."""
        self._settings = read_settings(args)
        manifest = read_manifest(self._settings.directory)
        self._info = read_task_info(self._settings.directory, manifest)
        self._ranked = CHOICES in manifest["contract"]["inputs"][0]["axes"]
        self._names = tuple(chain(*FIELDS[self._info.task]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Tokenize each request."""
        return guarded(requests, partial(one_by_one, answer=self._answer))

    def _answer(self, request: Any) -> Any:
        read = read_request(request, self._names)
        return response(tokens_of(self._info, read, self._settings, ranked=self._ranked))
