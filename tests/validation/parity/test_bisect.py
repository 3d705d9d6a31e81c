"""Bisection against faults that were planted, and the search against all subsets."""

from __future__ import annotations

import string
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import onnx_ir as ir
import pytest
from feeds import rows_of
from hypothesis import strategies as st

from albert_deploy.export.graph.edit import add_initializer, values_of
from albert_deploy.export.graph.file import load, save
from albert_deploy.export.graph.uses import find_uses
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.ort import open_ort
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.validation.parity.bisect import BisectConfig, bisect, smallest
from albert_deploy.validation.parity.dequantize_use import dequantize_uses
from albert_deploy.validation.parity.difference import Difference

pytestmark = pytest.mark.medium

ROWS = rows_of(6, 11, 19, 33, seed=1)
MADE = ("fp16", "int8", "int8-qdq", "int8-fp16")


@pytest.fixture(scope="module")
def made(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bisect")
    random = np.random.default_rng(5)
    signs = [*string.ascii_lowercase, *string.digits]
    lines = [" ".join(random.choice(signs, n)) for n in range(4, 44)]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    export(str(make_checkpoint()), ExportConfig(), out=folder / "out")
    calibration = CalibrationConfig(name="text", path=folder / "texts.txt")
    quantize(folder / "out", QuantizeConfig(variants=MADE, calibration=calibration))
    return folder / "out"


def _ratio(path: Path, plain: Path) -> float:
    difference = Difference(None)
    with open_ort(plain) as ours, open_ort(path, fuse_qdq=False) as theirs:
        for feeds in ROWS:
            difference.add(ours.run(feeds)["logits"], theirs.run(feeds)["logits"])
    return difference.sqnr_db


def _wrong_bias(model: ir.Model) -> None:
    """Read another bias behind the attention's output at iteration 1."""
    ends = "iteration_01/group_0/layer_0/attention/dense/Add"
    node = next(n for n in model.graph if (n.name or "").endswith(ends))
    place, bias = next(
        (i, v) for i, v in enumerate(node.inputs) if v is not None and v.is_initializer()
    )
    array = values_of(bias).numpy()
    wrong = (np.asarray(array, np.float64)[::-1] * 20).astype(array.dtype)
    node.replace_input_with(place, add_initializer(model, "wrong", wrong))


def _wrong_scale(model: ir.Model) -> None:
    """Round the input of the layer's last product at iteration 1 twenty times as coarsely."""
    names = [
        name
        for name in model.graph.initializers
        if "iteration_01/" in name and "activation" in name and name.endswith("/scale")
    ]
    assert len(names) == 1
    value = model.graph.initializers[names[0]]
    array = values_of(value).numpy()
    value.const_value = ir.tensor(np.asarray(array * 20, array.dtype), name=names[0])


@pytest.mark.parametrize("variant", MADE)
def test_with_all_products_dequantized_little_error_is_left(
    made: Path, variant: str, tmp_path: Path
) -> None:
    plain = load(made / VARIANTS["fp32"].file)
    model = load(made / VARIANTS[variant].file)
    uses = find_uses(plain)
    assert dequantize_uses(model, plain, uses) == len(uses)
    save(model, tmp_path / "all.onnx")
    before = _ratio(made / VARIANTS[variant].file, made / VARIANTS["fp32"].file)
    after = _ratio(tmp_path / "all.onnx", made / VARIANTS["fp32"].file)
    # Half precision rounds what lies between the products, and INT8 the embeddings.
    assert after > (before + 4 if "int8" in variant else before - 6)


@pytest.mark.parametrize("variant", MADE)
@pytest.mark.parametrize(
    ("plant", "product"),
    [(_wrong_bias, "attention.dense"), (_wrong_scale, "ffn_output")],
    ids=["bias", "scale"],
)
def test_a_planted_fault_is_named(
    made: Path, variant: str, plant: Callable[[ir.Model], None], product: str, tmp_path: Path
) -> None:
    if plant is _wrong_scale and variant in ("fp16", "int8"):
        pytest.skip(f"{variant} stores no activation scales")
    model = load(made / VARIANTS[variant].file)
    plant(model)
    save(model, tmp_path / "bad.onnx")
    plain = made / VARIANTS["fp32"].file
    good, bad = _ratio(made / VARIANTS[variant].file, plain), _ratio(tmp_path / "bad.onnx", plain)
    assert bad < good - 4
    found = bisect(
        made,
        read_manifest(made),
        variant,
        ROWS,
        BisectConfig(min_sqnr_db=(good + bad) / 2),
        file=tmp_path / "bad.onnx",
    )
    assert found.products == (f"encoder iteration 1, {product}",)
    assert found.minimal
    assert found.trials <= 20
    assert found.before < (good + bad) / 2 <= found.after
    report = found.to_json()
    assert report["kept"] == 1
    assert report["of"] == len(find_uses(load(plain)))


def test_a_variant_that_holds_has_no_culprit(made: Path) -> None:
    found = bisect(made, read_manifest(made), "fp16", ROWS, BisectConfig(min_sqnr_db=10))
    assert found.products == ()
    assert found.trials == 1


def test_what_is_not_in_the_products_is_not_found_in_them(made: Path) -> None:
    found = bisect(made, read_manifest(made), "int8", ROWS, BisectConfig(min_sqnr_db=150))
    assert found.products == ()
    assert found.before < found.all_dequantized < 150


def test_a_spent_budget_gives_the_best_so_far(made: Path, tmp_path: Path) -> None:
    model = load(made / VARIANTS["fp16"].file)
    _wrong_bias(model)
    save(model, tmp_path / "bad.onnx")
    found = bisect(
        made,
        read_manifest(made),
        "fp16",
        ROWS,
        BisectConfig(min_sqnr_db=40, budget=4),
        file=tmp_path / "bad.onnx",
    )
    assert not found.minimal
    assert found.trials == 4
    assert "encoder iteration 1, attention.dense" in found.products
    assert found.after >= 40


def test_what_it_refuses(made: Path) -> None:
    with pytest.raises(InputError, match="budget 2"):
        BisectConfig(budget=2)
    with pytest.raises(InputError, match="0 rows"):
        bisect(made, read_manifest(made), "int8", [], BisectConfig())
    with pytest.raises(InputError, match="fp32"):
        bisect(made, read_manifest(made), "fp32", ROWS, BisectConfig())


@hypothesis.given(
    size=st.integers(1, 40), guilty=st.sets(st.integers(0, 39), min_size=1, max_size=4)
)
def test_the_search_finds_exactly_what_is_guilty(size: int, guilty: set[int]) -> None:
    wanted = sorted(g for g in guilty if g < size)
    asked = 0

    def holds(places: Any) -> bool:
        nonlocal asked
        asked += 1
        return set(wanted) <= set(places)

    found = [list(range(size)), *smallest(range(size), holds)][-1]
    if wanted:
        assert found == wanted
    assert asked <= size**2 + 3 * size


def test_nothing_of_what_is_found_can_be_left_out() -> None:
    def holds(places: Any) -> bool:
        return sum(places) % 7 == 3 or len(places) > 5

    found = [list(range(9)), *smallest(range(9), holds)][-1]
    assert holds(found)
    subsets = chain.from_iterable(combinations(found, n) for n in (len(found) - 1,))
    assert not any(holds(s) for s in subsets if s)
