"""Engines built on a GPU's machine and run there, beside ONNX Runtime's float32 on the CPU.

Each flavour of TensorRT that is installed builds for the GPU at hand; what it cannot do there is
a skip that says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.engines import ort_cuda
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.session import Session
from albert_deploy.runtime.trt.context import TrtConfig
from albert_deploy.runtime.trt.flavours import FLAVOURS, installed
from albert_deploy.runtime.trt.gpu import free_bytes, probe, require_gpu
from albert_deploy.runtime.trt.session import TrtSession, open_trt

pytestmark = pytest.mark.gpu
# Largest difference of a logit from float32 on the CPU, as a share of the largest logit.
LIMITS = {"fp32": 1e-4, "fp16": 1e-2}
SHAPES = [(1, 1), (1, 16), (3, 40), (8, 64), (5, 33)]
LARGEST = (8, 64)


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if why := probe().why:
        pytest.skip(f"needs a GPU: {why}")


def feeds(batch: int, length: int, *, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(0, 200, (batch, length))
    mask = np.ones_like(ids)
    mask[-1, length // 2 + 1 :] = 0
    return dict(zip(INPUT_NAMES, (ids, mask, np.zeros_like(ids)), strict=True))


@pytest.fixture(scope="module")
def directory(make_export: Callable[..., Path]) -> Path:
    from albert_deploy.quantize.step import QuantizeConfig, quantize

    out = make_export("question-answering", hidden_size=128, intermediate_size=512)
    quantize(out, QuantizeConfig(variants=("fp16",)))
    return out


@pytest.fixture(scope="module", params=sorted(FLAVOURS))
def engines(directory: Path, request: pytest.FixtureRequest) -> Path:
    """The directory with engines of one flavour, for the GPU at hand."""
    from albert_deploy.export.engine.step import BuildConfig, build
    from albert_deploy.runtime.trt.profiles import parse_profiles

    if not installed(request.param):
        pytest.skip(f"{FLAVOURS[request.param].label} is not installed")
    config = BuildConfig(
        targets=("local",),
        variants=tuple(LIMITS),
        flavour=request.param,
        profiles=parse_profiles("1x1:4x16:8x32,1x1:4x64:8x64", 2),
        force=True,
    )
    try:
        build(directory, config)
    except (MachineError, InputError) as error:
        pytest.skip(f"{FLAVOURS[request.param].label} builds nothing for this GPU: {error}")
    return directory


@pytest.fixture(scope="module")
def exact(directory: Path) -> Iterator[Session]:
    with open_session(directory, engine="ort") as session:
        yield session


def assert_close(got: dict[str, Any], wanted: dict[str, Any], limit: float) -> None:
    assert list(got) == list(wanted)
    for name, values in got.items():
        assert values.dtype == np.float32
        assert values.shape == wanted[name].shape
        assert np.abs(values - wanted[name]).max() <= limit * np.abs(wanted[name]).max(), name


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("variant", LIMITS)
def test_engines_answer_as_float32_does(
    engines: Path, exact: Session, variant: str, graphs: bool
) -> None:
    config = TrtConfig(cuda_graphs=graphs, timed=True)
    with open_trt(engines, variant, config) as session:
        for turn in range(3):
            for shape in SHAPES:
                given = feeds(*shape, seed=turn)
                assert_close(session.run(given), exact.run(given), LIMITS[variant])
                assert session.device_ms > 0


def test_batches_are_split_and_padded(engines: Path, exact: Session) -> None:
    with open_trt(engines, "fp32") as session, pytest.raises(InputError, match="policy 'split'"):
        session.run(feeds(20, 64))
    with open_trt(engines, "fp32", TrtConfig(policy="pad")) as session:
        given = feeds(20, 64)
        assert_close(session.run(given), exact.run(given), LIMITS["fp32"])


def test_threads_share_an_engine(engines: Path, exact: Session) -> None:
    rows = [feeds(1 + n % 8, 3 + 7 * n, seed=n) for n in range(8)]
    wanted = [exact.run(row) for row in rows]
    failures: list[BaseException] = []

    def work(session: TrtSession, index: int) -> None:
        try:
            for _ in range(20):
                assert_close(session.run(rows[index]), wanted[index], LIMITS["fp32"])
        except BaseException as error:
            failures.append(error)

    with open_trt(engines, "fp32") as session:
        workers = [threading.Thread(target=work, args=(session, i)) for i in range(len(rows))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert failures == []


def test_memory_comes_back(engines: Path) -> None:
    def once() -> int:
        with open_trt(engines, "fp32", TrtConfig(cuda_graphs=True)) as session:
            for _ in range(3):
                session.run(feeds(*LARGEST))
        return free_bytes() or 0

    once()
    before = once()
    for _ in range(5):
        after = once()
    assert after >= before - 8 * 2**20


def test_the_doctor_and_auto_agree(engines: Path) -> None:
    from albert_deploy.runtime.doctor import RUNS, doctor

    found = doctor(engines)
    running = {row.variant for row in found.rows if row.engine == "trt" and row.status == RUNS}
    assert running >= set(LIMITS)
    assert require_gpu().name in found.table()
    with open_session(engines, variant="fp16") as session:
        assert session.engine == "trt"


def test_onnx_runtime_on_the_gpu(directory: Path, exact: Session) -> None:
    if why := ort_cuda.lacks():
        pytest.skip(why)
    for variant, limit in LIMITS.items():
        with open_session(directory, variant=variant, engine="ort-cuda") as session:
            assert session.engine == "ort-cuda"
            for shape in SHAPES:
                given = feeds(*shape)
                assert_close(session.run(given), exact.run(given), limit)
