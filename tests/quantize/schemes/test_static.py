"""Static quantization as it is written: scales, sharing, coverage, and what is done again."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import SHALLOW, with_medium

from albert_deploy.export.graph.file import load
from albert_deploy.export.graph.naming import QUERY_KEY
from albert_deploy.export.graph.uses import find_uses, origin, real_type, weight_uses
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.schemes.static import StaticConfig
from albert_deploy.quantize.schemes.table import SCHEMES
from albert_deploy.quantize.step import STATISTICS, QuantizeConfig, quantize, scheme_for
from albert_deploy.runtime.contract import INPUT_NAMES, VARIANTS
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.validation.parity.coverage import CoverageRow, check_coverage, coverage

Make = Callable[[str], Path]
STATIC = ("int8-qdq", "int8-fp16", "fp8-qdq")
# name -> task, family and configuration; fill-mask multiplies by its table too.
MODELS: dict[str, tuple[str, str, dict[str, int]]] = {
    "albert": ("text-classification", "albert", {"num_hidden_layers": 4}),
    **{name: SHALLOW[name] for name in ("fill-mask", "question-answering", "multiple-choice")},
}
NAMES = with_medium(MODELS, ["albert", "question-answering"])
DTYPES = {
    "int8-qdq": onnx.TensorProto.INT8,
    "int8-fp16": onnx.TensorProto.INT8,
    "fp8-qdq": onnx.TensorProto.FLOAT8E4M3FN,
}
WORDS = ("the", "a", "film", "river", "is", "was", "long", "warm", "who", "what", "zebra")


def write_texts(path: Path, *, pairs: bool, seed: int = 0) -> CalibrationConfig:
    """Forty lines of random words, of different lengths."""
    random = np.random.default_rng(seed)
    lines = [" ".join(random.choice(WORDS, 2 + i % 12)) for i in range(40)]
    if pairs:
        lines = [f"who was it\t{line}" for line in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CalibrationConfig(name="text", path=path)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> CalibrationConfig:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.txt", pairs=False)


@pytest.fixture(scope="module")
def exported(make_export: Callable[..., Path]) -> Make:
    """A function that exports one of ``MODELS``; copy the directory, do not change it."""

    @cache
    def make(name: str) -> Path:
        task, family, config = MODELS[name]
        return make_export(task, family, **config)

    return make


@pytest.fixture(scope="module")
def made(exported: Make, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A function that returns a directory with all static variants; do not change it."""

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{name}-static")
        out = Path(shutil.copytree(exported(name), folder / "out"))
        calibration = write_texts(folder / "texts.txt", pairs=name == "question-answering")
        quantize(out, QuantizeConfig(variants=STATIC, calibration=calibration))
        return out

    return make


@pytest.fixture
def albert(made: Make, tmp_path: Path) -> Path:
    """A copy of the first model's directory."""
    return Path(shutil.copytree(made("albert"), tmp_path / "albert"))


def source_of(out: Path) -> ir.Model:
    return load(out / VARIANTS["fp32"].file)


def proto_of(out: Path, variant: str) -> onnx.ModelProto:
    return onnx.load(out / VARIANTS[variant].file)


def meant(source: ir.Model, variant: str) -> dict[str, list[ir.Node]]:
    """Weights that a variant is to convert, and the nodes that read them in the float32 file."""
    scheme = SCHEMES[variant]
    kept = scheme.exceptions(source, scheme.config)
    return {name: nodes for name, nodes in weight_uses(source).items() if name not in kept}


def rows_of(
    source: ir.Model, written: ir.Model, variant: str, **static: Any
) -> tuple[list[CoverageRow], dict[str, int]]:
    scheme = scheme_for(variant, static)
    assert scheme.real_uses is not None
    assert scheme.products is not None
    rows = coverage(
        source,
        written,
        dtype=scheme.dtype,
        exceptions=scheme.exceptions(source, scheme.config),
        real_uses=scheme.real_uses(source, scheme.config),
    )
    return rows, scheme.products(source, scheme.config)


def node_of(model: ir.Model, part: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == "MatMul" and part in str(n.name))


def rounded(node: ir.Node) -> ir.Node | None:
    """Return the DequantizeLinear that a product's activation comes from."""
    value = node.inputs[0]
    assert value is not None
    producer = origin(value).producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


@pytest.mark.parametrize("variant", STATIC)
@pytest.mark.parametrize("name", NAMES)
def test_every_use_of_every_weight_is_converted(made: Make, name: str, variant: str) -> None:
    out = made(name)
    source = source_of(out)
    graph = proto_of(out, variant).graph
    stored = {t.name: t for t in graph.initializer}
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for value in dict.fromkeys(node.input):
            readers[value].append(node)
    converted = meant(source, variant)
    encoder = {p.weight for p in find_uses(source) if p.weight and p.iteration is not None}
    assert encoder
    assert encoder <= set(converted)
    for weight, nodes in converted.items():
        copies = [t for n, t in stored.items() if n.startswith(weight) and len(t.dims) == 2]
        assert [t.data_type for t in copies] == [DTYPES[variant]]
        (real,) = readers[copies[0].name]
        assert real.op_type == "DequantizeLinear"
        shape = list(copies[0].dims)
        axis = next(a.i for a in real.attribute if a.name == "axis")
        assert list(stored[real.input[1]].dims) == [shape[axis]]
        moved = [n for n in readers[real.output[0]] if n.op_type in ("Transpose", "Cast")]
        found = [n for n in readers[real.output[0]] if n not in moved]
        found += [n for move in moved for n in readers[move.output[0]]]
        assert Counter(n.op_type for n in found) == Counter(n.op_type for n in nodes), weight


@pytest.mark.parametrize("variant", STATIC)
@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_says_the_same(made: Make, name: str, variant: str) -> None:
    out = made(name)
    source, written = source_of(out), load(out / VARIANTS[variant].file)
    rows, products = rows_of(source, written, variant)
    check_coverage(rows, variant, products=products)
    entry = read_manifest(out)["variants"][variant]
    assert [CoverageRow(**r) for r in entry["coverage"]] == [
        CoverageRow(**{**r.to_json(), "real_inputs": list(r.real_inputs)}) for r in rows
    ]
    uses = {name: len(nodes) for name, nodes in weight_uses(source).items()}
    assert {r.weight: r.uses for r in rows} == uses
    encoder = Counter(p.weight for p in find_uses(source) if p.weight and p.iteration is not None)
    outside = Counter(p.weight for p in find_uses(source) if p.weight and p.iteration is None)
    for row in rows:
        assert row.integer_inputs == encoder[row.weight]
        assert len(row.real_inputs) == outside[row.weight]
        assert (row.scales > 0) == (row.reason is None)


@pytest.mark.parametrize("variant", STATIC)
@pytest.mark.parametrize("name", NAMES)
def test_standard_operators_with_zero_points_of_zero(made: Make, name: str, variant: str) -> None:
    model = proto_of(made(name), variant)
    onnx.checker.check_model(model, full_check=True)
    fp32 = proto_of(made(name), "fp32")
    opsets = {o.domain: o.version for o in model.opset_import}
    assert opsets == {o.domain: o.version for o in fp32.opset_import}
    assert set(opsets) == {""}
    assert {n.domain for n in model.graph.node} == {""}
    stored = {t.name: t for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type.endswith("quantizeLinear")]
    pairs += [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {n.op_type for n in pairs} == {"QuantizeLinear", "DequantizeLinear"}
    for node in pairs:
        scale = onnx.numpy_helper.to_array(stored[node.input[1]])
        assert (scale.astype(np.float64) > 0).all()
        assert np.isfinite(scale.astype(np.float64)).all()
        if len(node.input) == 2:  # a weight's: without one it is zero by definition
            assert node.op_type == "DequantizeLinear"
            assert stored[node.input[0]].data_type == DTYPES[variant]
            continue
        zero = stored[node.input[2]]
        assert zero.data_type == DTYPES[variant]
        assert not any(zero.raw_data)
        assert list(zero.dims) == list(stored[node.input[1]].dims) == []


@pytest.mark.medium
@pytest.mark.parametrize("variant", STATIC)
@pytest.mark.parametrize("name", NAMES)
def test_each_use_has_its_own_activation_scale(made: Make, name: str, variant: str) -> None:
    out = made(name)
    source, written = source_of(out), load(out / VARIANTS[variant].file)
    nodes = {n.name: n for n in written.graph}
    scales: defaultdict[str, list[str]] = defaultdict(list)
    for use in find_uses(source):
        if use.weight is None or use.iteration is None:
            continue
        real = rounded(nodes[use.node])
        assert real is not None
        assert real.inputs[1] is not None
        scales[use.operator].append(str(real.inputs[1].name))
    iterations = {p.iteration for p in find_uses(source)} - {None}
    assert scales
    for names in scales.values():
        assert len(names) == len(set(names)) == len(iterations)
    values = [written.graph.initializers[n].const_value for n in scales["ffn_output"]]
    assert len({float(v.numpy()) for v in values if v is not None}) == len(values)


@pytest.mark.parametrize("name", NAMES)
def test_int8_fp16_has_no_product_of_mixed_types(made: Make, name: str) -> None:
    written = load(made(name) / VARIANTS["int8-fp16"].file)
    products = [n for n in written.graph if n.op_type == "MatMul"]
    kinds = Counter()
    for node in products:
        types = {real_type(v) for v in node.inputs if v is not None}
        assert len(types) == 1, node.name
        kinds[types.pop()] += 1
    assert kinds[ir.DataType.FLOAT16] > len(products) / 2


@pytest.mark.parametrize("variant", STATIC)
@pytest.mark.parametrize("name", NAMES)
def test_variants_answer_as_the_source_does(made: Make, name: str, variant: str) -> None:
    random = np.random.default_rng(0)
    ids = random.integers(5, 200, (4, 20))
    mask = np.ones_like(ids)
    mask[1, 12:] = mask[2, :5] = 0
    arrays = [ids, mask, np.zeros_like(ids)]
    if name == "multiple-choice":
        arrays = [a.reshape(2, 2, 20) for a in arrays]
    feeds = dict(zip(INPUT_NAMES, arrays, strict=True))
    with open_session(made(name), engine="ort") as session:
        wanted = session.run(feeds)
    with open_session(made(name), variant=variant, engine="ort") as session:
        got = session.run(feeds)
    assert list(got) == list(wanted)
    for output, values in wanted.items():
        error = np.square(got[output] - values).sum()
        # Random weights are the hard case.
        assert 10 * np.log10(np.square(values).sum() / error) > LEAST_DB[variant]


LEAST_DB = {"int8-qdq": 20, "int8-fp16": 20, "fp8-qdq": 12}


def test_a_pair_that_is_missing_fails(albert: Path) -> None:
    source, written = source_of(albert), load(albert / VARIANTS["int8-qdq"].file)
    node = node_of(written, "iteration_02/group_0/layer_0/ffn/")
    real = rounded(node)
    assert real is not None
    quantized = real.inputs[0]
    assert quantized is not None
    producer = quantized.producer()
    assert producer is not None
    node.replace_input_with(0, producer.inputs[0])
    rows, products = rows_of(source, written, "int8-qdq")
    with pytest.raises(ContractError, match=r"layers\.0\.ffn\.weight_transposed: 3 of 4"):
        check_coverage(rows, "model_int8_qdq.onnx", products=products)


def test_a_use_of_the_float_weight_fails(albert: Path) -> None:
    source, written = source_of(albert), load(albert / VARIANTS["int8-qdq"].file)
    name = "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight_transposed"
    tensor = source.graph.initializers[name].const_value
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(ir.DataType.FLOAT))
    written.graph.register_initializer(value)
    node_of(written, "iteration_03/group_0/layer_0/ffn_output/").replace_input_with(1, value)
    rows, products = rows_of(source, written, "int8-qdq")
    with pytest.raises(ContractError, match=r"ffn_output\.weight_transposed: 3 of 4"):
        check_coverage(rows, "model_int8_qdq.onnx", products=products)


def test_keep_leaves_exactly_that_product_real(albert: Path, texts: CalibrationConfig) -> None:
    label = "encoder iteration 2, ffn_output"
    before = load(albert / VARIANTS["int8-qdq"].file)
    was_real = {n.name for n in before.graph if n.op_type == "MatMul" and rounded(n) is None}
    config = QuantizeConfig(
        variants=("int8-qdq",), calibration=texts, static={"keep": (label,)}, force=True
    )
    rows = quantize(albert, config)["variants"]["int8-qdq"]["coverage"]
    (row,) = [r for r in rows if r["weight"].endswith("layers.0.ffn_output.weight_transposed")]
    assert tuple(row["real_inputs"]) == (label,)
    assert row["uses"] == row["converted"] == 4
    assert row["integer_inputs"] == 3
    assert [r["weight"] for r in rows if label in r["real_inputs"]] == [row["weight"]]
    after = load(albert / VARIANTS["int8-qdq"].file)
    is_real = {n.name for n in after.graph if n.op_type == "MatMul" and rounded(n) is None}
    use = next(p for p in find_uses(source_of(albert)) if p.label == label)
    assert is_real - was_real == {use.node}
    assert not was_real - is_real


def test_a_product_of_attention_may_be_kept(albert: Path, texts: CalibrationConfig) -> None:
    label = f"encoder iteration 1, {QUERY_KEY}"
    config = QuantizeConfig(
        variants=("int8-qdq",), calibration=texts, static={"keep": (label,)}, force=True
    )
    quantize(albert, config)
    after = {n.name: n for n in load(albert / VARIANTS["int8-qdq"].file).graph}
    uses = [p for p in find_uses(source_of(albert)) if p.operator == QUERY_KEY]
    assert [p.label for p in uses if rounded(after[p.node]) is None] == [label]


def test_an_unknown_label_lists_the_labels(albert: Path, texts: CalibrationConfig) -> None:
    label = "encoder iteration 9, ffn"
    config = QuantizeConfig(variants=("int8-qdq",), calibration=texts, static={"keep": (label,)})
    with pytest.raises(InputError, match=r"called encoder iteration 9, ffn; they are: .*3, ffn,"):
        quantize(albert, config)


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("alpha", 1.5, "from 0 to 1"),
        ("rounding", "up", "nearest or compensated"),
        ("rule", "widest", "minmax"),
        ("format", "int4", "int8, fp8"),
        ("products", ("value",), "query x key"),
    ],
)
def test_static_config_refuses_nonsense(field: str, value: object, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        StaticConfig(**{field: value})


def test_two_runs_write_the_same_bytes(made: Make, exported: Make, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported("albert"), tmp_path / "out"))
    calibration = write_texts(tmp_path / "texts.txt", pairs=False)
    quantize(out, QuantizeConfig(variants=STATIC, calibration=calibration))
    for name in (*(VARIANTS[v].file for v in STATIC), STATISTICS):
        assert (out / name).read_bytes() == (made("albert") / name).read_bytes(), name


def test_what_is_up_to_date_is_left_alone(
    albert: Path, texts: CalibrationConfig, progress: pytest.LogCaptureFixture
) -> None:
    before = {v: (albert / VARIANTS[v].file).stat().st_mtime_ns for v in STATIC}
    for calibration in (
        texts,
        None,
        CalibrationConfig(name="statistics", path=albert / STATISTICS),
    ):
        quantize(albert, QuantizeConfig(variants=STATIC, calibration=calibration))
    assert progress.messages == [f"{v}: up to date" for v in STATIC] * 3
    assert before == {v: (albert / VARIANTS[v].file).stat().st_mtime_ns for v in STATIC}


def test_other_texts_make_it_again(albert: Path, tmp_path: Path) -> None:
    before = (albert / VARIANTS["int8-qdq"].file).read_bytes()
    other = write_texts(tmp_path / "other.txt", pairs=False, seed=1)
    quantize(albert, QuantizeConfig(variants=("int8-qdq",), calibration=other))
    assert (albert / VARIANTS["int8-qdq"].file).read_bytes() != before


def test_saved_statistics_are_enough_to_round_to_the_nearest(
    exported: Make, albert: Path, texts: CalibrationConfig, tmp_path: Path
) -> None:
    static = {"rounding": "nearest"}
    saved = CalibrationConfig(name="statistics", path=albert / STATISTICS)
    config = QuantizeConfig(variants=("int8-qdq",), calibration=saved, static=static)
    entry = quantize(albert, config)["variants"]["int8-qdq"]
    assert entry["made_from"]["scheme"]["options"]["rounding"] == "nearest"
    # Biases are corrected with the means of texts, which the file does not hold.
    fresh = Path(shutil.copytree(exported("albert"), tmp_path / "fresh"))
    static |= {"correct_bias": False}
    config = QuantizeConfig(variants=("int8-qdq",), calibration=texts, static=static)
    quantize(fresh, config)
    graphs = [proto_of(out, "int8-qdq").graph for out in (albert, fresh)]
    assert graphs[0].SerializeToString() == graphs[1].SerializeToString()


def test_saved_statistics_cannot_compensate(albert: Path) -> None:
    before = (albert / VARIANTS["int8-qdq"].file).read_bytes()
    config = QuantizeConfig(
        variants=("int8-qdq",),
        calibration=CalibrationConfig(name="statistics", path=albert / STATISTICS),
        force=True,
    )
    with pytest.raises(InputError, match=r"no second moments; give texts with `calibration`"):
        quantize(albert, config)
    assert (albert / VARIANTS["int8-qdq"].file).read_bytes() == before


@pytest.mark.medium
def test_statistics_of_another_export_are_refused(made: Make, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made("multiple-choice"), tmp_path / "out"))
    saved = CalibrationConfig(name="statistics", path=made("albert") / STATISTICS)
    with pytest.raises(InputError, match="another export of the model; calibrate with texts"):
        quantize(out, QuantizeConfig(variants=("int8-qdq",), calibration=saved))


def test_without_texts_the_remedy_is_named(exported: Make, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported("albert"), tmp_path / "out"))
    with pytest.raises(InputError, match=r"int8-qdq needs texts .*`calibration` NAME=PATH"):
        quantize(out, QuantizeConfig(variants=("int8", "int8-qdq")))
    assert not (out / VARIANTS["int8"].file).exists()
