"""What others offer for the same model: quantizers and compilers to be compared with."""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import MachineError
from albert_deploy.runtime.session import Feeds, Session

# NNCF's own default is 300; the ranges of so small a model settle earlier.
NNCF_ROWS = 128


def quantize_dynamic_file(source: Path, target: Path) -> None:
    """Quantize as onnxruntime does it, with its defaults.

    Raises:
        MachineError: The packages are not installed, or onnxruntime cannot do it.
    """
    try:
        import onnx
        from onnxruntime.quantization import quantize_dynamic
    except ImportError as error:
        raise MachineError(f"the onnx package is not installed ({error})") from error
    # A path would have onnxruntime write a second file beside it, into the directory.
    model = onnx.load(source)
    # Its own mark that shapes are inferred; without it, a warning goes to the root logger.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    try:
        quantize_dynamic(model, target)
    # It raises whatever it meets; a peer that cannot do it is a result, not a reason to stop.
    except Exception as error:
        raise _cannot(error) from error


def nncf_file(source: Path, target: Path, rows: Sequence[Feeds]) -> None:
    """Quantize to INT8 as NNCF does it for a transformer, calibrated on real texts.

    Args:
        source: Our float32 ONNX file.
        target: OpenVINO's ``.xml`` to write; the weights go to a ``.bin`` beside it.
        rows: Calibration texts, unpadded.

    Raises:
        MachineError: NNCF or OpenVINO is not installed, or NNCF cannot do it.
    """
    os.environ.setdefault("NNCF_CI", "1")  # no telemetry
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
            import openvino
    except ImportError as error:
        raise MachineError(
            f"NNCF is not installed ({error}); run: pip install 'albert-deploy[openvino,peers]'"
        ) from error
    import logging

    nncf.set_log_level(logging.ERROR)
    try:
        # It writes progress bars to the standard output, which is for the tables.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            quantized = nncf.quantize(
                openvino.Core().read_model(source),
                nncf.Dataset([dict(row) for row in rows]),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(rows),
            )
            openvino.save_model(quantized, target, compress_to_fp16=False)
    except Exception as error:
        raise _cannot(error) from error


def compile_reference(
    reference: Session, rows: Sequence[Feeds], *, mode: str | None = None
) -> float:
    """Compile the PyTorch source in place with ``torch.compile``.

    Args:
        reference: Result of ``validation.evaluate.reference.open_reference``.
        rows: Feeds to compile for; one graph serves all lengths. Without any, it is compiled in
            its first runs.
        mode: Of ``torch.compile``; None is its default.

    Returns:
        Seconds it took, the first run included.

    Raises:
        MachineError: PyTorch cannot compile here, such as for lack of a C++ compiler.
    """
    import torch._dynamo.config as limits

    # Past the limit it would run eagerly without a word.
    limits.recompile_limit = 64
    limits.fail_on_recompile_limit_hit = True
    model: Any = getattr(reference, "model", None)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Without fixed lengths, or each of them would be compiled by itself.
            model.compile(dynamic=True, mode=mode)
            for feeds in rows:
                reference.run(feeds)
    # The compiler raises whatever it meets.
    except Exception as error:
        raise _cannot(error) from error
    return time.perf_counter() - start


def _cannot(error: Exception) -> MachineError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return MachineError(f"{type(error).__name__}: {reason}")
