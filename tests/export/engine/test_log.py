"""Facts are read from lines that TensorRT logs, and from what its inspector gives."""

from __future__ import annotations

from albert_deploy.export.engine.log import (
    layers_of_inspector,
    layers_of_text,
    read_log,
    type_named,
)
from albert_deploy.runtime.trt.log import LogLine

# Lines of TensorRT for RTX 1.7.1, of an int8-fp16 variant; names are shortened.
_FORMAT = "Format: (Linear) Row major linear format"
QKV = (
    "Name: it/query/MatMul+it/key/MatMul_myl0_42, LayerType: gemm, Inputs: [ { Name: "
    "__myln_k_arg__bb1_62_myl0, Dimensions: [-1,768], Strides: [768,1], StrideOrder: [1,0], "
    f"Datatype: Int8, {_FORMAT} }}], Constants: [ {{ Name: __mye135273_dconst_myl0, Dimensions: "
    f"[768,2304], Strides: [2304,1], StrideOrder: [1,0], Datatype: Int8, {_FORMAT} }}, {{ Name: "
    "__mye124512it/value/MatMul_alpha_myl0, Dimensions: [1], Strides: [1], StrideOrder: [0], "
    f"Datatype: Float, {_FORMAT} }}], Outputs: [ {{ Name: __mye135278_myl0, Dimensions: "
    f"[-1,2304], Strides: [2304,1], StrideOrder: [1,0], Datatype: Half, {_FORMAT} }}], "
    "TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: it/query/MatMul]"
    "[ONNX Layer: it/x/DequantizeLinear][ONNX Layer: it/key/MatMul]"
)
MHA = (
    "Name: _gemm_mha_v2_myl0_9, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [-1,-1,64], "
    "Strides: [64,-1,1], StrideOrder: [1,2,0], Datatype: Half, Format: (Arbitrary) Format with "
    "stride order = [1,2,0] }, { Name: b, Dimensions: [-1,1,1,-1], Strides: [-1,-1,-1,1], "
    f"StrideOrder: [3,2,1,0], Datatype: Float, {_FORMAT} }}], Constants: [], Outputs: [ {{ Name: "
    "c, Dimensions: [-1,-1,64], Strides: [64,-1,1], StrideOrder: [1,2,0], Datatype: BFloat16, "
    "Format: (Arbitrary) Format with stride order = [1,2,0] }], TacticName: _gemm_mha_v2_0xdf82, "
    "StreamId: 0, Metadata: [ONNX Layer: it/MatMul_1][ONNX Layer: it/Softmax]"
)
SHAPES = (
    "Name: __mye44342_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], "
    "TacticName: , StreamId: 0, Metadata: "
)


def _lines(*texts: str, severity: str = "VERBOSE") -> list[LogLine]:
    return [LogLine(severity=severity, text=text) for text in texts]


def test_memory_and_attention_are_read() -> None:
    log = read_log(
        _lines(
            "Total Weights Memory: 23497088 bytes",
            "Max Scratch Memory: 23924736 bytes",
            "Total Activation Memory: 23924737 bytes",
            "Found it_1/MatMul_1 to be part of self-attention pattern.",
            "Found it_1/Softmax to be part of self-attention pattern.",
            "Layers:\n" + "\n".join((SHAPES, QKV, MHA)) + "\n\nI/O Tensors:\n Name: input_ids",
        )
        + _lines("cannot", severity="ERROR")
        + _lines("worse", severity="INTERNAL_ERROR")
        + _lines("hm", "hm", severity="WARNING")
    )
    assert (log.weights_bytes, log.scratch_bytes) == (23497088, 23924736)
    assert log.activation_bytes == 23924737
    assert log.attention == ("it_1/MatMul_1", "it_1/Softmax")
    assert [layer.kind for layer in log.layers] == ["shape_call", "gemm", "kgen"]
    assert log.errors == ("cannot", "worse")
    assert log.warnings == ("hm",)


def test_several_profiles_name_a_node_once_and_count_the_largest() -> None:
    log = read_log(
        _lines(
            "Max Scratch Memory: 7 bytes",
            "Max Scratch Memory: 9 bytes",
            "Found it_1/Softmax to be part of self-attention pattern.",
            "Found it_1/Softmax to be part of self-attention pattern.",
        )
    )
    assert log.scratch_bytes == 9
    assert log.attention == ("it_1/Softmax",)


def test_a_log_without_the_lines_says_nothing() -> None:
    log = read_log(_lines("Total Host Persistent Memory: 80 bytes"))
    assert log.weights_bytes is log.scratch_bytes is log.activation_bytes is None
    assert log.attention == ()
    assert log.layers == ()


def test_a_layer_has_its_nodes_and_types() -> None:
    (layer,) = layers_of_text(QKV)
    assert layer.nodes == ("it/query/MatMul", "it/x/DequantizeLinear", "it/key/MatMul")
    assert [t.type for t in layer.inputs] == ["int8"]
    assert [(t.type, t.shape, t.is_matrix) for t in layer.constants] == [
        ("int8", (768, 2304), True),
        ("fp32", (1,), False),
    ]
    assert [t.type for t in layer.outputs] == ["fp16"]
    (mha,) = layers_of_text(MHA)
    assert [t.type for t in mha.inputs] == ["fp16", "fp32"]
    assert [t.type for t in mha.outputs] == ["bf16"]
    assert mha.constants == ()
    assert not mha.is_opaque


def test_the_inspector_of_either_version_says_the_same() -> None:
    nodes = "[ONNX Layer: it/query/MatMul]\u001e[ONNX Layer: it/query/Add]"
    ten = {
        "Layers": [
            {
                "Name": "__myl_Fc_myl0_1",
                "LayerType": "gemm",
                "Inputs": [{"Name": "x", "Dimensions": [-1, 768], "Format/Datatype": "Half"}],
                "Outputs": [
                    {
                        "Name": "y",
                        "Dimensions": [-1, 768],
                        "Format/Datatype": "Row major linear FP16",
                    }
                ],
                "TacticName": "sm80_xmma_gemm_f16f16",
                "Metadata": nodes,
            }
        ],
        "Bindings": ["x", "y"],
    }
    eleven = {
        "Layers": [
            {
                "Name": "__myl_Fc_myl0_1",
                "LayerType": "gemm",
                "Inputs": [
                    {"Name": "x", "Dimensions": [-1, 768], "Datatype": "Half", "Format": _FORMAT}
                ],
                "Outputs": [
                    {"Name": "y", "Dimensions": [-1, 768], "Datatype": "Half", "Format": _FORMAT}
                ],
                "TacticName": "sm80_xmma_gemm_f16f16",
                "Metadata": nodes,
            }
        ],
        "I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Half"}],
    }
    (layer,) = layers_of_inspector(ten)
    assert layers_of_inspector(eleven) == (layer,)
    assert layer.nodes == ("it/query/MatMul", "it/query/Add")
    assert [t.type for t in (*layer.inputs, *layer.outputs)] == ["fp16", "fp16"]


def test_names_alone_and_opaque_parts_tell_no_types() -> None:
    named, whole = layers_of_inspector(
        {
            "Layers": [
                "it/query/MatMul + it/query/Add",
                {"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin", "Inputs": ["x"]},
            ]
        }
    )
    assert named.nodes == whole.nodes == ()
    assert not named.is_opaque
    assert whole.is_opaque
    assert layers_of_inspector({}) == ()


def test_types_have_one_name() -> None:
    said = ["Float", "Row major linear FP16 format", "BFloat16", "FP8", "Int64", "Complex"]
    assert [type_named(text) for text in said] == [
        "fp32", "fp16", "bf16", "fp8", "int64", "Complex"
    ]  # fmt: skip
