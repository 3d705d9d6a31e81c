"""TensorRT, of whichever flavour built a plan, behind the ``Session`` protocol."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest, writing
from albert_deploy.runtime.session import Feeds, Session, check_feeds
from albert_deploy.runtime.trt.context import Context, Loaded, TrtConfig
from albert_deploy.runtime.trt.load import load, runtime_cache_file
from albert_deploy.runtime.trt.machine import Machine, this_machine
from albert_deploy.runtime.trt.plans import check_plan, find_plan
from albert_deploy.runtime.trt.profiles import Run, joined_outputs, padded_rows, plan_runs
from albert_deploy.runtime.trt.record import PlanRecord

# Each graph has a context and buffers of its own.
MOST_GRAPHS = 8


@dataclass(kw_only=True)
class _Guard:
    """What inputs have to hold, as an engine reads past its tables without a word."""

    rows: Mapping[str, int] = field(default_factory=dict)
    pad_id: int = 0

    def check(self, feeds: Feeds) -> None:
        for name, rows in self.rows.items():
            values = feeds[name]
            if values.size and not 0 <= values.min() <= values.max() < rows:
                raise InputError(
                    f"{name} has values from {values.min()} to {values.max()}; its table has "
                    f"{rows} rows: use the tokenizer of this model"
                )


class TrtSession(Session):
    """An engine on a GPU; ``run`` may be called from several threads, which take turns.

    Each profile has an execution context and a stream of its own, made when it is first needed;
    they work in the same memory, one after the other.

    Attributes:
        record: What is known of the plan.
        device_ms: Time that the GPU computed in the last run, copies apart; 0 where not timed.
    """

    engine = "trt"

    def __init__(
        self, loaded: Loaded, record: PlanRecord, config: TrtConfig, guard: _Guard | None = None
    ) -> None:
        self._loaded: Loaded | None = loaded
        self._config = config
        self._guard = guard or _Guard()
        self._lock = threading.Lock()
        self._contexts: OrderedDict[tuple[int, ...], Context] = OrderedDict()
        self._ranks = {spec.name: len(spec.axes) for spec in record.inputs}
        self._axes = {spec.name: spec.axes for spec in record.outputs}
        # TensorRT for RTX captures graphs itself, and knows when its kernels are ready for it.
        self._native = hasattr(loaded.config, "cuda_graph_strategy")
        self.record = record
        self.outputs = tuple(self._axes)
        self.device_ms = 0.0

    @property
    def graphs(self) -> int:
        """Return how many graphs are held; those that TensorRT for RTX captures do not count."""
        return sum(context.captured for context in self._contexts.values())

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """See ``Session.run``.

        Raises:
            InputError: The feeds are not what the model takes, or of a shape outside every
                profile for which the policy finds no way.
            MachineError: CUDA or TensorRT failed.
        """
        check_feeds(feeds, self._ranks)
        self._guard.check(feeds)
        shape = next(iter(feeds.values())).shape
        runs = plan_runs(self.record.profiles, shape, self._config.policy)
        with self._lock:
            if self._loaded is None:
                raise InputError("the session is closed; open it again")
            # The current device is the thread's.
            self._loaded.cuda.cudaSetDevice(self._config.device)
            parts, spent_ms = [], 0.0
            for run in runs:
                given = padded_rows(feeds, run, self._guard.pad_id)
                outputs, took_ms = self._context_for(self._loaded, run).run(given, run.shape)
                parts.append(outputs)
                spent_ms += took_ms
            self.device_ms = spent_ms
        return joined_outputs(parts, runs, shape, self._axes)

    def close(self) -> None:
        """See ``Session.close``; waits for the run under way."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
            if loaded is None:
                return
            try:
                self._keep_cache(loaded)
            finally:
                for context in self._contexts.values():
                    context.close()
                self._contexts.clear()
                if loaded.scratch is not None:
                    loaded.scratch.close()

    def _context_for(self, loaded: Loaded, run: Run) -> Context:
        graphs = self._config.cuda_graphs and not self._native
        # A context that has met another shape since may not run what was captured before.
        key = (run.profile, *run.shape) if graphs else (run.profile,)
        context = self._contexts.get(key)
        if context is None:
            if graphs and len(self._contexts) >= MOST_GRAPHS:
                self._contexts.popitem(last=False)[1].close()
            context = Context(loaded, run.profile, graphs=graphs, timed=self._config.timed)
            self._contexts[key] = context
        self._contexts.move_to_end(key)
        return context

    def _keep_cache(self, loaded: Loaded) -> None:
        if loaded.cache is None or self._config.cache is None:
            return
        kept = loaded.cache.serialize()
        if kept is not None:
            with writing(runtime_cache_file(self._config.cache, self.record)) as file:
                file.write(bytes(kept))


def open_trt(
    directory: Path, name: str, config: TrtConfig | None = None, *, trust: bool = False
) -> TrtSession:
    """Open an engine of a deployment directory, after everything about it was checked.

    Args:
        directory: Deployment directory.
        name: Of an engine, such as ``sm89-fp16``, or of a variant, such as ``fp16``: then the
            first of its engines that runs on this GPU.
        config: How it runs.
        trust: Run a plan that the manifest does not vouch for. A plan is code.

    Raises:
        InputError: No such engine, or nobody vouches for it.
        ContractError: The plan or its record was damaged, its ONNX file was made again since, or
            TensorRT refuses the plan.
        MachineError: This machine cannot run it: TensorRT, GPU, driver or memory.
    """
    config = config or TrtConfig()
    machine = this_machine(config.device)
    if name in VARIANTS:
        name = _engine_of(directory, name, machine)
    record = check_plan(directory, name, machine=machine, trust=trust)
    guard = _Guard() if trust else _guard(read_manifest(directory))
    return TrtSession(load(directory, record, config), record, config, guard)


def _engine_of(directory: Path, variant: str, machine: Machine) -> str:
    found, reasons = find_plan(directory, read_manifest(directory), variant, machine)
    if found is not None:
        return found
    if reasons:
        raise MachineError(f"no engine of {variant} runs here: {'; '.join(reasons)}")
    raise InputError(
        f"{directory} holds no engine of {variant}; build one: "
        f"albert-deploy build {directory} --target local --variants {variant}"
    )


def _guard(manifest: Mapping[str, Any]) -> _Guard:
    known = manifest["source"].get("config", {})
    rows = {"input_ids": known.get("vocab_size"), "token_type_ids": known.get("type_vocab_size")}
    return _Guard(
        rows={name: int(size) for name, size in rows.items() if size},
        pad_id=int(known.get("pad_token_id") or 0),
    )
