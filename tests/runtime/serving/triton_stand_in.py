"""What of Triton's module for Python models is used, as far as tests need it.

Triton gives ``triton_python_backend_utils`` only to the processes that it starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

logged: list[str] = []


class Tensor:
    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        # As Triton does it, which knows no other strings and no lists.
        assert isinstance(array, np.ndarray)
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._array


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG = range(4)

    def __init__(self, message: str, code: int = UNKNOWN) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def error(self) -> TritonError | None:
        return self._error

    def has_error(self) -> bool:
        return self._error is not None


class InferenceRequest:
    def __init__(
        self, tensors: Mapping[str, npt.NDArray[Any]], parameters: Mapping[str, Any] | str = ""
    ) -> None:
        self._tensors = [Tensor(name, array) for name, array in tensors.items()]
        self._parameters = parameters if isinstance(parameters, str) else json.dumps(parameters)

    def inputs(self) -> list[Tensor]:
        return self._tensors

    def parameters(self) -> str:
        return self._parameters


class Logger:
    @staticmethod
    def log_error(message: str) -> None:
        logged.append(message)


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((one for one in request.inputs() if one.name() == name), None)
