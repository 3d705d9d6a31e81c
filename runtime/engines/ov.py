"""OpenVINO behind the ``Session`` protocol, on the CPU, reading our own ONNX files."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import ContractError, InputError, MachineError, check_known
from albert_deploy.runtime.session import Feeds, Session, check_feeds

# Precision of what the file leaves in float32 -> what the processor must be able to do.
PRECISIONS: dict[str, str] = {"f32": "FP32", "bf16": "BF16"}


class OvSession(Session):
    """A model in OpenVINO; ``run`` may be called from several threads.

    Each call has an infer request of its own, taken from those that are idle or made anew: a
    request holds inputs and outputs, so that two threads could not share one. For the least
    latency OpenVINO runs them one after the other, each on all threads of the session.
    """

    engine = "openvino"

    def __init__(self, model: Any, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: deque[Any] = deque()
        # Names are the model's: the compiled one calls its ports by those of inner values too.
        self._ranks = {str(i.any_name): len(i.partial_shape) for i in model.inputs}
        self._rows = _table_rows(model)
        self.outputs = tuple(str(o.any_name) for o in model.outputs)

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """See ``Session.run``."""
        if self._compiled is None:
            raise InputError("the session is closed; open it again")
        check_feeds(feeds, self._ranks)
        for name, rows in self._rows.items():
            # OpenVINO reads zeros outside of a table, which look like an answer.
            if feeds[name].size and not -rows <= feeds[name].min() <= feeds[name].max() < rows:
                raise InputError(
                    f"{name} has values from {feeds[name].min()} to {feeds[name].max()}; its table "
                    f"has {rows} rows: use the tokenizer of this model"
                )
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        # Shared inputs are read in place: they outlive the call. Outputs are copies, because
        # the next run writes over the request's own.
        values = request.infer(dict(feeds), share_inputs=True, share_outputs=False)
        outputs = {name: values[index] for index, name in enumerate(self.outputs)}
        self._idle.append(request)
        return outputs

    def close(self) -> None:
        """See ``Session.close``."""
        self._compiled = None
        self._idle.clear()


def open_ov(path: Path, *, threads: int = 0, precision: str | None = None) -> OvSession:
    """Load an ONNX file, or OpenVINO's own ``.xml``, on the CPU.

    Args:
        path: The file.
        threads: Threads of one run; 0 takes one per core.
        precision: Of what the file leaves in float32: ``f32``, which None means too, or
            ``bf16``, which rounds to 8 bits and is quicker on processors that have it; others
            run ``f32``, see ``precisions``.

    Raises:
        InputError: Unknown precision.
        MachineError: OpenVINO is not installed.
        ContractError: OpenVINO refuses the file.
    """
    # OpenVINO's own default is bf16 wherever the processor has it: fp32 would not be fp32.
    precision = precision or "f32"
    check_known(precision, PRECISIONS, "precision")
    if precision not in precisions():
        precision = "f32"
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        # What a file leaves real is not to be rounded behind its back.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Pinned threads of two sessions, or of two processes, would share one core.
        "ENABLE_CPU_PINNING": False,
    }
    # It raises its own GeneralFailure, RuntimeError and others, all of them plain Exceptions.
    try:
        model = _read(core, path)
        compiled = core.compile_model(model, "CPU", settings)
        return OvSession(model, compiled)
    except Exception as error:
        raise ContractError(f"OpenVINO cannot load {path}: {_reason(error)}") from error


def precisions() -> tuple[str, ...]:
    """Return the keys of ``PRECISIONS`` that OpenVINO has fast products for on this processor.

    Raises:
        MachineError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MachineError(
            "OpenVINO is not installed; run: pip install 'albert-deploy[openvino]'"
        ) from error
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, capability in PRECISIONS.items() if capability in can)


def _read(core: Any, path: Path) -> Any:
    """Read a model; ONNX by its own reader, as the search for one makes the others complain."""
    if path.suffix != ".onnx":
        return core.read_model(path)
    from openvino import frontend

    reader = frontend.FrontEndManager().load_by_framework("onnx")
    return reader.convert(reader.load(str(path)))


def _table_rows(model: Any) -> dict[str, int]:
    """Return the rows of the table that each input looks up, by the input's name."""
    rows = {}
    for source in model.inputs:
        for target in source.get_target_inputs():
            node = target.get_node()
            if node.get_type_name() == "Convert":
                node = next(iter(node.output(0).get_target_inputs())).get_node()
            if node.get_type_name() == "Gather":
                size = node.get_input_partial_shape(0)[0]
                if size.is_static:
                    rows[str(source.any_name)] = size.get_length()
    return rows


def _reason(error: Exception) -> str:
    """Return the line of an OpenVINO error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [x for x in lines if x and not x.startswith(("Exception from", "Check '"))]
    return reasons[-1] if reasons else type(error).__name__
