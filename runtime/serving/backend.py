"""Triton's Python backend: its requests and responses, and what goes wrong in between.

``triton_python_backend_utils`` exists only in the process that Triton starts for a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from albert_deploy.runtime.errors import AlbertDeployError, InputError
from albert_deploy.runtime.serving.wire import Array, Request

# Parameters of the protocol that may come along; they are not meant for the model.
_OF_THE_PROTOCOL = frozenset({"binary_data_output", "headers"})


def read_request(request: Any, names: Sequence[str]) -> Request:
    """Return a request of Triton's as ours.

    Args:
        request: ``InferenceRequest``.
        names: Of the inputs that it may have.

    Raises:
        InputError: Its parameters cannot be read.
    """
    import triton_python_backend_utils as triton

    tensors = {
        name: tensor.as_numpy()
        for name in names
        if (tensor := triton.get_input_tensor_by_name(request, name)) is not None
    }
    try:
        given = json.loads(request.parameters() or "{}")
        parameters = {k: v for k, v in given.items() if k not in _OF_THE_PROTOCOL}
    except (ValueError, AttributeError) as error:
        raise InputError(f"the request's parameters cannot be read: {error}") from error
    return Request(tensors=tensors, parameters=parameters)


def response(tensors: Mapping[str, Array]) -> Any:
    """Return arrays as an ``InferenceResponse``."""
    import triton_python_backend_utils as triton

    return triton.InferenceResponse([triton.Tensor(n, array) for n, array in tensors.items()])


def refusal(error: AlbertDeployError) -> Any:
    """Return an error as an ``InferenceResponse``: the asker's fault, or not."""
    import triton_python_backend_utils as triton

    asker = isinstance(error, InputError)
    code = triton.TritonError.INVALID_ARG if asker else triton.TritonError.INTERNAL
    return triton.InferenceResponse([], triton.TritonError(str(error), code))


def one_by_one(requests: Sequence[Any], answer: Callable[[Any], Any]) -> list[Any]:
    """Return the responses to requests, each by itself."""

    def attempt(request: Any) -> Any:
        try:
            return answer(request)
        except AlbertDeployError as error:
            return refusal(error)

    return [attempt(request) for request in requests]


def guarded(requests: Sequence[Any], answer: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """Return the responses to requests; a fault of ours is logged here and not told to who asks."""
    import triton_python_backend_utils as triton

    try:
        return answer(requests)
    except AlbertDeployError as error:
        return [refusal(error) for _ in requests]
    except Exception as error:
        triton.Logger.log_error(f"internal error: {type(error).__name__}: {error}")
        fault = triton.TritonError(
            "internal error; see the server's log", triton.TritonError.INTERNAL
        )
        return [triton.InferenceResponse([], fault) for _ in requests]
