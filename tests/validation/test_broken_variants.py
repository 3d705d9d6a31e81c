"""A variant that is damaged, wrong, not finite or hung ends in its code, with every report."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import write_sst2

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError, MachineError, ParityError
from albert_deploy.runtime.manifest import file_record, read_manifest, write_manifest
from albert_deploy.scripts.cli.main import main

pytestmark = pytest.mark.medium

CONTRACT, PARITY, MACHINE = (e.exit_code for e in (ContractError, ParityError, MachineError))
TEXTS = ("the film was long", "a warm river", "who was it", "what is the film", "the warm film")
INT8 = VARIANTS["int8"].file


def _released(source: Path, out: Path, task: str) -> Path:
    arguments = ["export", str(source), "--task", task, "--out", str(out)]
    main(arguments)
    main(["quantize", str(out), "--variants", "int8"])
    return out


@pytest.fixture(scope="module")
def classifier(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    source = make_checkpoint(max_position_embeddings=16)
    return _released(source, tmp_path_factory.mktemp("classifier") / "out", "text-classification")


@pytest.fixture(scope="module")
def reader(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = make_checkpoint("question-answering", max_position_embeddings=32)
    return _released(source, tmp_path_factory.mktemp("reader") / "out", "question-answering")


@pytest.fixture
def deployed(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "out"))


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return write_sst2(tmp_path / "dev.tsv", TEXTS)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    context = "the river was long and warm. a film of the river is in paris, not in london!"
    answers = [{"text": "paris", "answer_start": context.index("paris")}]
    asked = ("where is it", "what is the film", "who was it")
    qas = [{"id": f"q{i}", "question": q, "answers": answers} for i, q in enumerate(asked)]
    file = tmp_path / "dev-v1.1.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    return file


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A handful of rows decides nothing, which is not what is tested here."""
    path = tmp_path / "gate.toml"
    path.write_text('[statistics]\nundecided = "pass"\n[int8]\nmin_score_share = "off"\n')
    return path


def _renew(directory: Path, file: str) -> None:
    """Record a file as it is now, as whoever made it broken would have."""
    manifest = read_manifest(directory)
    manifest["files"][file] = file_record(directory / file)
    write_manifest(directory, manifest)


def _edit(directory: Path, change: Callable[[Any], None], file: str = INT8) -> None:
    import onnx

    model = onnx.load(directory / file)
    change(model)
    onnx.checker.check_model(model)
    onnx.save(model, directory / file)
    _renew(directory, file)


def _code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["validate", *map(str, arguments)])
    return int(stop.value.code or 0)


def _told(directory: Path, variant: str, hint: str) -> dict[str, Any]:
    """Check that every report tells the failure and is recorded; return the first of them."""
    import junitparser

    reports = directory / "reports"
    report: dict[str, Any] = json.loads((reports / "validation.json").read_text())
    assert report["verdict"] == "fail"
    assert report["reason"].startswith(f"{variant}: ")
    entry = report["variants"][variant]
    assert entry["verdict"] == "fail"
    messages = [c["message"] for c in entry["checks"] if c["verdict"] == "fail"]
    assert any(hint in message for message in (*messages, entry["failure"] or ""))
    suites = junitparser.JUnitXml.fromfile(str(reports / "junit.xml"))
    bad = [case for suite in suites for case in suite for found in case.result if found.message]
    assert bad, "no case of junit.xml fails"
    assert hint in (reports / "junit.xml").read_text().replace("&apos;", "'")
    page = (reports / "report.html").read_text()
    assert hint in page.replace("&#39;", "'").replace("&lt;", "<")
    assert variant in (reports / "summary.md").read_text()
    manifest = read_manifest(directory)
    assert manifest["steps"]["validate"]["verdict"] == "fail"
    for name in ("validation.json", "junit.xml", "report.html", "summary.md"):
        record = manifest["files"][f"reports/{name}"]
        assert record == file_record(reports / name)
    return report


def test_a_corrupted_file_is_told_and_the_others_are_judged(
    deployed: Path,
    reviews: Path,
    gate: Path,
    assert_documented: Callable[[dict[str, Any]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = bytearray((deployed / INT8).read_bytes())
    content[len(content) // 2] ^= 0x40
    (deployed / INT8).write_bytes(content)
    assert _code(deployed, "--dataset", f"sst2={reviews}", "--gate", gate) == CONTRACT
    report = _told(deployed, "int8", "is not the file that the manifest recorded")
    assert_documented(report)
    int8, fp32 = report["variants"]["int8"], report["variants"]["fp32"]
    assert [(c["kind"], c["verdict"]) for c in int8["checks"]] == [("contract", "fail")]
    assert int8["metrics"] == int8["parity"] == {}
    assert fp32["verdict"] == "pass"
    assert fp32["failure"] is None
    assert fp32["metrics"]["accuracy"]["source"] == fp32["metrics"]["accuracy"]["variant"]
    assert fp32["metamorphic"]
    kept = {path.name for path in (deployed / "reports/predictions").iterdir()}
    assert kept == {"source.jsonl.gz", "fp32.jsonl.gz"}
    error = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    assert error.startswith("error: int8: ")


def _swap(model: Any) -> None:
    """Give each output of a reader the name of the other."""
    names = {"start_logits": "end_logits", "end_logits": "start_logits"}
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_swapped_outputs_break_parity(
    variant: str, reader: Path, questions: Path, gate: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(reader, tmp_path / "out"))
    _edit(directory, _swap, VARIANTS[variant].file)
    assert _code(directory, "--dataset", f"squad={questions}", "--gate", gate) == PARITY
    report = _told(directory, variant, "start_logits")
    failed = {c["kind"] for c in report["variants"][variant]["checks"] if c["verdict"] == "fail"}
    assert "parity" in failed
    right = report["variants"]["fp32" if variant == "int8" else "int8"]
    assert not [c for c in right["checks"] if (c["kind"], c["verdict"]) == ("parity", "fail")]


def _poison(model: Any) -> None:
    """Let one class have no finite logit."""
    import numpy as np
    from onnx import numpy_helper

    bias = next(i for i in model.graph.initializer if i.name == "classifier.bias")
    values = numpy_helper.to_array(bias).copy()
    values[1] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))


@pytest.mark.parametrize("data", [True, False])
def test_values_that_are_not_finite_break_parity(
    data: bool,
    deployed: Path,
    reviews: Path,
    gate: Path,
    assert_documented: Callable[[dict[str, Any]], None],
) -> None:
    _edit(deployed, _poison)
    labelled = ("--dataset", f"sst2={reviews}") if data else ()
    assert _code(deployed, *labelled, "--gate", gate) == PARITY
    report = _told(deployed, "int8", "NaN")
    assert_documented(report)
    assert report["variants"]["int8"]["parity"]["logits"]["finite"] is False
    assert report["variants"]["fp32"]["verdict"] == "pass"
    if data:
        with gzip.open(deployed / "reports/predictions/int8.jsonl.gz", "rt") as file:
            lines = [json.loads(line) for line in file]
        assert [line["prediction"] for line in lines] == [None] * len(TEXTS)
        assert all(line["logits"][1] is None for line in lines)


@pytest.mark.parametrize(
    ("variant", "hint"),
    [("int8", "has none of the source's matrices"), ("fp32", "the fp32 graph has no hidden state")],
)
def test_another_network_under_the_name_of_a_variant_is_told(
    variant: str, hint: str, deployed: Path, reviews: Path, gate: Path
) -> None:
    """The answers have the right shape; nothing inside is what the steps of the network are."""
    import onnx
    from onnx import TensorProto, helper

    def replace(model: Any) -> None:
        ids = model.graph.input[0].name
        nodes = [
            helper.make_node("Cast", [ids], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["real", "axis"], ["mean"], keepdims=1),
            helper.make_node("Concat", ["mean", "mean"], ["logits"], axis=1),
        ]
        axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
        graph = helper.make_graph(
            nodes, "other", list(model.graph.input), list(model.graph.output), [axis]
        )
        opsets = [helper.make_opsetid("", 20)]
        model.CopyFrom(helper.make_model(graph, opset_imports=opsets, ir_version=10))
        onnx.checker.check_model(model)

    _edit(deployed, replace, VARIANTS[variant].file)
    assert _code(deployed, "--dataset", f"sst2={reviews}", "--gate", gate) == CONTRACT
    report = _told(deployed, variant, hint)
    kinds = {c["kind"] for c in report["variants"][variant]["checks"] if c["verdict"] == "fail"}
    assert kinds >= {"contract", "parity"}
    other = "fp32" if variant == "int8" else "int8"
    assert report["variants"][other]["verdict"] == "pass"


def test_a_file_that_the_engine_refuses_is_told(deployed: Path, reviews: Path, gate: Path) -> None:
    (deployed / INT8).write_bytes(b"no model at all")
    _renew(deployed, INT8)
    assert _code(deployed, "--dataset", f"sst2={reviews}", "--gate", gate) == CONTRACT
    report = _told(deployed, "int8", "model_int8.onnx")
    assert report["variants"]["int8"]["failure"]
    assert report["variants"]["fp32"]["verdict"] == "pass"


def _hang(model: Any) -> None:
    """Let the output go through a loop that takes years; its state keeps it from being folded."""
    from onnx import TensorProto, helper

    graph = model.graph
    last = next(node for node in graph.node if "logits" in node.output)
    last.output[:] = ["before the loop"]
    real, flag = TensorProto.FLOAT, TensorProto.BOOL
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still going"]),
            helper.make_node("Tanh", ["state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", flag, []),
            helper.make_tensor_value_info("state", real, None),
        ],
        [
            helper.make_tensor_value_info("still going", flag, []),
            helper.make_tensor_value_info("next", real, None),
        ],
    )
    graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [2**62]))
    graph.node.append(
        helper.make_node("Loop", ["turns", "", "before the loop"], ["logits"], body=body)
    )


# Sleeps where the test above computes: an engine that waits for something that never comes.
SLEEPING = """
import sys, time
from albert_deploy.scripts.cli.main import main
from albert_deploy.validation import collect

class Sleeping:
    def __init__(self, session): self.session, self.engine = session, session.engine
    @property
    def outputs(self): return self.session.outputs
    def run(self, feeds): time.sleep(3600)
    def close(self): self.session.close()
    def __enter__(self): return self
    def __exit__(self, *_): self.close()

real = collect.open_variant
def opened(directory, manifest, variant, engine):
    session = real(directory, manifest, variant, engine)
    return Sleeping(session) if variant == "int8" else session
collect.open_variant = opened
main(sys.argv[1:])
"""
COMMANDS = {"computes for ever": ("-m", "albert_deploy.scripts.cli"), "sleeps": ("-c", SLEEPING)}


@pytest.mark.medium
@pytest.mark.parametrize("how", COMMANDS)
def test_a_hung_engine_is_told_and_the_process_ends(
    how: str,
    deployed: Path,
    reviews: Path,
    gate: Path,
    assert_documented: Callable[[dict[str, Any]], None],
) -> None:
    if how == "computes for ever":
        _edit(deployed, _hang)
    arguments = ("validate", deployed, "--dataset", f"sst2={reviews}", "--gate", gate)
    limit = 5
    done = subprocess.run(
        [sys.executable, *COMMANDS[how], *map(str, arguments), "--timeout", str(limit)],
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=600,  # It would hang for an hour.
        check=False,
    )
    assert done.returncode == MACHINE, done.stderr
    assert done.stderr.rstrip("\n").split("\n")[-1].startswith("error: int8: ")
    report = _told(deployed, "int8", f"gave no answer within {limit} s")
    assert_documented(report)
    assert "raise the timeout" in report["variants"]["int8"]["failure"]
    assert report["variants"]["fp32"]["verdict"] == "pass"
    assert not (deployed / "reports/.progress").exists()
