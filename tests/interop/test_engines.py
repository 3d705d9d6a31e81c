"""The ONNX files load in engines as they come, with none of our code between."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytestmark = pytest.mark.medium

Floats = npt.NDArray[np.float32]

# Not taken from the contract: these are the names that other tools look for.
FILES = {"fp32": "onnx/model.onnx", "fp16": "onnx/model_fp16.onnx", "int8": "onnx/model_int8.onnx"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MASKS = ("full", "right", "left", "holed", "alone", "empty")
LENGTH = 24
# Signal to noise ratio that every row must keep, in dB; the worst measured are 54 and 26.
MIN_SQNR_DB = {"fp16": 45.0, "int8": 20.0}
# Where OpenVINO chooses bfloat16; the worst measured is 36.
MIN_BFLOAT16_SQNR_DB = 25.0


def make_feeds(vocabulary: int = 2000) -> dict[str, npt.NDArray[np.int64]]:
    """One row per mask, all with the same tokens, so that only the masks tell rows apart."""
    random = np.random.default_rng(0)
    mask = np.ones((len(MASKS), LENGTH), np.int64)
    mask[MASKS.index("right"), 15:] = 0
    mask[MASKS.index("left"), :9] = 0
    mask[MASKS.index("holed"), 1::3] = 0
    mask[MASKS.index("alone"), 1:] = 0
    mask[MASKS.index("empty")] = 0
    ids = np.tile(random.integers(0, vocabulary, LENGTH), (len(MASKS), 1))
    types = np.tile((np.arange(LENGTH) >= LENGTH // 2).astype(np.int64), (len(MASKS), 1))
    return dict(zip(INPUTS, (ids, mask, types), strict=True))


@pytest.fixture(scope="module")
def expected(source: Path) -> Floats:
    """Logits [masks, labels] of the fp32 source in PyTorch, with transformers' own attention."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        source, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        feeds = {name: torch.from_numpy(value) for name, value in make_feeds().items()}
        logits: Floats = model(**feeds).logits.numpy()
    return logits


def sqnr_db(wanted: Floats, got: Floats) -> float:
    noise = float(np.square(wanted.astype(np.float64) - got).sum())
    return 10 * math.log10(float(np.square(wanted.astype(np.float64)).sum()) / max(noise, 1e-30))


def assert_close(variant: str, wanted: Floats, got: Floats) -> None:
    assert got.shape == wanted.shape
    assert got.dtype == np.float32
    assert np.isfinite(got).all(), dict(zip(MASKS, got.tolist(), strict=True))
    if variant == "fp32":
        error = np.abs(got - wanted).max(axis=1)
        scale = np.abs(wanted).max()
        assert error.max() <= 1e-4 * scale, dict(zip(MASKS, error.tolist(), strict=True))
        return
    # Row by row, or five good rows would hide a mask that is not honoured.
    ratios = {m: sqnr_db(w, g) for m, w, g in zip(MASKS, wanted, got, strict=True)}
    assert min(ratios.values()) >= MIN_SQNR_DB[variant], ratios


def test_every_mask_changes_the_answer(expected: Floats) -> None:
    """Otherwise the comparisons below could not see that an engine ignores the mask."""
    assert np.isfinite(expected).all()
    count = len(MASKS)
    closest = max(sqnr_db(expected[i], expected[j]) for i in range(count) for j in range(i))
    assert closest < min(*MIN_SQNR_DB.values(), MIN_BFLOAT16_SQNR_DB)


def open_ort(path: Path, *, optimize: bool = True) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("optimize", [True, False], ids=["default", "unoptimized"])
@pytest.mark.parametrize("variant", FILES)
def test_onnxruntime(variant: str, optimize: bool, directory: Path, expected: Floats) -> None:
    session = open_ort(directory / FILES[variant], optimize=optimize)
    described = [(i.name, i.type, i.shape) for i in session.get_inputs()]
    assert described == [(name, "tensor(int64)", ["batch", "sequence"]) for name in INPUTS]
    outputs = [(o.name, o.type, o.shape) for o in session.get_outputs()]
    assert outputs == [("logits", "tensor(float)", ["batch", 3])]
    assert_close(variant, expected, session.run(None, make_feeds())[0])


def open_openvino(path: Path, precision: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports is not ours to mend
        openvino = pytest.importorskip(
            "openvino", reason="OpenVINO is not installed: pip install 'albert-deploy[openvino]'"
        )
    core = openvino.Core()
    model = core.read_model(path)
    assert [port.get_any_name() for port in model.inputs] == list(INPUTS)
    assert [port.get_any_name() for port in model.outputs] == ["logits"]
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    return core.compile_model(model, "CPU", settings)


@pytest.mark.parametrize("variant", FILES)
def test_openvino(variant: str, directory: Path, expected: Floats) -> None:
    """In float32: on a CPU with AMX, OpenVINO by default computes float32 models in bfloat16."""
    compiled = open_openvino(directory / FILES[variant], "f32")
    assert_close(variant, expected, compiled(make_feeds())["logits"])


@pytest.mark.parametrize("variant", FILES)
def test_openvino_as_it_comes(variant: str, directory: Path, expected: Floats) -> None:
    """With no hint given, whatever precision it then chooses on this CPU."""
    compiled = open_openvino(directory / FILES[variant], None)
    got = compiled(make_feeds())["logits"]
    assert np.isfinite(got).all()
    limit = min(MIN_BFLOAT16_SQNR_DB, MIN_SQNR_DB.get(variant, math.inf))
    ratios = {m: sqnr_db(w, g) for m, w, g in zip(MASKS, expected, got, strict=True)}
    assert min(ratios.values()) >= limit, ratios


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_in_a_second_file(
    engine: str, directory: Path, expected: Floats, tmp_path: Path
) -> None:
    """As a model of more than 2 GiB is written: ``model.onnx`` beside ``model.onnx_data``."""
    from albert_deploy.export.graph.file import load, save

    path = tmp_path / "model.onnx"
    written = save(load(directory / FILES["fp32"]), path, external_bytes=0)
    assert {file.name for file in written} == {"model.onnx", "model.onnx_data"}
    if engine == "onnxruntime":
        got = open_ort(path).run(None, make_feeds())[0]
    else:
        got = open_openvino(path, "f32")(make_feeds())["logits"]
    assert_close("fp32", expected, got)
