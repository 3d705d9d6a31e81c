"""ONNX Runtime behind the ``Session`` protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.session import Feeds, Session, check_feeds


class OrtSession(Session):
    """A model in ONNX Runtime; ``run`` may be called from several threads."""

    engine = "ort"

    def __init__(self, session: Any) -> None:
        self._session = session
        self._ranks = {i.name: len(i.shape) for i in session.get_inputs()}
        self.outputs = tuple(str(o.name) for o in session.get_outputs())

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """See ``Session.run``."""
        if self._session is None:
            raise InputError("the session is closed; open it again")
        check_feeds(feeds, self._ranks)
        values = self._session.run(None, dict(feeds))
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """See ``Session.close``."""
        self._session = None


def open_ort(
    path: Path, *, threads: int = 0, optimize: bool = True, fuse_qdq: bool = True
) -> OrtSession:
    """Load an ONNX file on the CPU.

    Args:
        path: The file.
        threads: Threads inside one operator; 0 takes one per core.
        optimize: False only parses and checks the graph, which is quicker and takes less memory.
        fuse_qdq: Compute in integers where Q/DQ nodes surround an operator; False computes in
            float32 on the rounded values.

    Raises:
        MachineError: ONNX Runtime is not installed.
        ContractError: ONNX Runtime refuses the file.
    """
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures
    except ImportError as error:
        raise MachineError(
            "ONNX Runtime is not installed; run: pip install 'albert-deploy[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning workers starve whatever else runs on the machine, the other sessions of a
    # validation and PyTorch included; waking a thread costs microseconds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fuse_qdq:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    refusals = (
        failures.Fail,
        failures.InvalidGraph,
        failures.InvalidProtobuf,
        failures.NoModel,
        failures.NotImplemented,
        failures.InvalidArgument,
        failures.RuntimeException,
    )
    try:
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except refusals as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"ONNX Runtime cannot load {path}: {reason}") from error
    return OrtSession(session)
