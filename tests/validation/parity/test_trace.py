"""The error trace against sessions opened by hand, in every engine, and what it refuses."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from feeds import rows_of

from albert_deploy.export.graph.edit import add_initializer, named_node
from albert_deploy.export.graph.file import load, save
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.ort import open_ort
from albert_deploy.runtime.engines.ov import open_ov
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import file_record, read_manifest
from albert_deploy.validation.parity.difference import Difference
from albert_deploy.validation.parity.trace import hidden_states, trace

ROWS = rows_of(5, 6, 7)
NORM = "group_0/layer_0/full_layer_layer_norm/LayerNormalization"
MADE = ("fp16", "bf16", "int8")


@pytest.fixture(scope="module")
def make(make_export: Callable[..., Path]) -> Callable[..., Path]:
    def directory(task: str = "text-classification", family: str = "albert", **sizes: Any) -> Path:
        out = make_export(task, family, **sizes)
        quantize(out, QuantizeConfig(variants=MADE))
        return out

    return directory


@pytest.fixture(scope="module")
def classifier(make: Callable[..., Path]) -> Path:
    return make()


@pytest.fixture
def copied(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "copy"))


def _traced(directory: Path, *variants: str) -> dict[str, list[dict[str, Any]]]:
    return trace(directory, read_manifest(directory), variants, ROWS)


def _replace(directory: Path, variant: str, model: ir.Model) -> dict[str, Any]:
    """Put a graph in a variant's place; return a manifest that accepts it."""
    file = VARIANTS[variant].file
    save(model, directory / file)
    manifest = read_manifest(directory)
    manifest["files"][file] = file_record(directory / file)
    return manifest


def _states(path: Path, names: list[str]) -> list[list[np.ndarray[Any, np.dtype[np.float32]]]]:
    """Run a file in ONNX Runtime with inner float32 values as its outputs; [rows][values]."""
    model = load(path)
    values = {v.name: v for node in model.graph for v in node.outputs}
    model.graph.outputs[:] = [values[name] for name in names]
    save(model, path.with_name("inner.onnx"))
    session = onnxruntime.InferenceSession(path.with_name("inner.onnx"))
    return [session.run(None, row) for row in ROWS]


def test_figures_are_those_of_runs_by_hand(copied: Path) -> None:
    norms = [f"encoder/iteration_{i:02d}/{NORM}/output_0" for i in range(3)]
    names = ["encoder/embedding_hidden_mapping_in/Add/output_0", *norms, "logits"]
    ours, theirs = (_states(copied / VARIANTS[v].file, names) for v in ("fp32", "int8"))
    found = _traced(copied, "int8")["int8"]
    assert [entry["after"] for entry in found] == [
        "encoder input",
        "encoder iteration 0",
        "encoder iteration 1",
        "encoder iteration 2",
        "output logits",
    ]
    for index, entry in enumerate(found):
        # The last iteration of int8 has the first token alone.
        pairs = [
            (a[index][:, : b[index].shape[1]], b[index]) for a, b in zip(ours, theirs, strict=True)
        ]
        signal = sum(float((a**2).sum()) for a, _ in pairs)
        noise = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
        assert entry["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=0.05)
        assert entry["finite"]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("task", "family", "sizes"),
    [
        ("text-classification", "albert", {}),
        ("text-classification", "bert", {}),
        ("question-answering", "albert", {"num_hidden_layers": 2, "inner_group_num": 2}),
        ("feature-extraction", "albert", {}),
    ],
)
def test_every_variant_in_its_engine(
    task: str, family: str, sizes: dict[str, int], make: Callable[..., Path]
) -> None:
    pytest.importorskip("openvino")
    directory = make(task, family, **sizes)
    found = _traced(directory, *MADE)
    iterations = sizes.get("num_hidden_layers", 3)
    outputs = [o["name"] for o in read_manifest(directory)["contract"]["outputs"]]
    for variant, (least, most) in {"fp16": (55, 95), "bf16": (30, 70), "int8": (15, 60)}.items():
        assert [entry["after"] for entry in found[variant]] == [
            "encoder input",
            *(f"encoder iteration {i}" for i in range(iterations)),
            *(f"output {name}" for name in outputs),
        ]
        hidden = found[variant][: iterations + 1]
        assert all(least < entry["sqnr_db"] < most for entry in hidden), (variant, hidden)
        assert all(least < entry["first_token_sqnr_db"] < most for entry in hidden)
        assert all(entry["first_token_sqnr_db"] is None for entry in found[variant][len(hidden) :])
        assert all(entry["tokens"] == "all" for entry in hidden[:-1])


def test_a_file_compared_with_its_equal_is_exact(copied: Path) -> None:
    manifest = _replace(copied, "int8", load(copied / VARIANTS["fp32"].file))
    for entry in trace(copied, manifest, ["int8"], ROWS)["int8"]:
        assert entry["sqnr_db"] is None
        assert entry["finite"]


def _scale(model: ir.Model, iteration: int, factor: float) -> None:
    """Multiply what the iteration's normalization gives to its readers, not the value itself."""
    node = next(n for n in model.graph if n.name == f"encoder/iteration_{iteration:02d}/{NORM}")
    value = node.outputs[0]
    scale = add_initializer(model, "test_factor", np.array(factor, np.float32))
    multiplied = named_node("Mul", [value, scale], "test/Mul")
    for user, index in list(value.uses()):
        user.replace_input_with(index, multiplied.outputs[0])
    multiplied.replace_input_with(0, value)
    model.graph.insert_after(node, multiplied)


def test_noise_shows_after_the_iteration_that_made_it(copied: Path) -> None:
    model = load(copied / VARIANTS["fp32"].file)
    _scale(model, 0, 1.01)
    manifest = _replace(copied, "int8", model)
    found = trace(copied, manifest, ["int8"], ROWS)["int8"]
    noisy = [entry["sqnr_db"] is not None and entry["sqnr_db"] < 100 for entry in found]
    assert noisy == [False, False, True, True, True]


def test_values_that_are_not_finite_are_told(copied: Path) -> None:
    model = load(copied / VARIANTS["fp32"].file)
    _scale(model, 0, np.inf)
    manifest = _replace(copied, "int8", model)
    found = trace(copied, manifest, ["int8"], ROWS)["int8"]
    assert [entry["finite"] for entry in found] == [True, True, False, False, False]
    assert found[2]["sqnr_db"] is None


def test_static_quantization_in_openvino_runs_as_without_further_outputs(copied: Path) -> None:
    pytest.importorskip("openvino")
    model = load(copied / VARIANTS["fp32"].file)
    step = add_initializer(model, "test_step", np.array(0.05, np.float32))
    zero = add_initializer(model, "test_zero", np.array(0, np.int8))
    for i in range(2):
        node = next(n for n in model.graph if n.name == f"encoder/iteration_{i:02d}/{NORM}")
        value, readers = node.outputs[0], list(node.outputs[0].uses())
        to = named_node("QuantizeLinear", [value, step, zero], f"test/to_{i}")
        back = named_node("DequantizeLinear", [to.outputs[0], step, zero], f"test/back_{i}")
        for user, index in readers:
            user.replace_input_with(index, back.outputs[0])
        model.graph.insert_after(node, [to, back])
    manifest = _replace(copied, "int8-qdq", model)
    found = trace(copied, manifest, ["int8-qdq"], ROWS)["int8-qdq"]
    assert all(10 < entry["sqnr_db"] < 60 for entry in found[2:])
    alone = Difference(None)
    with (
        open_ort(copied / VARIANTS["fp32"].file) as source,
        open_ov(copied / VARIANTS["int8-qdq"].file) as static,
    ):
        for row in ROWS:
            alone.add(source.run(row)["logits"], static.run(row)["logits"])
    assert found[-1]["sqnr_db"] == pytest.approx(alone.sqnr_db, abs=0.2)


def test_a_last_iteration_of_the_first_token_alone_is_told(classifier: Path) -> None:
    tokens = [entry["tokens"] for entry in _traced(classifier, "int8")["int8"]]
    assert tokens == ["all", "all", "all", "first", "all"]


def _cut(directory: Path, axis: int) -> dict[str, Any]:
    """Cut the hidden state of iteration 1 to as much of an axis as the axis' own number."""
    model = load(directory / VARIANTS["int8"].file)
    node = next(n for n in model.graph if n.name == f"encoder/iteration_01/{NORM}")
    value = node.outputs[0]
    name, value.name = value.name, "test/whole"
    zero, end = (add_initializer(model, f"test_{i}", np.array([i])) for i in (0, axis))
    cut = named_node("Slice", [value, zero, end, end], "test/Slice")
    cut.outputs[0].name = name
    model.graph.insert_after(node, cut)
    return _replace(directory, "int8", model)


def test_the_first_token_alone_is_compared_where_one_file_has_no_other(copied: Path) -> None:
    before = _traced(copied, "int8")["int8"]
    manifest = _cut(copied, axis=1)
    after = trace(copied, manifest, ["int8"], ROWS)["int8"]
    assert after[2]["tokens"] == "first"
    assert after[2]["sqnr_db"] == after[2]["first_token_sqnr_db"]
    assert after[2]["sqnr_db"] == pytest.approx(before[2]["first_token_sqnr_db"], abs=0.1)


def test_another_shape_is_an_error(copied: Path) -> None:
    manifest = _cut(copied, axis=2)
    with pytest.raises(ContractError, match="int8, encoder iteration 1: got shape"):
        trace(copied, manifest, ["int8"], ROWS)


def test_a_hidden_state_that_is_gone_is_an_error(copied: Path) -> None:
    model = load(copied / VARIANTS["int8"].file)
    node = next(n for n in model.graph if n.name == f"encoder/iteration_01/{NORM}")
    node.outputs[0].name = "other"
    manifest = _replace(copied, "int8", model)
    with pytest.raises(ContractError, match=r"iteration_01/.* hidden state of encoder iteration 1"):
        trace(copied, manifest, ["int8"], ROWS)


def test_a_changed_file_is_an_error(copied: Path) -> None:
    file = copied / VARIANTS["int8"].file
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ContractError, match=r"model_int8\.onnx"):
        _traced(copied, "int8")


def test_no_rows_are_an_error(classifier: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        trace(classifier, read_manifest(classifier), ["int8"], [])


def test_a_graph_without_an_encoder_is_an_error(classifier: Path) -> None:
    model = load(classifier / VARIANTS["fp32"].file)
    for node in model.graph:
        node.name = f"x/{node.name}"
    with pytest.raises(ContractError, match="no hidden state for encoder input"):
        hidden_states(model)


def test_tracing_leaves_the_directory_as_it_is(classifier: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in classifier.rglob("*"))
    _traced(classifier, "int8")
    assert sorted((p, p.stat().st_mtime_ns) for p in classifier.rglob("*")) == before
