"""Dropping the key's bias: the function stays, and so does everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from models import with_medium

from albert_deploy.export.graph.file import load, save
from albert_deploy.export.graph.uses import find_uses
from albert_deploy.quantize.calibration.observe import Row
from albert_deploy.quantize.schemes.pruning import drop_key_bias
from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.engines.ort import open_ort

GraphOf = Callable[[str], Path]
KEYS = {"albert": 1, "grouped": 4, "bert": 2, "pretraining": 1}
EVERY = with_medium(KEYS, ["albert", "bert"])


def outputs(
    model: ir.Model, rows: list[Row], folder: Path
) -> list[dict[str, npt.NDArray[np.float32]]]:
    save(model, folder / "model.onnx")
    ids = np.random.default_rng(0).integers(5, 199, (2, 12))
    mask = np.ones_like(ids)
    mask[0, 7:] = mask[1, :4] = 0
    padded = dict(zip(INPUT_NAMES, (ids, mask, np.zeros_like(ids)), strict=True))
    with open_ort(folder / "model.onnx", threads=1) as session:
        return [session.run(feeds) for feeds in (*(row.feeds for row in rows), padded)]


def large_biases(model: ir.Model) -> list[ir.Value]:
    """Make the biases so large that dropping what matters shows."""
    found = [v for n, v in model.graph.initializers.items() if n.endswith("key.bias")]
    for value in found:
        assert value.const_value is not None
        array = np.asarray(value.const_value.numpy() * 30, np.float32)
        value.const_value = ir.tensor(array, name=value.name)
    return found


@pytest.mark.parametrize("name", EVERY)
def test_the_function_stays(name: str, graph_of: GraphOf, rows: list[Row], tmp_path: Path) -> None:
    model = load(graph_of(name))
    assert len(large_biases(model)) == KEYS[name]
    wanted = outputs(model, rows, tmp_path)
    assert drop_key_bias(model) == sum(p.operator == "key" for p in find_uses(model)) > 0
    for before, after in zip(wanted, outputs(model, rows, tmp_path), strict=True):
        for output, values in before.items():
            scale = np.abs(values).max()
            assert scale > 0.01
            assert np.abs(after[output] - values).max() <= 1e-5 * scale


@pytest.mark.parametrize("name", EVERY)
def test_nothing_else_changes(name: str, graph_of: GraphOf) -> None:
    before, after = load(graph_of(name)), load(graph_of(name))
    count = drop_key_bias(after)
    lost = set(before.graph.initializers) - set(after.graph.initializers)
    assert {n.rpartition("attention.")[2] for n in lost} <= {"key.bias", "self.key.bias"}
    assert len(lost) == KEYS[name]
    assert not set(after.graph.initializers) - set(before.graph.initializers)
    for kept, value in after.graph.initializers.items():
        tensors = [v.const_value for v in (value, before.graph.initializers[kept])]
        assert all(t is not None for t in tensors)
        assert len({t.tobytes() for t in tensors if t is not None}) == 1
    gone = {n.name for n in before.graph} - {n.name for n in after.graph}
    assert len(gone) == count
    assert all("/key/Add" in str(node) for node in gone)
    assert [n.name for n in before.graph if n.name not in gone] == [n.name for n in after.graph]
    assert [p.label for p in find_uses(after)] == [p.label for p in find_uses(before)]


@pytest.mark.parametrize("name", EVERY)
def test_a_second_run_finds_nothing(name: str, graph_of: GraphOf) -> None:
    model = load(graph_of(name))
    assert drop_key_bias(model) > 0
    assert drop_key_bias(model) == 0
