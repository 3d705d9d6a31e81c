"""Every task and geometry, from checkpoint to validated variants, at tiny size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from models import FUSED, GEOMETRIES

from albert_deploy.export.samples.random import random_checkpoint
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import DEFAULT_VARIANTS, FAMILIES, TASKS, VARIANTS
from albert_deploy.runtime.manifest import sha256_of
from albert_deploy.validation.evaluate.evaluate import EvaluateConfig
from albert_deploy.validation.gate.gate import raise_for_verdict
from albert_deploy.validation.step import ValidateConfig, validate

Make = Callable[..., Path]


def _validated(source: Path, out: Path) -> dict[str, Any]:
    export(str(source), ExportConfig(), out=out)
    quantize(out, QuantizeConfig())
    config = ValidateConfig(evaluate=EvaluateConfig(unlabelled_rows=4), trace_rows=0)
    report = validate(out, config)
    raise_for_verdict(report)
    return report


def _nodes(out: Path, variant: str) -> list[onnx.NodeProto]:
    return list(onnx.load(out / VARIANTS[variant].file).graph.node)


@pytest.mark.medium
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_both_families(
    task: str, family: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    import torch
    import transformers

    out = tmp_path / "out"
    source = make_checkpoint(task, family, **FUSED)
    report = _validated(source, out)
    assert list(report["variants"]) == list(DEFAULT_VARIANTS)
    model = getattr(transformers, FAMILIES[family] + TASKS[task].architecture)
    ids = torch.full((1, 2, 3) if task == "multiple-choice" else (1, 3), 7)
    reference = model.from_pretrained(source)(ids)
    names = [o.name for o in onnx.load(out / "onnx/model.onnx").graph.output]
    # Whatever the head returns is an output of the file: no head is lost.
    assert names == list(reference.keys())
    for variant in DEFAULT_VARIANTS:
        assert list(report["variants"][variant]["parity"]) == names
        grid = report["variants"][variant]["grid"]
        assert all(output["finite"] for output in grid.values())


@pytest.mark.medium
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_geometry(name: str, make_checkpoint: Make, tmp_path: Path) -> None:
    config = FUSED | GEOMETRIES[name]
    out = tmp_path / "out"
    _validated(make_checkpoint(**config), out)
    layers, inner = config.get("num_hidden_layers", 3), config.get("inner_group_num", 1)
    iterations = Counter(
        node.name.split("/")[1] for node in _nodes(out, "fp32") if "/iteration_" in node.name
    )
    assert sorted(iterations) == [f"iteration_{i:02d}" for i in range(layers)]
    # Q, K, V, output, two of the feed-forward and attention's own two for each layer use; the
    # mapping in; the pooler.
    quantized = [n.name for n in _nodes(out, "int8") if n.op_type == "MatMulInteger"]
    assert sum("encoder/iteration" in n for n in quantized) == 8 * layers * inner
    assert "encoder/embedding_hidden_mapping_in/MatMulInteger" in quantized


@pytest.mark.medium
@pytest.mark.parametrize("task", ["fill-mask", "pretraining"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tied_matrix_is_stored_once(
    task: str, family: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _validated(make_checkpoint(task, family, vocab_size=3000), out)
    width = 16 if family == "albert" else 32
    for variant, kind in (("fp32", 1), ("fp16", 10), ("int8", 3)):
        graph = onnx.load(out / VARIANTS[variant].file).graph
        tables = [t for t in graph.initializer if sorted(t.dims) == [width, 3000]]
        assert [t.data_type for t in tables] == [kind]
        readers = {n.op_type for n in graph.node if tables[0].name in n.input}
        assert readers == {"Gather", "Transpose"}


@pytest.mark.medium
def test_an_untied_decoder_keeps_its_own_matrix(make_checkpoint: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _validated(make_checkpoint("fill-mask", tie_word_embeddings=False), out)
    graph = onnx.load(out / "onnx/model.onnx").graph
    assert sum(sorted(t.dims) == [16, 200] for t in graph.initializer) == 2


@pytest.mark.medium
@pytest.mark.usefixtures("really_exported")
def test_two_exports_are_byte_identical(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("pretraining")
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    for folder, out in ((source, "one"), (moved, "two")):
        export(str(folder), ExportConfig(), out=tmp_path / out)
        quantize(tmp_path / out, QuantizeConfig())
    for variant in map(VARIANTS.__getitem__, DEFAULT_VARIANTS):
        assert sha256_of(tmp_path / "one" / variant.file) == sha256_of(
            tmp_path / "two" / variant.file
        )


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnxruntime_quantizes_every_encoder_matmul(make_export: Make, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    out = make_export(num_hidden_layers=12)
    quantize_dynamic(out / "onnx/model.onnx", tmp_path / "peer.onnx")
    peer = onnx.load(tmp_path / "peer.onnx").graph.node
    linear = [n for n in _nodes(out, "fp32") if n.op_type == "MatMul" and "weight" in n.input[1]]
    assert sum(n.op_type == "MatMulInteger" for n in peer) == len(linear) == 12 * 6 + 3


@pytest.mark.medium
def test_a_half_precision_checkpoint_is_exported_in_float32(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    import torch
    import transformers

    source = tmp_path / "half"
    model = transformers.AlbertForSequenceClassification.from_pretrained(make_checkpoint())
    model.to(torch.bfloat16).save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(make_checkpoint() / name, source / name)
    report = _validated(source, tmp_path / "out")
    assert report["variants"]["fp32"]["parity"]["logits"]["relative"] < 1e-5


@pytest.mark.medium
def test_the_manifest_tells_what_was_done(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("question-answering")
    manifest = export(str(source), ExportConfig(), out=tmp_path / "out")
    assert manifest["source"]["path"] == str(source)
    assert manifest["source"]["sha256"] == sha256_of(source / "model.safetensors")
    assert manifest["source"]["config"]["architectures"] == ["AlbertForQuestionAnswering"]
    assert [o["name"] for o in manifest["contract"]["outputs"]] == ["start_logits", "end_logits"]
    for name, record in manifest["files"].items():
        assert record["sha256"] == sha256_of(tmp_path / "out" / name)
    for step in ("load", "trace", "write"):
        assert manifest["steps"][step]["peak_memory_bytes"] > 2**20
        assert manifest["steps"][step]["seconds"] > 0


@pytest.mark.slow
def test_base_geometry_holds_the_byte_budgets(base_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = _validated(base_checkpoint, out)
    for variant, limit in (("fp32", 48.7e6), ("fp16", 24.4e6), ("int8", 13.2e6)):
        assert (out / VARIANTS[variant].file).stat().st_size <= limit
        assert report["variants"][variant]["bytes"] <= limit
    encoder = [
        row
        for row in quantize(out, QuantizeConfig())["variants"]["int8"]["coverage"]
        if ".encoder." in row["weight"]
    ]
    assert sum(row["uses"] for row in encoder) == sum(row["converted"] for row in encoder) == 73


@pytest.mark.slow
def test_xxlarge_geometry_is_exported_in_bounded_memory(tmp_path: Path) -> None:
    source = tmp_path / "source"
    random_checkpoint("xxlarge", out=source)
    # A process of its own: what earlier tests left in memory must not count.
    code = (
        "import sys; from pathlib import Path; "
        "from albert_deploy.export.step import ExportConfig, export; "
        "export(sys.argv[1], ExportConfig(), out=Path(sys.argv[2]))"
    )
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", code, str(source), str(out)], check=True)
    manifest = json.loads((out / "manifest.json").read_text())
    limit = 3.5 * manifest["parameter_bytes"]
    assert manifest["parameter_bytes"] > 890e6
    assert all(
        manifest["steps"][s]["peak_memory_bytes"] < limit for s in ("load", "trace", "write")
    )
    shutil.rmtree(source)
    shutil.rmtree(out)
