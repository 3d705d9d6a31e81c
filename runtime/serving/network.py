"""The middle step of an ensemble in Triton's Python backend: tokens to outputs, in our runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from albert_deploy.runtime.bundle import check_bundle, is_bundle
from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import AlbertDeployError, InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.recommend import recommend
from albert_deploy.runtime.serving.backend import guarded, refusal, response
from albert_deploy.runtime.serving.settings import read_settings
from albert_deploy.runtime.session import Feeds


class TritonPythonModel:
    """What Triton calls; the name is the one that it looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session, every file of it compared with its hash."""
        given = read_settings(args)
        if is_bundle(given.directory):
            check_bundle(given.directory)
        choice = recommend(
            given.directory,
            read_manifest(given.directory),
            variant=given.variant,
            engine=given.engine,
        )
        self._session = open_session(
            given.directory, variant=choice.variant, engine=choice.engine, threads=given.threads
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run the rows of all requests of one shape together."""
        return guarded(requests, self._answer)

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        feeds = [_feeds(one) for one in requests]
        found: list[Any] = [refusal(one) if isinstance(one, InputError) else None for one in feeds]
        alike: dict[tuple[int, ...], dict[int, Feeds]] = {}
        for i, one in enumerate(feeds):
            if not isinstance(one, InputError):
                alike.setdefault(one["input_ids"].shape[1:], {})[i] = one
        for mine in alike.values():
            for i, answer in zip(mine, self._run(list(mine.values())), strict=True):
                found[i] = answer
        return found

    def _run(self, feeds: list[Feeds]) -> list[Any]:
        """Run requests together; where that fails, each alone, as one of them may be the reason."""
        joined = {name: np.concatenate([one[name] for one in feeds]) for name in INPUT_NAMES}
        try:
            outputs = self._session.run(joined)
        except Exception as error:  # of the engine
            if len(feeds) > 1:
                return [answer for one in feeds for answer in self._run([one])]
            if isinstance(error, AlbertDeployError):
                return [refusal(error)]
            return [refusal(InputError(f"the network refuses its inputs: {error}"))]
        stops = np.cumsum([len(one["input_ids"]) for one in feeds]).tolist()
        return [
            response({name: value[start:stop] for name, value in outputs.items()})
            for start, stop in zip([0, *stops], stops, strict=False)
        ]

    def finalize(self) -> None:
        """Free the model."""
        self._session.close()


def _feeds(request: Any) -> Feeds | InputError:
    import triton_python_backend_utils as triton

    found = {}
    for name in INPUT_NAMES:
        tensor = triton.get_input_tensor_by_name(request, name)
        if tensor is None:
            return InputError(f"the request has no {name}")
        found[name] = np.asarray(tensor.as_numpy(), np.int64)
    shapes = {name: list(value.shape) for name, value in found.items()}
    if len({value.shape for value in found.values()}) > 1 or len(shapes["input_ids"]) < 2:
        return InputError(f"got inputs of {shapes}; wanted one shape, [rows, sequence]")
    return found
