"""The last step of an ensemble in Triton's Python backend: outputs of the network to answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from albert_deploy.runtime.errors import ContractError
from albert_deploy.runtime.inputs import FIELDS
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.pipeline import read_task_info
from albert_deploy.runtime.serving.backend import guarded, one_by_one, read_request, response
from albert_deploy.runtime.serving.settings import ANSWER, read_settings
from albert_deploy.runtime.serving.steps import answers_from


class TritonPythonModel:
    """What Triton calls; the name is the one that it looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer, compared with its hash."""
        self._settings = read_settings(args)
        directory = self._settings.directory
        self._info = read_task_info(directory, read_manifest(directory))
        self._names = tuple(chain(*FIELDS[self._info.task]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request."""
        return guarded(requests, partial(one_by_one, answer=self._answer))

    def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as triton

        outputs = {
            name: tensor.as_numpy()
            for name in self._info.outputs
            if (tensor := triton.get_input_tensor_by_name(request, name)) is not None
        }
        if missing := [name for name in self._info.outputs if name not in outputs]:
            raise ContractError(f"the network gave no {missing[0]}; bundle the model again")
        read = read_request(request, self._names)
        return response({ANSWER: answers_from(self._info, read, outputs, self._settings)})
