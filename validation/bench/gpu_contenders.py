"""Who runs in a GPU benchmark: PyTorch, ONNX Runtime's CUDA provider and TensorRT, on one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import AlbertDeployError, InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.validation.bench.gpu_counts import COUNTS, count_operations, through
from albert_deploy.validation.bench.gpu_turns import Entrant, Logits, Run, Runner

TORCH, COMPILED, ORT, TRT, GRAPHS = "torch", "torch-compile", "ort-cuda", "trt", "trt-graphs"
# Name -> label and the data type of its linear layers' products. The variant of an ONNX file, or
# the type that PyTorch loads the weights in, stands before the ``@``.
ENTRANTS: dict[str, tuple[str, str]] = {
    "fp16@torch": ("torch eager fp16", "fp16"),
    "fp16@torch-compile": ("torch.compile fp16", "fp16"),
    "bf16@torch-compile": ("torch.compile bf16", "bf16"),
    "fp32@ort-cuda": ("ORT CUDA fp32", "fp32"),
    "fp16@ort-cuda": ("ORT CUDA fp16", "fp16"),
    "fp16@trt": ("TensorRT fp16", "fp16"),
    "fp16@trt-graphs": ("TensorRT fp16, CUDA graphs", "fp16"),
    "int8-fp16@trt": ("TensorRT int8-fp16", "int8"),
    "fp8-qdq@trt": ("TensorRT fp8-qdq", "fp8"),
}
CHECKPOINT, DEPLOYMENT = "checkpoint", "deployment"
CACHE = "kernels"
_TORCH_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# Kernels of the middle profile are chosen for this batch, unless it is larger than the largest.
_USUAL_BATCH = 32
_Open = Callable[[], Runner]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How a model is run.

    Args:
        batches: Rows of the batches to come.
        lengths: Tokens of the rows to come.
        contenders: Patterns of names, such as ``*@trt``; None for all.
        compile_mode: Of ``torch.compile``; None is its default.
        device: Of PyTorch.
    """

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    contenders: tuple[str, ...] | None = None
    compile_mode: str | None = None
    device: str = "cuda"


def names(patterns: Sequence[str] | None) -> list[str]:
    """Return the names of ``ENTRANTS`` that a pattern asks for, in their order.

    Raises:
        InputError: A pattern fits none.
    """
    wanted: set[str] = set()
    for pattern in ("*",) if patterns is None else patterns:
        fitting = {name for name in ENTRANTS if fnmatchcase(name, pattern)}
        if not fitting:
            raise InputError(f"no contender is called {pattern}; there are: {', '.join(ENTRANTS)}")
        wanted |= fitting
    return [name for name in ENTRANTS if name in wanted]


class TorchRunner:
    """A checkpoint in PyTorch, on a device."""

    def __init__(self, model: Any, device: str) -> None:
        self.device_ms: float | None = None
        self._model = model
        self._device = device

    def prepare(self, feeds: Feeds) -> Run:
        """See ``Runner.prepare``."""
        import torch

        host = {name: torch.from_numpy(np.asarray(value)) for name, value in feeds.items()}
        on_gpu = self._device.startswith("cuda")
        cuda: Any = torch.cuda
        begin, end = (cuda.Event(enable_timing=True) if on_gpu else None for _ in range(2))

        def run() -> Logits:
            with torch.inference_mode():
                inputs = {name: value.to(self._device) for name, value in host.items()}
                if begin is not None:
                    begin.record()
                logits = self._model(**inputs).logits
                if end is not None:
                    end.record()
                # Waits for all that went before.
                found: Logits = logits.float().cpu().numpy()
            if begin is not None and end is not None:
                self.device_ms = begin.elapsed_time(end)
            return found

        return run

    def close(self) -> None:
        """See ``Runner.close``."""
        self._model = None


class SessionRunner:
    """A session of ``runtime``, as a contender; its own copies to and from the device count."""

    def __init__(self, session: Session) -> None:
        self.device_ms: float | None = None
        self._session = session

    def prepare(self, feeds: Feeds) -> Run:
        """See ``Runner.prepare``."""
        output = self._session.outputs[0]

        def run() -> Logits:
            logits = self._session.run(feeds)[output]
            # 0 and a lack of it both mean that nobody measured.
            self.device_ms = getattr(self._session, "device_ms", None) or None
            return logits

        return run

    def close(self) -> None:
        """See ``Runner.close``."""
        self._session.close()


class GpuModel:
    """A folder with a ``checkpoint`` and its ``deployment`` directory, see ``gpu_shape.Model``."""

    def __init__(self, name: str, folder: Path, config: ModelConfig) -> None:
        self.name = name
        self.checkpoint, self.directory = folder / CHECKPOINT, folder / DEPLOYMENT
        self.manifest: Mapping[str, Any] = read_manifest(self.directory)
        self.config = config
        self._counts: dict[int, int] | None = None

    def entrants(self) -> list[Entrant]:
        """See ``Model.entrants``."""
        found = []
        for name in names(self.config.contenders):
            variant, _, engine = name.partition("@")
            label, data_type = ENTRANTS[name]
            opening: dict[str, _Open] = {
                TORCH: partial(self._torch, variant),
                COMPILED: partial(self._torch, variant, compiled=True),
                ORT: partial(self._ort, variant),
                TRT: partial(self._trt, variant),
                GRAPHS: partial(self._trt, variant, graphs=True),
            }
            found.append(
                Entrant(
                    name=name, label=label, engine=engine, data_type=data_type, open=opening[engine]
                )
            )
        return found

    def reference(self, feeds: Feeds) -> Logits:
        """See ``Model.reference``."""
        runner = self._torch("fp32")
        try:
            return runner.prepare(feeds)()
        finally:
            runner.close()

    def operations(self, batch: int, tokens: int) -> float | None:
        """See ``Model.operations``; the square through three counted lengths, which is exact."""
        if self._counts is None:
            try:
                self._counts = count_operations(self.directory, self.directory.parent / COUNTS)
            except AlbertDeployError:
                self._counts = {}
        return None if not self._counts else float(batch * through(self._counts, tokens))

    def facts(self) -> dict[str, Any]:
        """See ``Model.facts``."""
        known = self.manifest["source"]["config"]
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        return {
            "parameter_bytes": self.manifest["parameter_bytes"],
            "sha256": self.manifest["source"]["sha256"],
            **{size: known[size] for size in sizes},
        }

    def profiles(self) -> tuple[Profile, ...]:
        """Return a profile for single rows and one for batches, over all lengths to come."""
        longest = min(max(self.config.lengths), int(self.manifest["contract"]["max_length"]))
        usual = sorted(self.config.lengths)[len(self.config.lengths) // 2]
        largest = max(self.config.batches)
        found = [(1, 1), (min(_USUAL_BATCH, largest), largest)] if largest > 1 else [(1, 1)]
        return tuple(
            Profile(minimum=(1, 1), optimum=(rows, min(usual, longest)), maximum=(most, longest))
            for rows, most in found
        )

    def _torch(self, variant: str, *, compiled: bool = False) -> Runner:
        import torch
        from transformers import AlbertForSequenceClassification

        dtype = getattr(torch, _TORCH_TYPES[variant])
        model: Any = AlbertForSequenceClassification.from_pretrained(self.checkpoint, dtype=dtype)
        model = model.eval().to(self.config.device)
        if compiled:
            import torch._dynamo.config as limits

            # Past the limit it would run eagerly without a word.
            limits.recompile_limit = 64
            limits.fail_on_recompile_limit_hit = True
            model.compile(dynamic=True, mode=self.config.compile_mode)
        return TorchRunner(model, self.config.device)

    def _ort(self, variant: str) -> Runner:
        return SessionRunner(open_session(self.directory, variant=variant, engine=ORT))

    def _trt(self, variant: str, *, graphs: bool = False) -> Runner:
        from albert_deploy.export.engine.step import BuildConfig, build
        from albert_deploy.runtime.trt.context import TrtConfig
        from albert_deploy.runtime.trt.session import open_trt

        build(self.directory, BuildConfig(variants=(variant,), profiles=self.profiles()))
        # Else TensorRT for RTX would be timed while it still compiles its kernels.
        how = TrtConfig(
            cuda_graphs=graphs, timed=True, eager_kernels=True, cache=self.directory.parent / CACHE
        )
        return SessionRunner(open_trt(self.directory, variant, how))
