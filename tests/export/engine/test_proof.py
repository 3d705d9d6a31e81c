"""Proofs fail on each planted fault, and never pass on what nobody told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.export.engine.build import Built
from albert_deploy.export.engine.log import BuildLog, Layer, Tensor
from albert_deploy.export.engine.network import Network, Product
from albert_deploy.export.engine.proofs import Proof, prove, widened_bytes
from albert_deploy.runtime.errors import InputError

FILE = Path("model.onnx")
USES = 2
# Of each use: what its linears are called.
LINEARS = ("attention/query", "attention/key", "ffn")


def _product(name: str, data: str, weight: str | None, real: str, **more: Any) -> Product:
    return Product(name=name, data=data, weight=weight, real=real, **more)


def _network(data: str = "fp16", real: str = "fp16", heads: int = 64) -> Network:
    products = []
    for use in range(USES):
        module = f"encoder/iteration_{use:02d}"
        products += [
            _product(f"{module}/{name}/MatMul", data, data, real, weight_elements=100, inner=768)
            for name in LINEARS
        ]
        products += [
            _product(f"{module}/attention/MatMul", real, None, real, inner=heads),
            _product(f"{module}/attention/MatMul_1", real, None, real),
        ]
    products.append(_product("classifier/MatMul", real, real, real, weight_elements=10))
    return Network(
        products=tuple(products), stored_bytes=10_000_000, cast_bytes=0, has_attention=False
    )


def _tensor(type_: str, *shape: int) -> Tensor:
    return Tensor(type=type_, shape=shape)


def _gemm(data: str, weight: str, *nodes: str) -> Layer:
    return Layer(
        name="gemm",
        kind="gemm",
        nodes=nodes,
        inputs=(_tensor(data, -1, 768),),
        constants=(_tensor(weight, 768, 768), _tensor("fp32", 1)),
        outputs=(_tensor(data, -1, 768),),
    )


def _layers(data: str = "fp16", real: str = "fp16", *, fused: bool = True) -> tuple[Layer, ...]:
    layers = []
    for use in range(USES):
        module = f"encoder/iteration_{use:02d}"
        own = tuple(f"{module}/attention/{n}" for n in ("MatMul_1", "Softmax", "MatMul"))
        layers += [
            # Query and key are one kernel, as TensorRT makes them.
            _gemm(data, data, *(f"{module}/{name}/MatMul" for name in LINEARS[:2])),
            _gemm(data, data, f"{module}/{LINEARS[2]}/MatMul"),
        ]
        parts = (own,) if fused else tuple((node,) for node in own)
        layers += [
            Layer(name="_gemm_mha_v2", kind="kgen", nodes=p, inputs=(), constants=(), outputs=())
            for p in parts
        ]
    return (*layers, _gemm(real, real, "classifier/MatMul"))


def _built(**changes: Any) -> Built:
    log: dict[str, Any] = {
        "weights_bytes": 10_100_000,
        "scratch_bytes": 1,
        "activation_bytes": 1,
        "attention": tuple(
            f"encoder/iteration_{use:02d}/attention/{node}"
            for use in range(USES)
            for node in ("MatMul", "Softmax", "MatMul_1")
        ),
        "layers": _layers(),
        "errors": (),
        "warnings": (),
    }
    known = {key: changes.pop(key) for key in list(changes) if key in log}
    built = Built(
        plan=b"",
        log=BuildLog(**(log | known)),
        network=_network(),
        flavour="tensorrt_rtx",
        version="1.7.1.116",
        capability=(8, 9),
        build_ms=1.0,
        peak_bytes=None,
        timing_cache=None,
        inspector=None,
    )
    return replace(built, **changes)


def _proofs(built: Built, variant: str = "fp16", **more: Any) -> dict[str, Proof]:
    return {proof.name: proof for proof in prove(FILE, variant, USES, built, **more)}


def test_a_sound_plan_passes() -> None:
    proofs = _proofs(_built())
    assert list(proofs) == ["sharing", "fused attention", "linear types"]
    assert {proof.status for proof in proofs.values()} == {"passed"}
    assert proofs["linear types"].found == "7 in fp16"
    assert proofs["fused attention"].found == "6 nodes recognised, 2 uses in one kernel"
    assert asdict(proofs["sharing"]) == {
        "name": "sharing",
        "status": "passed",
        "found": "10,100,000 bytes of weights",
        "wanted": "at most 12,500,000 bytes: 1.05 x (10,000,000 stored + 0 made wider) + 2,000,000",
        "why": "the build log says so",
    }


def test_a_second_copy_of_the_weights_fails() -> None:
    assert _proofs(_built(weights_bytes=12_500_000))["sharing"].status == "passed"
    assert _proofs(_built(weights_bytes=12_500_001))["sharing"].status == "failed"


def test_a_file_that_lost_its_sharing_fails_though_its_plan_is_as_large() -> None:
    network = replace(_network(), stored_bytes=120_000_000)
    built = _built(network=network, weights_bytes=120_000_000)
    assert _proofs(built)["sharing"].status == "passed"
    assert _proofs(built, parameter_bytes=20_000_000)["sharing"].status == "failed"
    assert _proofs(_built(), parameter_bytes=20_000_000)["sharing"].status == "passed"


def test_what_a_plan_widens_is_counted_once_for_a_matrix() -> None:
    mapping = _product("mapping_in/MatMul", "fp16", "int8", "fp16", weight_elements=1000)
    inside = [
        _product(
            f"encoder/iteration_{i:02d}/ffn/MatMul",
            "int8",
            "int8",
            "fp16",
            weight_elements=5000,
            scale_bytes=10,
        )
        for i in range(3)
    ]
    network = Network(
        products=(mapping, *inside), stored_bytes=1, cast_bytes=7, has_attention=False
    )
    # The matrix once more, for fp16 has two bytes; both scales for each use; the cast constant.
    assert widened_bytes(network) == 1000 + 3 * 2 * 10 + 7


@pytest.mark.parametrize("variant", ["fp16", "bf16", "int8-fp16", "int8-qdq", "fp8-qdq"])
def test_float32_passed_off_as_something_else_fails(variant: str) -> None:
    built = _built(network=_network("fp32", "fp32"), layers=_layers("fp32", "fp32", fused=False))
    assert _proofs(built, "fp32")["linear types"].status == "passed"
    proof = _proofs(built, variant)["linear types"]
    assert proof.status == "failed"
    assert "its file asks for fp32" in proof.why
    assert "and 3 more" in proof.why


def test_one_linear_that_runs_wider_than_its_file_asks_fails() -> None:
    layers = list(_layers())
    layers[1] = _gemm("fp32", "fp32", *layers[1].nodes)
    proof = _proofs(_built(layers=tuple(layers)))["linear types"]
    assert proof.status == "failed"
    assert proof.why == "encoder/iteration_00/ffn/MatMul: runs in fp32 by fp32, not fp16"
    assert proof.found == "6 in fp16, 1 in fp32 by fp32"


def test_a_kernel_that_casts_its_own_operand_is_judged_by_its_weight() -> None:
    """What TensorRT makes of one row: layer normalization, Cast and product in one kernel."""
    cast, name = "encoder/iteration_00/norm/Cast_float16", "encoder/iteration_00/ffn/MatMul"
    network = _network()
    network = replace(
        network,
        products=tuple(replace(p, source=cast) if p.name == name else p for p in network.products),
    )
    for weight, status in (("fp16", "passed"), ("fp32", "failed")):
        layers = list(_layers())
        layers[1] = _gemm("fp32", weight, cast, name)
        proof = _proofs(_built(network=network, layers=tuple(layers)))["linear types"]
        assert proof.status == status
    # A Cast that is elsewhere leaves the product's operand wide.
    layers[1] = _gemm("fp32", "fp16", name)
    proof = _proofs(_built(network=network, layers=tuple(layers)))["linear types"]
    assert proof.status == "failed"


def test_an_int8_weight_made_real_fails_inside_the_iterations() -> None:
    network = _network("int8", "fp16")
    sound = _built(network=network, layers=_layers("int8", "fp16"))
    assert _proofs(sound, "int8-fp16")["linear types"].status == "passed"
    layers = list(_layers("int8", "fp16"))
    layers[1] = _gemm("fp16", "int8", *layers[1].nodes)
    proof = _proofs(_built(network=network, layers=tuple(layers)), "int8-fp16")["linear types"]
    assert proof.status == "failed"
    assert "runs in fp16 by int8, not int8" in proof.why


def test_a_weight_that_alone_is_quantized_is_as_its_file_has_it() -> None:
    mapping = _product("mapping_in/MatMul", "fp16", "int8", "fp16", weight_elements=1000)
    network = _network("int8", "fp16")
    network = replace(network, products=(mapping, *network.products))
    layers = (_gemm("fp16", "int8", "mapping_in/MatMul"), *_layers("int8", "fp16"))
    proof = _proofs(_built(network=network, layers=layers), "int8-fp16")["linear types"]
    assert (proof.status, proof.wanted) == ("passed", "6 in int8, 2 as the file has them")


def test_a_product_that_was_kept_on_purpose_may_be_wider() -> None:
    name = "encoder/iteration_01/ffn/MatMul"
    network = _network("int8", "fp16")
    network = replace(
        network,
        products=tuple(
            replace(p, data="fp16", weight="fp16") if p.name == name else p
            for p in network.products
        ),
    )
    layers = tuple(
        _gemm("fp16", "fp16", name) if name in layer.nodes else layer
        for layer in _layers("int8", "fp16")
    )
    built = _built(network=network, layers=layers)
    assert _proofs(built, "int8-fp16")["linear types"].status == "failed"
    assert _proofs(built, "int8-fp16", kept={name})["linear types"].status == "passed"


def test_attention_that_is_not_recognised_fails() -> None:
    proof = _proofs(_built(attention=()))["fused attention"]
    assert proof.status == "failed"
    log = _built().log.attention
    assert _proofs(_built(attention=log[:-1]))["fused attention"].status == "failed"


def test_attention_that_is_recognised_but_not_fused_fails_where_it_could_be() -> None:
    proof = _proofs(_built(layers=_layers(fused=False)))["fused attention"]
    assert (proof.status, proof.found) == ("failed", "6 nodes recognised, 0 uses in one kernel")
    # One profile of several that does not fuse is enough to fail.
    both = (*_layers(), *_layers(fused=False))
    assert _proofs(_built(layers=both))["fused attention"].status == "failed"


@pytest.mark.parametrize(
    ("real", "heads", "reason"), [("fp32", 64, "in fp32"), ("fp16", 8, "smaller than 16")]
)
def test_attention_without_a_kernel_is_said_to_be_written_out(
    real: str, heads: int, reason: str
) -> None:
    built = _built(network=_network(real, real, heads), layers=_layers(real, real, fused=False))
    proof = _proofs(built, real)["fused attention"]
    assert (proof.status, proof.wanted) == ("passed", "6 nodes recognised")
    assert reason in proof.why
    assert "written to memory" in proof.why


def test_the_attention_operator_needs_no_recognition() -> None:
    network = _network()
    network = replace(network, products=network.linears, has_attention=True)
    layers = tuple(
        replace(layer, nodes=(layer.nodes[0].replace("MatMul_1", "Attention"),))
        if "mha" in layer.name
        else layer
        for layer in _layers()
    )
    proof = _proofs(_built(network=network, layers=layers, attention=()))["fused attention"]
    assert (proof.status, proof.wanted) == ("passed", "one kernel for each of 2 uses")


def test_a_log_that_tells_nothing_proves_nothing() -> None:
    proofs = _proofs(_built(weights_bytes=None, attention=(), layers=()))
    assert {proof.status for proof in proofs.values()} == {"not proven"}
    assert all(proof.why for proof in proofs.values())


def test_names_alone_prove_no_types() -> None:
    inspector = {"Layers": ["encoder/iteration_00/ffn/MatMul"]}
    proofs = _proofs(_built(layers=(), inspector=inspector))
    assert proofs["sharing"].status == "passed"
    assert proofs["linear types"].status == "not proven"
    assert proofs["fused attention"].status == "not proven"


def test_a_part_that_is_listed_whole_proves_nothing() -> None:
    nodes = tuple(node for layer in _layers() for node in layer.nodes)
    whole = replace(_gemm("fp16", "fp16", *nodes), name="{ForeignNode[a...b]}")
    proofs = _proofs(_built(layers=(whole,)))
    assert proofs["linear types"].status == "not proven"
    assert proofs["fused attention"].status == "not proven"


def _json(layer: Layer) -> dict[str, Any]:
    names = {"fp16": "Half", "fp32": "Float"}

    def tensors(given: tuple[Tensor, ...]) -> list[dict[str, Any]]:
        return [{"Dimensions": list(t.shape), "Format/Datatype": names[t.type]} for t in given]

    return {
        "Name": layer.name,
        "LayerType": layer.kind,
        "Inputs": tensors(layer.inputs),
        "Constants": tensors(layer.constants),
        "Outputs": tensors(layer.outputs),
        "Metadata": "".join(f"[ONNX Layer: {node}]" for node in layer.nodes),
    }


def test_the_inspector_is_believed_before_the_log() -> None:
    inspector = {"Layers": [_json(layer) for layer in _layers()]}
    proofs = _proofs(_built(layers=(), inspector=inspector))
    assert {proof.status for proof in proofs.values()} == {"passed"}
    assert "inspector" in proofs["linear types"].why
    wide = {"Layers": [_json(layer) for layer in _layers("fp32", "fp32")]}
    assert _proofs(_built(inspector=wide))["linear types"].status == "failed"


def test_a_variant_that_tensorrt_does_not_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"'int8'.*int8-qdq"):
        prove(FILE, "int8", USES, _built())
