"""ONNX Runtime's CUDA provider behind the ``Session`` protocol, with inputs and outputs bound."""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.session import Feeds, Session, check_feeds
from albert_deploy.runtime.trt import gpu

PROVIDER = "CUDAExecutionProvider"
# Shapes whose device inputs are kept.
_MOST_SHAPES = 8
_INSTALL = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"


class OrtCudaSession(Session):
    """A model in ONNX Runtime on a GPU; ``run`` may be called from several threads, in turns.

    Inputs are copied to device memory that is kept for each shape; outputs are allocated by
    ONNX Runtime on the device and copied back once.

    Args:
        session: An ``InferenceSession``.
        device: Where inputs and outputs are bound: ``cuda``.
        index: Number of the GPU.
    """

    engine = "ort-cuda"

    def __init__(self, session: Any, *, device: str = "cuda", index: int = 0) -> None:
        self._session = session
        self._place = (device, index)
        self._lock = threading.Lock()
        self._inputs: OrderedDict[tuple[int, ...], dict[str, Any]] = OrderedDict()
        self._ranks = {i.name: len(i.shape) for i in session.get_inputs()}
        self.outputs = tuple(str(o.name) for o in session.get_outputs())

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """See ``Session.run``."""
        check_feeds(feeds, self._ranks)
        with self._lock:
            if self._session is None:
                raise InputError("the session is closed; open it again")
            binding = self._session.io_binding()
            for name, value in self._sent(feeds).items():
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, *self._place)
            try:
                self._session.run_with_iobinding(binding)
            except Exception as error:
                # ONNX Runtime has no class of its own for what CUDA reports.
                reason = str(error).splitlines()[0]
                raise MachineError(
                    f"ONNX Runtime failed on the GPU: {reason}; take smaller batches, or open "
                    "the session again"
                ) from error
            values = binding.copy_outputs_to_cpu()
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """See ``Session.close``."""
        with self._lock:
            self._inputs.clear()
            self._session = None

    def _sent(self, feeds: Feeds) -> dict[str, Any]:
        """Copy inputs to the device, into memory of an earlier run of that shape if there is."""
        import onnxruntime

        shape = next(iter(feeds.values())).shape
        if shape not in self._inputs:
            # Never made from an array: on the processor it would be written over later on.
            self._inputs[shape] = {
                name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    shape, np.int64, *self._place
                )
                for name in feeds
            }
            if len(self._inputs) > _MOST_SHAPES:
                self._inputs.popitem(last=False)
        kept = self._inputs[shape]
        for name, value in feeds.items():
            kept[name].update_inplace(np.ascontiguousarray(value))
        self._inputs.move_to_end(shape)
        return kept


def lacks() -> str | None:
    """Return why the CUDA provider cannot run here; None where it can. Nothing is imported."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec is not None else None
    if not any(list(Path(f).glob("capi/*onnxruntime_providers_cuda.*")) for f in folders or ()):
        return f"this ONNX Runtime has no {PROVIDER}; run: {_INSTALL}"
    found = gpu.probe()
    return None if found.devices else found.why


def open_ort_cuda(path: Path, *, index: int = 0) -> OrtCudaSession:
    """Load an ONNX file on a GPU.

    Args:
        path: The file.
        index: Number of the GPU.

    Raises:
        MachineError: ONNX Runtime has no CUDA provider, or cannot use it.
        ContractError: ONNX Runtime refuses the file.
    """
    if why := lacks():
        raise MachineError(f"ort-cuda cannot run here: {why}")
    import onnxruntime

    # CUDA and cuDNN may lie in packages of pip, where the loader does not look.
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # TF32 would round the products of float32 to 10 bits.
    cuda = (PROVIDER, {"device_id": str(index), "use_tf32": "0"})
    try:
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=[cuda, "CPUExecutionProvider"]
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"ONNX Runtime cannot load {path} on the GPU: {reason}") from error
    # It goes on without a provider that does not load, and says so in a log line alone.
    if PROVIDER not in session.get_providers():
        raise MachineError(
            f"ONNX Runtime is there, its {PROVIDER} does not start: CUDA or cuDNN of its version "
            "is missing; run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return OrtCudaSession(session, index=index)
