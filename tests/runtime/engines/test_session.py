"""One protocol over every engine, and the choice between them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feeds import feeds

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines import ort_cuda
from albert_deploy.runtime.engines import table as engines
from albert_deploy.runtime.engines.ov import open_ov, precisions
from albert_deploy.runtime.engines.table import ENGINES, choose_engine, open_session
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest, write_manifest
from albert_deploy.runtime.session import Session
from albert_deploy.runtime.trt import gpu, plans
from albert_deploy.runtime.trt import machine as plan_machine

FP32 = VARIANTS["fp32"]


@pytest.fixture(scope="module")
def directory(make_export: Callable[..., Path]) -> Path:
    return make_export()


@pytest.fixture(params=sorted(FP32.engines))
def session(directory: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    with open_session(directory, threads=1, engine=request.param) as opened:
        assert opened.engine == request.param
        yield opened


def absent(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_engines_agree(directory: Path) -> None:
    with (
        open_session(directory, engine="ort") as ort,
        open_session(directory, engine="openvino") as ov,
    ):
        assert ov.outputs == ort.outputs == ("logits",)
        for length in (1, 7, 64):
            ours, theirs = ov.run(feeds(length=length)), ort.run(feeds(length=length))
            assert ours["logits"].dtype == np.float32
            np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=2e-5)


def test_padding_of_every_kind_gives_what_the_row_alone_gives(session: Session) -> None:
    alone = feeds(batch=1, length=5)
    expected = session.run(alone)["logits"]
    padded = feeds(batch=2, length=9)
    for name, values in alone.items():
        padded[name][0, :5] = values[0]
    padded["attention_mask"][0, 5:] = 0
    np.testing.assert_allclose(session.run(padded)["logits"][:1], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("token_type_ids"), "got inputs attention_mask, input_ids; wanted"),
        (lambda f: f.update(position_ids=f["input_ids"]), "position_ids"),
        (lambda f: f.update(input_ids=f["input_ids"][:1]), "wanted one common shape of rank 2"),
        (lambda f: f.update({n: v[0] for n, v in f.items()}), "of rank 2"),
        (lambda f: f.update(input_ids=f["input_ids"].astype("int32")), "wanted int64"),
    ],
)
def test_bad_feeds_are_refused_alike(
    session: Session, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    given = feeds()
    change(given)
    with pytest.raises(InputError, match=message):
        session.run(given)


def test_openvino_refuses_ids_outside_of_the_table(directory: Path) -> None:
    given = feeds()
    given["input_ids"][0, 0] = 200
    with (
        open_session(directory, engine="openvino") as ov,
        pytest.raises(InputError, match="has 200 rows"),
    ):
        ov.run(given)


def test_a_closed_session_says_so(session: Session) -> None:
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(feeds())


def test_outputs_outlive_the_next_run(session: Session) -> None:
    first = session.run(feeds(seed=1))["logits"]
    kept = first.copy()
    session.run(feeds(seed=2))
    np.testing.assert_array_equal(first, kept)


def test_threads_share_a_session(session: Session) -> None:
    rows = [feeds(length=n, seed=n) for n in range(2, 14)]
    expected = [session.run(row)["logits"] for row in rows]
    got: list[Any] = [None] * len(rows)

    def work(index: int) -> None:
        for _ in range(5):
            got[index] = session.run(rows[index])["logits"]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(rows))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_fp32_stays_float32_in_openvino(directory: Path) -> None:
    """Its own default is bf16 where the processor has it."""
    row = feeds(length=32)
    with open_session(directory, engine="ort") as ort:
        exact = ort.run(row)["logits"]
    differences = {}
    for precision in (None, "f32", "bf16"):
        with open_session(directory, engine="openvino", precision=precision) as ov:
            differences[precision] = np.abs(ov.run(row)["logits"] - exact).max()
    assert differences[None] == differences["f32"] < 1e-5
    if "bf16" in precisions():
        assert differences["bf16"] > 1e-4


def test_precision_is_checked(directory: Path) -> None:
    with pytest.raises(InputError, match="unknown precision 'fp8'; use one of: f32, bf16"):
        open_session(directory, engine="openvino", precision="fp8")
    with pytest.raises(InputError, match="use another engine"):
        open_session(directory, engine="ort", precision="bf16")


def test_a_file_that_openvino_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense" * 9)
    for name in ("model.onnx", "absent.onnx"):
        with pytest.raises(ContractError, match=rf"OpenVINO cannot load .*{name}: \S"):
            open_ov(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_an_engine_is_chosen() -> None:
    manifest: dict[str, Any] = {"files": {}}
    assert choose_engine(manifest, "fp32") == "ort"
    assert choose_engine(manifest, "int8-qdq") == "openvino"
    assert choose_engine(manifest, "int8-qdq", "ort") == "ort"


def test_what_was_tuned_is_taken_for_the_same_bytes_alone() -> None:
    tuned = {"fp32": {"engine": "openvino", "sha256": "one"}}
    manifest = {"files": {FP32.file: {"sha256": "one"}}, "tuned": tuned}
    assert choose_engine(manifest, "fp32") == "openvino"
    assert choose_engine(manifest, "fp32", "ort") == "ort"
    assert choose_engine(manifest | {"files": {FP32.file: {"sha256": "two"}}}, "fp32") == "ort"
    tuned["fp32"]["engine"] = "an engine that was here once"
    assert choose_engine(manifest, "fp32") == "ort"


def test_open_session_takes_what_was_tuned(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "probe", gpu.Probe)
    manifest = read_manifest(directory)
    record = {"engine": "openvino", "sha256": manifest["files"][FP32.file]["sha256"]}
    write_manifest(directory, manifest | {"tuned": {"fp32": record}})
    try:
        with open_session(directory) as opened:
            assert opened.engine == "openvino"
    finally:
        write_manifest(directory, manifest)


def test_engines_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest: dict[str, Any] = {"files": {}, "tuned": {}}
    with pytest.raises(InputError, match="'tvm'; use one of: auto, ort, openvino"):
        choose_engine(manifest, "fp32", "tvm")
    with pytest.raises(InputError, match="openvino does not run fp8-qdq; use auto or one of: ort"):
        choose_engine(manifest, "fp8-qdq", "openvino")
    absent(monkeypatch, "onnxruntime")
    assert choose_engine(manifest, "fp32") == "openvino"
    with pytest.raises(MachineError, match=r"ort is not installed; run: pip install .*\[cpu\]"):
        choose_engine(manifest, "fp32", "ort")
    absent(monkeypatch, "openvino")
    with pytest.raises(MachineError, match=r"\[cpu\]' or pip install .*\[openvino\]"):
        choose_engine(manifest, "fp32")
    with pytest.raises(MachineError, match=r"pip install 'albert-deploy\[openvino\]'"):
        open_ov(Path("model.onnx"))


def test_every_variant_names_engines_that_exist() -> None:
    for name, variant in VARIANTS.items():
        assert variant.engines, name
        assert set(variant.engines) <= set(ENGINES)
        assert set(variant.gpu_engines) <= set(ENGINES)
        assert not set(variant.engines) & set(variant.gpu_engines)


L4 = gpu.Gpu(index=0, name="NVIDIA L4", capability=(8, 9), total_bytes=24 * 2**30)


def test_a_machine_without_a_gpu_runs_on_its_processor(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "probe", lambda: gpu.Probe(why="none is here"))
    manifest = read_manifest(directory)
    assert choose_engine(manifest, "fp32", directory=directory) == "ort"
    for engine in ("trt", "ort-cuda"):
        with pytest.raises(MachineError, match=f"^{engine} cannot run here: "):
            choose_engine(manifest, "fp32", engine)
        with pytest.raises(InputError, match=f"{engine} does not run int8; use auto or one of"):
            choose_engine(manifest, "int8", engine)


def test_a_gpu_is_used_where_there_is_one(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(directory)
    plan: str | None = None
    monkeypatch.setattr(gpu, "probe", lambda: gpu.Probe(devices=(L4,)))
    monkeypatch.setattr(gpu, "free_bytes", lambda index: 2**30)
    monkeypatch.setattr(plan_machine, "installed_flavours", lambda: {"tensorrt": "11.4.0"})
    monkeypatch.setattr(plans, "find_plan", lambda *_: (plan, []))
    monkeypatch.setattr(ort_cuda, "lacks", lambda: "it has no provider for it")
    # No plan of this variant, and an ONNX Runtime for processors alone.
    assert choose_engine(manifest, "fp32", directory=directory) == "ort"
    monkeypatch.setattr(ort_cuda, "lacks", lambda: None)
    assert choose_engine(manifest, "fp32", directory=directory) == "ort-cuda"
    plan = "sm89-fp32"
    assert choose_engine(manifest, "fp32", directory=directory) == "trt"
    # What reads the ONNX file itself must not depend on the machine.
    assert choose_engine(manifest, "fp32") == "ort"
    assert choose_engine(manifest, "int8", directory=directory) == "ort"


def test_trt_takes_plans_alone() -> None:
    with pytest.raises(InputError, match=r"trt runs plans, got model\.onnx; build one of it"):
        engines.open_file(Path("model.onnx"), "fp32", "trt")
    with pytest.raises(InputError, match="a plan has its precision, it cannot run bf16"):
        engines.open_file(Path("sm89-fp32.plan"), "fp32", "trt", precision="bf16")


def test_sessions_import_no_engine_before_one_is_opened() -> None:
    heavy = "onnxruntime openvino torch transformers"
    code = (
        "import sys; from albert_deploy.runtime.engines.table import choose_engine; "
        "choose_engine({'files': {}}, 'fp32'); "
        f"found = set('{heavy}'.split()) & set(sys.modules); assert not found, found"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_openvino_session_imports_neither_torch_nor_transformers(directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from albert_deploy.runtime.engines.table import *; "
        f"open_session(Path({str(directory)!r}), engine='openvino').close(); "
        "found = {'torch', 'transformers'} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
