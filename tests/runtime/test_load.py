"""How a directory is loaded: the variant that is chosen, and what is refused, with the reason."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.runtime import load
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import file_record, read_manifest, write_manifest
from albert_deploy.runtime.pipeline import Model
from albert_deploy.runtime.recommend import recommend


@pytest.fixture(scope="module")
def deployed(make_export: Callable[..., Path]) -> Path:
    """A directory of a classifier; tests copy it before they touch it."""
    return make_export()


def test_what_cannot_be_answered_says_why(deployed: Path) -> None:
    model = load(deployed)
    asked: list[tuple[Any, str]] = [
        (3, "text 1 is of type int; text-classification takes a text or an object with text"),
        (None, "got nothing to answer"),
        ([None], "text 1 is null"),
        ([b"x"], "of type bytes"),
        ([["a", "b"]], "of type list"),
        ({"txt": "a"}, "lacks text"),
        ({"text": "a", "label": 1}, "has 'label' too"),
        ({"text": 1}, "has a text that is of type int"),
        (["a", {"text": None}], "text 2 has a text that is null"),
        (["a", "\ud800"], "cannot tokenize text 2"),
    ]
    for given, message in asked:
        with pytest.raises(InputError) as caught:
            model(given)
        assert message in str(caught.value)
    for options, message in (
        ({"topk": 1}, "topk is no option at all, not even of text-classification; it takes"),
        ({"align_to_words": True}, "align_to_words is no option of text-classification"),
        ({"top_k": 0}, "top_k is 0; use at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"function_to_apply": "tanh"}, "'tanh'; use one of: sigmoid"),
        ({"question": "a"}, "question is no part of an input"),
    ):
        with pytest.raises(InputError) as caught:
            model("a", **options)
        assert message in str(caught.value)
    assert model([]) == []


def test_bad_inputs_are_answered_in_their_place_where_asked(deployed: Path) -> None:
    model = load(deployed)
    told = [{"label": "x"}, InputError("row 7 is gone"), "fine", "long " * 80]
    found = list(model.stream(told, noun="line", skip_bad=True))
    assert "line 1 lacks text" in found[0]["error"]
    assert found[1] == {"error": "row 7 is gone"}
    assert [found[2]] == model("fine")
    assert "line 4 has" in found[3]["error"]
    answers = model.stream(["fine", "fine", {}, "fine"])
    assert [next(answers), next(answers)] == [found[2]] * 2
    with pytest.raises(InputError, match="text 3 lacks text"):
        next(answers)


class Broken:
    engine = "ort"
    outputs = ("logits",)

    def run(self, feeds: Any) -> dict[str, Any]:
        return {"logits": np.array([[0.0, np.nan]] * len(feeds["input_ids"]), np.float32)}

    def close(self) -> None:
        pass


def test_an_output_that_is_not_finite_is_no_answer(deployed: Path) -> None:
    model = load(deployed)
    broken = Model(Broken(), model._info, variant="fp32", ranked=False)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="logits is NaN or infinite"):
        broken("a")


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_with_another_hash_is_not_loaded(deployed: Path, tmp_path: Path, name: str) -> None:
    out = shutil.copytree(deployed, tmp_path / "out")
    content = bytearray((out / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / name).write_bytes(content)
    with pytest.raises(ContractError, match=name):
        load(out)


def test_a_closed_model_does_not_answer(deployed: Path) -> None:
    with load(deployed) as model:
        assert model("a")
    with pytest.raises(InputError, match="closed"):
        model("a")


def judged(out: Path, verdicts: dict[str, str], latencies: dict[str, float]) -> dict[str, Any]:
    """Write a report and latencies into a copy, where int8 and fp16 stand for real files."""
    manifest = read_manifest(out)
    for name in ("int8", "fp16"):
        file = f"onnx/model_{name}.onnx"
        shutil.copy(out / "onnx/model.onnx", out / file)
        manifest["files"][file] = file_record(out / file)
        manifest["variants"][name] = {"file": file}
    for name, time_ms in latencies.items():
        manifest["variants"][name]["latency"] = {"median_ms": time_ms}
    sha256 = manifest["files"]["onnx/model.onnx"]["sha256"]
    rows = {name: {"verdict": told, "sha256": sha256} for name, told in verdicts.items()}
    (out / "reports").mkdir(exist_ok=True)
    report = out / "reports/validation.json"
    report.write_text(json.dumps({"variants": rows}), encoding="utf-8")
    manifest["files"]["reports/validation.json"] = file_record(report)
    write_manifest(out, manifest)
    return manifest


@pytest.mark.parametrize(
    ("verdicts", "latencies", "wanted"),
    [
        ({}, {"int8": 1.0, "fp32": 2.0}, "fp32"),
        ({"fp32": "pass", "int8": "pass"}, {}, "fp32"),
        ({"fp32": "pass", "int8": "pass"}, {"int8": 1.0, "fp32": 2.0}, "int8"),
        ({"fp32": "pass", "int8": "pass"}, {"int8": 3.0, "fp32": 2.0}, "fp32"),
        ({"fp32": "pass", "int8": "fail"}, {"int8": 1.0, "fp32": 2.0}, "fp32"),
        ({"fp32": "pass", "int8": "undecided"}, {"int8": 1.0, "fp32": 2.0}, "fp32"),
        ({"fp32": "pass", "fp16": "pass"}, {"int8": 1.0, "fp32": 3.0, "fp16": 2.0}, "fp16"),
    ],
)
def test_auto_is_the_fastest_variant_that_passed(
    deployed: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    verdicts: dict[str, str],
    latencies: dict[str, float],
    wanted: str,
) -> None:
    out = shutil.copytree(deployed, tmp_path / "out")
    judged(out, verdicts, latencies)
    with caplog.at_level(logging.INFO):
        model = load(out)
        model("a")
        model("b")
    assert model.variant == wanted
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("albert_deploy")]
    assert f"{wanted} in ort" in line


def test_a_report_of_other_bytes_recommends_nothing(deployed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(deployed, tmp_path / "out")
    times = {"int8": 1.0, "fp32": 2.0}
    manifest = judged(out, {"fp32": "pass", "int8": "pass"}, times)
    manifest["files"]["onnx/model_int8.onnx"]["sha256"] = "0" * 64  # made again since
    write_manifest(out, manifest)
    assert recommend(out, manifest).variant == "fp32"
    assert recommend(out, manifest, variant="int8").variant == "int8"
    with pytest.raises(ContractError, match="model_int8"):
        load(out, variant="int8")
    (out / "reports/validation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ContractError, match=r"validation\.json"):
        load(out)


def test_what_is_asked_for_is_held_to(deployed: Path) -> None:
    out = deployed
    assert load(out, engine="openvino").engine == "openvino"
    for options, message in (
        ({"variant": "int9"}, "unknown variant"),
        ({"engine": "tf"}, "unknown engine"),
    ):
        with pytest.raises(InputError, match=message):
            load(out, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds no onnx/model_int8"):
        load(out, variant="int8")
    with pytest.raises(MachineError, match="no plan runs here"):
        load(out, engine="trt", trust=True)
    with pytest.raises(InputError, match="not a deployment directory"):
        load(out / "onnx")
