"""ONNX Runtime with bound inputs and outputs: its logic on the processor, its refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from feeds import feeds
from models import SHALLOW

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines import ort_cuda
from albert_deploy.runtime.engines.ort import open_ort
from albert_deploy.runtime.engines.ort_cuda import PROVIDER, OrtCudaSession, open_ort_cuda
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.trt import gpu
from albert_deploy.runtime.trt.gpu import Gpu, Probe


@pytest.fixture(scope="module")
def file(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from albert_deploy.export.step import ExportConfig, export

    out = tmp_path_factory.mktemp("ort-cuda") / "deployment"
    task, family, sizes = SHALLOW["question-answering"]
    export(str(make_checkpoint(task, family, **sizes)), ExportConfig(), out=out)
    return out / VARIANTS["fp32"].file


@pytest.fixture
def session(file: Path) -> Iterator[OrtCudaSession]:
    """The very code that runs on a GPU, bound to the processor's memory instead."""
    inner = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with OrtCudaSession(inner, device="cpu") as opened:
        yield opened


def test_bound_runs_give_what_plain_ones_give(session: OrtCudaSession, file: Path) -> None:
    assert session.engine == "ort-cuda"
    with open_ort(file) as plain:
        assert session.outputs == plain.outputs == ("start_logits", "end_logits")
        for seed, length in enumerate((5, 9, 5, 1, 9)):
            given = feeds(length=length, seed=seed)
            got, wanted = session.run(given), plain.run(given)
            assert list(got) == list(wanted)
            for name, values in got.items():
                assert values.dtype == np.float32
                np.testing.assert_array_equal(values, wanted[name])


def test_device_memory_is_kept_for_a_few_shapes(session: OrtCudaSession) -> None:
    session.run(feeds(length=3))
    kept = session._inputs[2, 3]
    session.run(feeds(length=3, seed=1))
    assert session._inputs[2, 3] is kept
    for length in range(4, 4 + ort_cuda._MOST_SHAPES):
        session.run(feeds(length=length))
        session.run(feeds(length=4))
    assert len(session._inputs) == ort_cuda._MOST_SHAPES
    assert (2, 3) not in session._inputs
    assert (2, 4) in session._inputs


def test_outputs_outlive_the_next_run(session: OrtCudaSession) -> None:
    first = session.run(feeds(seed=1))["start_logits"]
    kept = first.copy()
    session.run(feeds(seed=2))
    np.testing.assert_array_equal(first, kept)


def test_inputs_are_left_as_they_are(session: OrtCudaSession) -> None:
    first, second = feeds(seed=1), feeds(seed=2)
    session.run(first)
    session.run(second)
    for name, value in feeds(seed=1).items():
        np.testing.assert_array_equal(first[name], value)


def test_rows_that_are_not_contiguous(session: OrtCudaSession, file: Path) -> None:
    given = {name: value[::2] for name, value in feeds(batch=4).items()}
    with open_ort(file) as plain:
        wanted = plain.run(given)["end_logits"]
    np.testing.assert_array_equal(session.run(given)["end_logits"], wanted)


def test_bad_feeds_and_a_closed_session(session: OrtCudaSession) -> None:
    with pytest.raises(InputError, match="wanted int64"):
        session.run({name: value.astype("int32") for name, value in feeds().items()})
    with pytest.raises(MachineError, match=r"failed on the GPU: .*smaller batches"):
        session.run({name: value + 1000 for name, value in feeds().items()})
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(feeds())


def test_threads_share_a_session(session: OrtCudaSession) -> None:
    rows = [feeds(length=3 + n % 4, seed=n) for n in range(8)]
    expected = [session.run(row)["start_logits"] for row in rows]
    wrong = []

    def work(index: int) -> None:
        for _ in range(5):
            got = session.run(rows[index])["start_logits"]
            if not np.array_equal(got, expected[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(rows))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_an_onnx_runtime_for_processors(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    if PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    remedy = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    with pytest.raises(MachineError, match=f"has no {PROVIDER}; run: {remedy}"):
        open_ort_cuda(file)
    # What the package says of itself would let it pass: ONNX Runtime goes on without a provider.
    monkeypatch.setattr(ort_cuda, "lacks", lambda: None)
    with pytest.warns(UserWarning, match=PROVIDER), pytest.raises(MachineError, match="not start"):
        open_ort_cuda(file)


def test_what_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(ort_cuda.importlib.util, "find_spec", lambda name: Spec())
    device = Gpu(index=0, name="NVIDIA L4", capability=(8, 9), total_bytes=1)
    monkeypatch.setattr(gpu, "probe", lambda: Probe(devices=(device,)))
    assert "has no CUDAExecutionProvider" in str(ort_cuda.lacks())
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_cuda.so").touch()
    assert ort_cuda.lacks() is None
    monkeypatch.setattr(gpu, "probe", lambda: Probe(why="no driver; install one"))
    assert ort_cuda.lacks() == "no driver; install one"
    monkeypatch.setattr(ort_cuda.importlib.util, "find_spec", lambda name: None)
    assert "has no CUDAExecutionProvider" in str(ort_cuda.lacks())


def test_what_cuda_is_asked_for(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """float32 products in float32: its default rounds them to TF32's 10 bits."""
    seen: dict[str, Any] = {}

    class Inner:
        def __init__(self, path: Path, *, sess_options: Any, providers: Any) -> None:
            seen.update(providers=providers)

        def get_providers(self) -> list[str]:
            return [PROVIDER]

        get_inputs = get_outputs = list

    monkeypatch.setattr(ort_cuda, "lacks", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Inner)
    open_ort_cuda(file, index=2).close()
    options = {"device_id": "2", "use_tf32": "0"}
    assert seen["providers"] == [(PROVIDER, options), "CPUExecutionProvider"]


def test_a_file_that_onnx_runtime_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    monkeypatch.setattr(ort_cuda, "lacks", lambda: None)
    with (
        pytest.raises(ContractError, match=r"cannot load .*model\.onnx on the GPU: \S"),
        pytest.warns(UserWarning, match=PROVIDER),
    ):
        open_ort_cuda(tmp_path / "model.onnx")
