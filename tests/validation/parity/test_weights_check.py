"""Parameters of written files: sound ones pass, and each way to spoil one is seen."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from albert_deploy.export.graph.edit import add_initializer, values_of
from albert_deploy.export.graph.file import load
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.validation.gate.checks import contract_checks
from albert_deploy.validation.gate.faults import scale_weight, zero_bias
from albert_deploy.validation.parity.weights import (
    PRECISIONS,
    check_weights,
    compare_weights,
    powers_between,
)

MADE = tuple(name for name in VARIANTS if name != "fp32")
MODELS = {
    "albert": ("text-classification", "albert", {"hidden_size": 64, "embedding_size": 32}),
    "bert": ("text-classification", "bert", {"num_hidden_layers": 2, "hidden_size": 64}),
    "pretraining": ("pretraining", "albert", {"hidden_size": 64, "embedding_size": 32}),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    random = np.random.default_rng(5)
    signs = [*string.ascii_lowercase, *string.digits]
    lines = [" ".join(random.choice(signs, n)) for n in range(4, 44)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, make_export: Callable[..., Path], texts: Path) -> Path:
    task, family, sizes = MODELS[request.param]
    out = make_export(task, family, **sizes)
    calibration = CalibrationConfig(name="text", path=texts)
    quantize(out, QuantizeConfig(variants=MADE, calibration=calibration))
    return out


def _failing(directory: Path, variant: str, model: ir.Model) -> set[str]:
    rows = check_weights(load(directory / VARIANTS["fp32"].file), model, variant)
    return {row["check"] for row in rows if row["verdict"] == "fail"}


@pytest.mark.medium
def test_what_the_converters_write_passes_and_every_parameter_is_looked_at(made: Path) -> None:
    source = load(made / VARIANTS["fp32"].file)
    weights = {
        name
        for name, value in source.graph.initializers.items()
        if values_of(value).numpy().dtype == np.float32 and values_of(value).size > 2
    }
    for variant in MADE:
        written = load(made / VARIANTS[variant].file)
        assert _failing(made, variant, written) == set(), variant
        found = {c.name for c in compare_weights(source, written)}
        assert {n for n in weights - found if not n.endswith("key.bias")} <= set()


@pytest.mark.medium
@pytest.mark.parametrize("variant", MADE)
def test_a_scale_that_is_off_by_two_percent_is_seen(made: Path, variant: str) -> None:
    model = load(made / VARIANTS[variant].file)
    assert scale_weight(model) is not None
    assert "weights gain" in _failing(made, variant, model)


@pytest.mark.medium
@pytest.mark.parametrize("variant", ["int8", "int8-qdq"])
def test_one_column_alone_is_seen(made: Path, variant: str) -> None:
    model = load(made / VARIANTS[variant].file)
    names = [n for n in model.graph.initializers if n.endswith("transposed_scale")]
    value = model.graph.initializers[next(n for n in names if "ffn" in n or "dense" in n)]
    scales = np.array(values_of(value).numpy())
    scales[3] *= 1.02
    value.const_value = ir.tensor(scales, name=value.name)
    assert "weights gain" in _failing(made, variant, model)


@pytest.mark.medium
@pytest.mark.parametrize("variant", MADE)
def test_a_bias_that_one_use_reads_alone_is_seen(made: Path, variant: str) -> None:
    if "layer.0" in " ".join(load(made / VARIANTS["fp32"].file).graph.initializers):
        pytest.skip("layers of their own share nothing between uses")
    model = load(made / VARIANTS[variant].file)
    assert zero_bias(model) is not None
    assert "weights uses" in _failing(made, variant, model)


@pytest.mark.medium
def test_a_norm_with_other_values_is_seen(made: Path) -> None:
    model = load(made / VARIANTS["int8"].file)
    name = next(n for n in model.graph.initializers if n.endswith("LayerNorm.bias"))
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(values_of(value).numpy() + np.float32(0.01), name=name)
    assert _failing(made, "int8", model) == {"weights noise"}


@pytest.mark.medium
def test_a_weight_put_in_anothers_place_is_seen(made: Path) -> None:
    model = load(made / VARIANTS["fp16"].file)
    node = next(n for n in model.graph if (n.name or "").endswith("query/MatMul"))
    value = node.inputs[1]
    assert value is not None
    turned = values_of(value).numpy()[:, ::-1].copy()
    for user, place in list(value.uses()):
        user.replace_input_with(place, add_initializer(model, "turned", turned))
    assert _failing(made, "fp16", model) == {"weights gain", "weights noise"}


@pytest.mark.parametrize("seed", range(20))
def test_powers_of_two_are_found_through_the_rounding(seed: int) -> None:
    random = np.random.default_rng(seed)
    a = random.normal(size=(48, 40))
    a[:, 3] = 0
    a[5] = 0
    rows, columns = random.integers(-6, 7, 48), random.integers(-6, 7, 40)
    b = a * np.exp2(rows)[:, None] * np.exp2(columns)
    step = np.maximum(np.abs(b).max(axis=0), 1e-9) / 127
    found = powers_between(a, np.rint(b / step) * step)
    product = np.exp2(found[0])[:, None] * np.exp2(found[1])
    # Of small rows the rounding leaves nothing to tell by.
    seen = np.abs(b) > 20 * step
    wanted = np.exp2(rows)[:, None] * np.exp2(columns)
    assert (product[seen] == wanted[seen]).mean() > 0.99


def test_checks_for_the_gate_name_the_worst() -> None:
    row = {"check": "weights gain", "output": "w", "error": 0.02, "tolerance": 0.01}
    (check,) = contract_checks([row | {"verdict": "fail"}])
    assert (check.kind, check.name, check.verdict) == ("contract", "weights gain", "fail")
    assert "0.02 of w, the limit is 0.01" in check.message


@pytest.mark.medium
def test_what_it_refuses(made: Path) -> None:
    source = load(made / VARIANTS["fp32"].file)
    assert set(PRECISIONS) == set(VARIANTS)
    with pytest.raises(InputError, match="int4"):
        check_weights(source, source, "int4")
    empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10)
    with pytest.raises(ContractError, match="none of the source's matrices"):
        check_weights(source, empty, "int8")
