"""The invariants fail when they are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from models import PRETRAINING
from onnx import helper, numpy_helper

from albert_deploy.export.checks import check_artifact
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime.contract import TASKS, input_specs, output_specs
from albert_deploy.runtime.errors import ContractError


@pytest.fixture(scope="module")
def exported(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("checks") / "out"
    source = make_checkpoint("pretraining", **PRETRAINING)
    return out / "onnx/model.onnx", export(str(source), ExportConfig(), out=out)


def _check(path: Path, manifest: dict[str, Any]) -> None:
    task = TASKS[manifest["task"]]
    config = manifest["source"]["config"]
    check_artifact(
        path,
        variant="fp32",
        parameter_bytes=manifest["parameter_bytes"],
        inputs=input_specs(task),
        outputs=output_specs(task, config),
    )


def _broken(exported: tuple[Path, dict[str, Any]], change: Callable[[Any], None]) -> Path:
    model = onnx.load(exported[0])
    change(model.graph)
    path = exported[0].with_name("broken.onnx")
    onnx.save(model, path)
    return path


def test_an_export_holds_all_invariants(exported: tuple[Path, dict[str, Any]]) -> None:
    _check(*exported)


def test_a_copied_weight_breaks_the_byte_budget(exported: tuple[Path, dict[str, Any]]) -> None:
    def copy_table(graph: Any) -> None:
        table = next(
            t for t in graph.initializer if list(t.dims) == [PRETRAINING["vocab_size"], 16]
        )
        array = numpy_helper.to_array(table)
        graph.initializer.append(numpy_helper.from_array(array, "copy"))
        node = next(n for n in graph.node if n.op_type == "Transpose" and table.name in n.input)
        node.input[0] = "copy"

    with pytest.raises(ContractError, match="budget"):
        _check(_broken(exported, copy_table), exported[1])


def test_a_lost_head_breaks_the_contract(exported: tuple[Path, dict[str, Any]]) -> None:
    def drop_head(graph: Any) -> None:
        del graph.output[1]

    with pytest.raises(ContractError, match="sop_logits"):
        _check(_broken(exported, drop_head), exported[1])


def test_a_fixed_axis_breaks_the_contract(exported: tuple[Path, dict[str, Any]]) -> None:
    def fix_axis(graph: Any) -> None:
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(ContractError, match="input_ids"):
        _check(_broken(exported, fix_axis), exported[1])


def test_a_foreign_operator_breaks_the_contract(exported: tuple[Path, dict[str, Any]]) -> None:
    def add_foreign(graph: Any) -> None:
        tanh = next(n for n in graph.node if n.op_type == "Tanh")
        tanh.CopyFrom(helper.make_node("FastGelu", tanh.input, tanh.output, domain="com.microsoft"))

    with pytest.raises(ContractError, match=r"com\.microsoft\.FastGelu"):
        _check(_broken(exported, add_foreign), exported[1])


def test_a_dangling_input_breaks_the_contract(exported: tuple[Path, dict[str, Any]]) -> None:
    def cut(graph: Any) -> None:
        next(n for n in graph.node if n.op_type == "Tanh").input[0] = "nothing"

    with pytest.raises(ContractError):
        _check(_broken(exported, cut), exported[1])
