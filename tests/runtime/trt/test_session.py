"""Sessions over TensorRT, with a fake engine and a fake CUDA: what is copied, kept and freed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_engine
import numpy as np
import pytest
from fake_cuda import FakeCuda, cudaError_t
from fake_engine import FakeTrt

from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.engines.table import open_file, open_session
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import file_record, write_json
from albert_deploy.runtime.trt import gpu
from albert_deploy.runtime.trt import load as trt_load
from albert_deploy.runtime.trt import log as trt_log
from albert_deploy.runtime.trt import machine as plan_machine
from albert_deploy.runtime.trt.context import TrtConfig
from albert_deploy.runtime.trt.flavours import Flavour
from albert_deploy.runtime.trt.session import MOST_GRAPHS, TrtSession, open_trt

SMALL = [[1, 1], [4, 8], [4, 16]]
LARGE = [[2, 4], [8, 32], [8, 64]]
TEXT = {
    "axes": ["batch", "sequence"],
    "outputs": {"start_logits": ["batch", "sequence"], "pooled": ["batch", 3]},
}
CHOICE = {"axes": ["batch", "choices", "sequence"], "outputs": {"logits": ["batch", "choices"]}}
FLAVOURS = ("10", "11", "rtx")


def feeds(*shape: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(0, 50, shape)
    mask = np.ones_like(ids)
    mask[..., shape[-1] // 2 + 1 :] = 0
    return dict(zip(INPUT_NAMES, (ids, mask, np.zeros_like(ids)), strict=True))


def expected(given: dict[str, Any]) -> dict[str, Any]:
    """What ``fake_engine`` computes for ``TEXT``."""
    total = (given["input_ids"] * given["attention_mask"]).sum(-1, keepdims=True)
    length = given["input_ids"].shape[-1]
    return {"start_logits": total + np.arange(length), "pooled": total + np.arange(3)}


def assert_right(got: dict[str, Any], given: dict[str, Any]) -> None:
    wanted = expected(given)
    assert list(got) == list(wanted)
    for name, values in got.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, wanted[name])


class World:
    """A machine with one fake GPU, and a deployment directory with one fake plan."""

    def __init__(self, folder: Path, flavour: str) -> None:
        self.directory = folder
        self.cuda = FakeCuda()
        self.module = FakeTrt(flavour, self.cuda)
        name = "tensorrt_rtx" if flavour == "rtx" else "tensorrt"
        self.flavour = Flavour(
            name=name,
            version=self.module.__version__,
            module=self.module,
            ahead_of_time=flavour == "rtx",
        )
        self.manifest: dict[str, Any] = {
            "format": 1,
            "task": "question-answering",
            "source": {"config": {"vocab_size": 50, "type_vocab_size": 2, "pad_token_id": 7}},
            "variants": {"fp32": {"file": "onnx/model.onnx"}},
            "files": {},
            "engines": {},
        } | {key: {} for key in ("contract", "parameter_bytes", "versions", "steps")}

    def put(
        self,
        graph: dict[str, Any] = TEXT,
        profiles: tuple[Any, ...] = (SMALL, LARGE),
        *,
        plan: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        """Write the ONNX file, the plan and its record, and enter them in the manifest."""
        onnx = self.directory / "onnx/model.onnx"
        onnx.parent.mkdir(exist_ok=True)
        onnx.write_bytes(b"onnx")
        engines = self.directory / "engines"
        engines.mkdir(exist_ok=True)
        whole = graph | {"inputs": INPUT_NAMES, "profiles": profiles} | (plan or {})
        data = json.dumps(whole).encode()
        (engines / "sm89-fp32.plan").write_bytes(data)
        axes = graph["axes"]
        record = {
            "format": 1,
            "plan": "engines/sm89-fp32.plan",
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "task": "question-answering",
            "variant": "fp32",
            "onnx": {"file": "onnx/model.onnx", "sha256": file_record(onnx)["sha256"]},
            "target": "sm89",
            "capability": [8, 9],
            "flavour": self.flavour.name,
            "version": self.flavour.version,
            "inputs": [{"name": n, "dtype": "int64", "axes": axes} for n in INPUT_NAMES],
            "outputs": [
                {"name": n, "dtype": "float32", "axes": a} for n, a in graph["outputs"].items()
            ],
            "profiles": [dict(zip(("min", "opt", "max"), p, strict=True)) for p in profiles],
            "settings": {},
            "weights_bytes": 1000,
            "scratch_bytes": 1000,
        } | changes
        write_json(engines / "sm89-fp32.json", record)
        names = ("onnx/model.onnx", "engines/sm89-fp32.plan", "engines/sm89-fp32.json")
        self.manifest["files"] = {n: file_record(self.directory / n) for n in names}
        self.manifest["engines"] = {"sm89-fp32": {"variant": "fp32"}}
        write_json(self.directory / "manifest.json", self.manifest)

    def open(self, **config: Any) -> TrtSession:
        return open_trt(self.directory, "sm89-fp32", TrtConfig(**config))

    @property
    def engine(self) -> Any:
        return self.module.engines[-1]


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """A function that makes a ``World``; in the end nothing of CUDA may be left over."""
    worlds = []

    def make(flavour: str = "11") -> World:
        world = World(tmp_path, flavour)
        worlds.append(world)
        device = gpu.Gpu(index=0, name="NVIDIA L4", capability=(8, 9), total_bytes=24 * 2**30)
        found = gpu.Probe(devices=(device,), driver="580.65.06", cuda=(13, 0))
        monkeypatch.setattr(gpu, "probe", lambda: found)
        monkeypatch.setattr(gpu, "free_bytes", lambda index: world.cuda.free)
        versions = {world.flavour.name: world.flavour.version}
        monkeypatch.setattr(plan_machine, "installed_flavours", lambda: versions)
        monkeypatch.setattr(trt_load, "load_flavour", lambda name: world.flavour)
        monkeypatch.setattr(trt_load, "load_cuda", lambda: world.cuda)
        monkeypatch.setattr(trt_log, "_LOGGERS", {})
        return world

    yield make
    for world in worlds:
        cuda = world.cuda
        left = (cuda.memory, cuda.streams, cuda.graphs, cuda.events)
        assert not any(left), left


@pytest.fixture(params=FLAVOURS)
def world(make_world: Callable[..., World], request: pytest.FixtureRequest) -> World:
    return make_world(request.param)


@pytest.mark.parametrize("graphs", [False, True])
def test_outputs_by_name_whatever_the_shape(world: World, graphs: bool) -> None:
    world.put()
    with world.open(cuda_graphs=graphs) as session:
        assert session.engine == "trt"
        assert session.outputs == ("start_logits", "pooled")
        for _ in range(4):
            for shape in ((1, 1), (3, 9), (4, 16), (8, 64), (2, 30)):
                given = feeds(*shape, seed=sum(shape))
                assert_right(session.run(given), given)


def test_choices_have_a_third_axis(world: World) -> None:
    world.put(CHOICE, ([[1, 1, 1], [2, 4, 8], [4, 4, 16]],))
    with world.open() as session:
        given = feeds(3, 2, 8)
        total = (given["input_ids"] * given["attention_mask"]).sum(-1)
        np.testing.assert_array_equal(session.run(given)["logits"], total + np.arange(2))


def test_outputs_outlive_the_next_run(world: World) -> None:
    world.put()
    with world.open() as session:
        first = session.run(feeds(2, 8, seed=1))["pooled"]
        kept = first.copy()
        session.run(feeds(2, 8, seed=2))
        np.testing.assert_array_equal(first, kept)


def test_each_profile_has_one_context_made_when_it_is_needed(world: World) -> None:
    world.put()
    with world.open() as session:
        session.run(feeds(2, 8))
        assert len(world.engine.contexts) == 1
        session.run(feeds(4, 16))
        assert len(world.engine.contexts) == 1
        session.run(feeds(8, 64))
        session.run(feeds(2, 8))
        assert len(world.engine.contexts) == 2
        assert [c.enqueued for c in world.engine.contexts] == [3, 1]
        # A stream each, and work in the same memory.
        assert len(world.cuda.streams) == 2


def test_memory_is_reused_and_grows_by_doubling(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.put(profiles=([[1, 1], [1, 1], [64, 512]],))
    with world.open() as session:
        for length in range(1, 513):
            session.run(feeds(4, length))
        grown = world.cuda.calls.count("cudaMallocHost")
        # Inputs of up to 48 KiB in blocks of 16, 32 and 64, outputs below 16.
        assert grown == 3 + 1
        for length in range(1, 513):
            session.run(feeds(4, length))
        assert world.cuda.calls.count("cudaMallocHost") == grown
        assert world.cuda.calls.count("cudaMalloc") == grown + 1  # Scratch has no host memory.


def test_a_run_copies_once_in_each_direction(world: World) -> None:
    world.put()
    with world.open() as session:
        session.run(feeds(2, 8))
        before = list(world.cuda.calls)
        session.run(feeds(2, 8))
        assert world.cuda.calls[len(before) :] == [
            "cudaSetDevice",
            "cudaMemcpyAsync",
            "cudaMemcpyAsync",
            "cudaStreamSynchronize",
        ]


def test_a_graph_is_captured_in_the_second_run_of_a_shape(make_world: Callable[..., World]) -> None:
    world = make_world("11")
    world.put()
    with world.open(cuda_graphs=True) as session:
        for runs, graphs in ((1, 0), (2, 1), (3, 1), (4, 1)):
            given = feeds(2, 8, seed=runs)
            assert_right(session.run(given), given)
            assert session.graphs == graphs
        assert world.cuda.calls.count("cudaGraphLaunch") == 3
        # Once for itself and once for the capture.
        assert [c.enqueued for c in world.engine.contexts] == [2]


def test_graphs_are_bounded(make_world: Callable[..., World]) -> None:
    world = make_world("10")
    world.put()
    with world.open(cuda_graphs=True) as session:
        for length in range(1, MOST_GRAPHS + 4):
            for seed in range(3):
                given = feeds(2, length, seed=seed)
                assert_right(session.run(given), given)
            assert session.graphs == min(length, MOST_GRAPHS)
        # The latest is still there, the first is not.
        launched = world.cuda.calls.count("cudaGraphInstantiate")
        session.run(feeds(2, MOST_GRAPHS + 3))
        assert world.cuda.calls.count("cudaGraphInstantiate") == launched
        for _ in range(2):
            session.run(feeds(2, 1))
        assert world.cuda.calls.count("cudaGraphInstantiate") == launched + 1


@pytest.mark.parametrize("step", ["cudaStreamEndCapture", "cudaGraphInstantiate", "enqueue"])
def test_what_cannot_be_captured_runs_all_the_same(
    make_world: Callable[..., World], step: str
) -> None:
    world = make_world("11")
    world.put()
    with world.open(cuda_graphs=True) as session:
        session.run(feeds(2, 8))
        world.engine.uncapturable = step == "enqueue"
        world.cuda.fails[step] = cudaError_t.cudaErrorStreamCaptureUnsupported
        for seed in range(3):
            given = feeds(2, 8, seed=seed)
            assert_right(session.run(given), given)
        assert session.graphs == 0
        assert world.cuda.calls.count("cudaStreamBeginCapture") == 1


def test_rtx_captures_by_itself(make_world: Callable[..., World]) -> None:
    world = make_world("rtx")
    world.put()
    with world.open(cuda_graphs=True, eager_kernels=True) as session:
        for _ in range(3):
            session.run(feeds(2, 8))
            session.run(feeds(3, 8))
        config = world.engine.config
        assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
        assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
        assert "cudaStreamBeginCapture" not in world.cuda.calls
        assert len(world.engine.contexts) == 1


def test_rtx_keeps_kernels_in_the_folder_that_it_is_given(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world("rtx")
    world.put()
    folder = tmp_path / "cache"
    with world.open() as session:
        session.run(feeds(2, 8))
    assert not folder.exists()
    world.open(cache=folder).close()
    (file,) = folder.iterdir()
    assert file.read_bytes() == b"kernels of this machine"
    file.write_bytes(b"kernels from before")
    session = world.open(cache=folder)
    assert world.engine.config.cache.kernels == b"kernels from before"
    session.close()
    file.write_bytes(b"of another version")
    session = world.open(cache=folder)
    assert world.engine.config.cache.kernels == b""
    session.close()
    assert file.read_bytes() == b"kernels of this machine"


def test_shapes_outside_of_each_profile(world: World) -> None:
    world.put()
    with world.open() as session, pytest.raises(InputError, match="1x1 to 4x16, 2x4 to 8x64"):
        session.run(feeds(20, 64))
    with world.open(policy="split") as session:
        given = feeds(21, 40, seed=3)
        with pytest.raises(InputError, match="use the policy 'pad'"):
            session.run(feeds(1, 40))
        assert_right(session.run(given | {}), given)
    with world.open(policy="pad") as session:
        given = feeds(1, 40, seed=4)
        assert_right(session.run(given), given)
    with pytest.raises(InputError, match="unknown policy 'guess'; use one of: error, split, pad"):
        TrtConfig(policy="guess")


def test_padding_has_the_models_own_token(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    world.put(profiles=([[1, 16], [1, 16], [1, 16]],))
    seen = []
    real = fake_engine.Context.execute_async_v3

    def watched(self: Any, stream_handle: int) -> bool:
        address = self._addresses["input_ids"]
        seen.append(fake_engine._array(address, (1, 16), np.int64).copy())
        return real(self, stream_handle)

    monkeypatch.setattr(fake_engine.Context, "execute_async_v3", watched)
    with world.open(policy="pad") as session:
        session.run(feeds(1, 10))
    assert seen[0][0, 10:].tolist() == [7] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("token_type_ids"), "got inputs attention_mask, input_ids; wanted"),
        (lambda f: f.update(input_ids=f["input_ids"].astype("int32")), "wanted int64"),
        (lambda f: f.update({n: v[0] for n, v in f.items()}), "of rank 2"),
        (lambda f: f["input_ids"].fill(50), "input_ids has values from 50 to 50; its table has 50"),
        (lambda f: f["input_ids"].fill(-1), "input_ids has values from -1 to -1"),
        (lambda f: f["token_type_ids"].fill(2), "its table has 2 rows: use the tokenizer of this"),
    ],
)
def test_bad_feeds_never_reach_the_gpu(
    make_world: Callable[..., World], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    world = make_world()
    world.put()
    given = feeds(2, 8)
    change(given)
    with world.open() as session:
        before = len(world.cuda.calls)
        with pytest.raises(InputError, match=message):
            session.run(given)
        assert len(world.cuda.calls) == before


@pytest.mark.parametrize("graphs", [False, True])
def test_threads_share_a_session(make_world: Callable[..., World], graphs: bool) -> None:
    world = make_world("11")
    world.put()
    failures = []
    with world.open(cuda_graphs=graphs) as session:

        def work(index: int) -> None:
            given = feeds(2 + index % 3, 4 + index, seed=index)
            try:
                for _ in range(10):
                    assert_right(session.run(given), given)
            except Exception as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert failures == []


def test_a_closed_session_says_so_and_closes_twice(world: World) -> None:
    world.put()
    session = world.open()
    session.run(feeds(2, 8))
    session.close()
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(feeds(2, 8))


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (
            "cudaMallocHost",
            cudaError_t.cudaErrorMemoryAllocation,
            r"CUDA failed in cudaMallocHost: cudaErrorMemoryAllocation \(error 2\); close other",
        ),
        (
            "cudaMalloc",
            cudaError_t.cudaErrorMemoryAllocation,
            "CUDA failed in cudaMalloc: .*take a GPU with more memory",
        ),
        (
            "cudaStreamSynchronize",
            cudaError_t.cudaErrorIllegalAddress,
            r"cudaStreamSynchronize: cudaErrorIllegalAddress \(error 700\); open the session again",
        ),
        ("cudaStreamCreateWithFlags", cudaError_t.cudaErrorIllegalAddress, "StreamCreate"),
        ("cudaMemcpyAsync", cudaError_t.cudaErrorIllegalAddress, "cudaMemcpyAsync"),
    ],
)
def test_errors_of_cuda(world: World, step: str, error: cudaError_t, message: str) -> None:
    world.put()
    with world.open() as session:
        world.cuda.fails[step] = error
        with pytest.raises(MachineError, match=message):
            session.run(feeds(2, 8))
        world.cuda.fails.clear()
        given = feeds(2, 8)
        assert_right(session.run(given), given)


def test_errors_of_tensorrt_come_with_its_log(world: World) -> None:
    world.put()
    with world.open() as session:
        session.run(feeds(2, 8))
        world.engine.failing = True
        with pytest.raises(MachineError, match="TensorRT failed to run: out of luck"):
            session.run(feeds(2, 8))


def test_time_on_the_gpu(world: World) -> None:
    world.put()
    with world.open() as session:
        session.run(feeds(2, 8))
        assert session.device_ms == 0
    with world.open(timed=True, policy="split") as session:
        session.run(feeds(2, 8))
        once = session.device_ms
        assert once > 0
        session.run(feeds(16, 16))
        assert session.device_ms > once


def test_a_plan_that_tensorrt_refuses(world: World) -> None:
    world.put()
    path = world.directory / "engines/sm89-fp32.plan"
    path.write_bytes(b"nonsense")
    record = json.loads(path.with_suffix(".json").read_text())
    write_json(path.with_suffix(".json"), record | file_record(path))
    with pytest.raises(ContractError, match=r"refuses .*plan: magic tag does not match"):
        open_trt(world.directory, "sm89-fp32", trust=True)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"outputs": {"logits": ["batch", 3]}}, "has the tensors .* its record says"),
        ({"profiles": [SMALL]}, "takes the shapes .* its record says"),
    ],
)
def test_a_plan_that_is_not_what_its_record_says(
    world: World, plan: dict[str, Any], message: str
) -> None:
    world.put(plan=plan)
    with pytest.raises(ContractError, match=message):
        world.open()


def test_what_rtx_says_of_a_plan_before_it_is_loaded(make_world: Callable[..., World]) -> None:
    world = make_world("rtx")
    world.put()
    world.module.validity = (fake_engine.EngineValidity.INVALID, 3)
    with pytest.raises(MachineError, match="not run here: version mismatch, unsupported cc; build"):
        world.open()
    assert world.module.engines == []
    world.module.validity = (fake_engine.EngineValidity.SUBOPTIMAL, 0)
    world.open().close()


def test_version_compatible_plans_may_bring_their_runtime(world: World) -> None:
    world.put(version_compatible=True)
    world.open().close()
    allowed = world.flavour.name == "tensorrt"
    assert world.module.runtimes[-1].engine_host_code_allowed is allowed
    world.put()
    world.open().close()
    assert world.module.runtimes[-1].engine_host_code_allowed is False


def test_stripped_plans_take_the_weights_of_their_file(world: World) -> None:
    world.put(stripped=True)
    world.open().close()
    assert world.engine.refitted
    onnx = world.directory / "onnx/model.onnx"
    onnx.unlink()
    with pytest.raises(ContractError, match=r"has no weights of its own, and .*model\.onnx is not"):
        world.open()
    world.put()
    world.open().close()
    assert not world.engine.refitted


def test_weights_that_stream(world: World) -> None:
    world.put(settings={"weight_streaming": True})
    world.open().close()
    assert world.engine.weight_streaming_budget_v2 == 12345


def test_an_engine_is_found_by_its_variant(world: World) -> None:
    world.put()
    open_trt(world.directory, "fp32").close()
    with pytest.raises(InputError, match="holds no engine of fp16; build one: albert-deploy build"):
        open_trt(world.directory, "fp16")
    world.put(capability=[12, 0])
    with pytest.raises(MachineError, match=r"no engine of fp32 runs here: sm89-fp32: .* 12\.0"):
        open_trt(world.directory, "fp32")
    assert len(world.module.engines) == 1


def test_sessions_over_a_plan_pad_and_split(world: World) -> None:
    world.put()
    plan = world.directory / "engines/sm89-fp32.plan"
    for opened in (
        open_session(world.directory, engine="trt"),
        open_session(world.directory),
        open_file(plan, "fp32", "trt"),
    ):
        with opened as session:
            assert session.engine == "trt"
            for shape in ((1, 40), (21, 40)):
                given = feeds(*shape)
                assert_right(session.run(given), given)


def test_a_plan_that_changes_while_it_is_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put()
    real = trt_load.load_flavour
    record = open_trt(world.directory, "sm89-fp32")
    record.close()
    monkeypatch.setattr(trt_load, "load_flavour", real)
    changed = replace(record.record, sha256="0" * 64)
    with pytest.raises(ContractError, match="was changed while it was opened"):
        trt_load.load(world.directory, changed, TrtConfig())


def _members(kind: type) -> set[str]:
    return {n for n in (*vars(kind), *_fields(kind)) if not n.startswith("_")} - _OURS


def _fields(kind: type) -> list[str]:
    import inspect
    import re

    return re.findall(r"self\.(\w+)(?::[^=]+)? =", inspect.getsource(kind))


_OURS = {
    "alignment", "axes", "cache", "config", "config_class", "contexts", "cuda", "engine",
    "enqueued", "failing", "inputs", "kernels", "log", "modes", "outputs", "refitted",
    "strategy", "uncapturable",
}  # fmt: skip


def test_the_fake_has_only_what_tensorrt_has() -> None:
    real: Any = pytest.importorskip("tensorrt_rtx")
    pairs = {
        fake_engine.Context: real.IExecutionContext,
        fake_engine.Engine: real.ICudaEngine,
        fake_engine.Engine11: real.ICudaEngine,
        fake_engine.RtxRuntimeConfig: real.IRuntimeConfig,
        fake_engine.RuntimeConfig: real.IRuntimeConfig,
        fake_engine.RuntimeCache: real.IRuntimeCache,
        fake_engine.Refitter: real.Refitter,
        fake_engine.OnnxParserRefitter: real.OnnxParserRefitter,
        fake_engine.Runtime: real.Runtime,
        fake_engine.RtxRuntime: real.Runtime,
    }
    for fake, kind in pairs.items():
        members = _members(fake)
        assert members, fake
        assert {name for name in members if not hasattr(kind, name)} == set(), fake
    module = FakeTrt("rtx", FakeCuda())
    ours = {"engine_class", "cuda", "logger", "runtimes", "engines", "validity"}
    assert {name for name in vars(module) if not hasattr(real, name)} == ours
    for name in ("DataType", "TensorIOMode", "ExecutionContextAllocationStrategy",
                 "CudaGraphStrategy", "EngineValidity", "EngineInvalidityDiagnostics"):  # fmt: skip
        known = set(getattr(real, name).__members__)
        assert set(getattr(module, name).__members__) <= known, name


# Names and parameters in the bindings of TensorRT 11.4, read out of their binary.
TENSORRT_11 = {
    "create_execution_context": "(strategy | runtime_config)",
    "create_runtime_config": "()",
    "set_execution_context_allocation_strategy": "(strategy)",
    "set_device_memory": "(memory, size)",
    "set_optimization_profile_async": "(profile_index, stream_handle)",
    "set_input_shape": "(name, shape)",
    "infer_shapes": "()",
    "get_tensor_shape": "(name)",
    "set_tensor_address": "(name, memory)",
    "execute_async_v3": "(stream_handle)",
    "get_tensor_name": "(index)",
    "get_tensor_mode": "(name)",
    "get_tensor_dtype": "(name)",
    "get_tensor_profile_shape": "(name, profile_index)",
    "get_weight_streaming_automatic_budget": "()",
    "deserialize_cuda_engine": "(serialized_engine)",
    "refit_cuda_engine": "()",
    "refit_from_file": "(model)",
}


def test_the_fake_takes_what_tensorrt_11_takes() -> None:
    import inspect

    kinds = (
        fake_engine.Context,
        fake_engine.Engine,
        fake_engine.Engine11,
        fake_engine.RuntimeConfig,
        fake_engine.Refitter,
        fake_engine.OnnxParserRefitter,
        fake_engine.Runtime,
    )
    seen: dict[str, set[str]] = {}
    for kind in kinds:
        for name, method in vars(kind).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                parameters = [p for p in inspect.signature(method).parameters if p != "self"]
                seen.setdefault(name, set()).add(", ".join(parameters))
    assert {n: f"({' | '.join(sorted(s, reverse=True))})" for n, s in seen.items()} == TENSORRT_11
