"""Files are written once, byte for byte the same, and read back without their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from albert_deploy.export.graph import file as onnx_file
from albert_deploy.runtime.errors import ContractError, InputError


@pytest.fixture
def proto() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weights = {
        "big": random.normal(size=(64, 32)).astype(np.float32),
        "small": random.normal(size=32).astype(np.float32),
        "half": random.normal(size=(32, 64)).astype(np.float16),
    }
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 64])
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["a"]),
        helper.make_node("Add", ["a", "small"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["c", "half"], ["y"]),
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model.metadata_props.add(key="task", value="test")
    return model


def _arrays(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("external_bytes", [onnx_file.EXTERNAL_BYTES, 100])
def test_round_trip(proto: onnx.ModelProto, external_bytes: int, tmp_path: Path) -> None:
    model = ir.from_proto(proto)
    path = tmp_path / "one" / "model.onnx"
    files = onnx_file.save(model, path, external_bytes=external_bytes)
    assert len(files) == (2 if external_bytes == 100 else 1)
    onnx.checker.check_model(path, full_check=True)
    wanted = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    again = tmp_path / "two" / "model.onnx"
    # Written from the mapped file, not from memory, and still the same bytes.
    onnx_file.save(onnx_file.load(path), again, external_bytes=external_bytes)
    for read in (_arrays(path), _arrays(again)):
        assert read.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(read[name], array)
    assert path.read_bytes() == again.read_bytes()
    assert onnx.load(path).metadata_props[0].value == "test"
    assert onnx_file.total_bytes(path) == sum(f.stat().st_size for f in files)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(["y"], {"x": x})[0].shape == (3, 64)


def test_load_maps_large_weights_instead_of_reading_them(
    proto: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx_file.save(ir.from_proto(proto), path)
    model = onnx_file.load(path)
    assert isinstance(model.graph.initializers["big"].const_value, ir.ExternalTensor)
    assert not isinstance(model.graph.initializers["small"].const_value, ir.ExternalTensor)


def test_weights_outside_the_folder_are_refused(proto: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx_file.save(ir.from_proto(proto), path, external_bytes=100)
    text = path.read_bytes()
    assert text.count(b"model.onnx_data") == 2
    path.write_bytes(text.replace(b"model.onnx_data", b"../../../secret"))
    with pytest.raises(ContractError, match="outside its folder"):
        onnx_file.load(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 3000])
def test_a_truncated_file_is_refused(proto: onnx.ModelProto, keep: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx_file.save(ir.from_proto(proto), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a readable ONNX file"):
        onnx_file.load(path)


def test_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(InputError, match="not a readable ONNX file"):
        onnx_file.load(path)
