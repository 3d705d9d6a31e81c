"""The bill of materials and the card of a bundle say what the evidence says, in standard forms."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from albert_deploy.runtime.contract import TASKS
from albert_deploy.scripts.bundle.bom import bom
from albert_deploy.scripts.bundle.card import USES, card

SHA = "ab" * 32
EPOCH = 1_700_000_000
FILES = {
    "config.json": {"sha256": "01" * 32, "bytes": 10},
    "onnx/model.onnx": {"sha256": "02" * 32, "bytes": 1000},
    "onnx/model_int8_qdq.onnx": {"sha256": "03" * 32, "bytes": 300},
    "engines/sm89-fp32.plan": {"sha256": "04" * 32, "bytes": 50},
    "engines/sm89-fp32.json": {"sha256": "05" * 32, "bytes": 40},
}
MANIFEST: dict[str, Any] = {
    "task": "text-classification",
    "source": {
        "path": "someone/albert",
        "revision": "c0ffee",
        "sha256": SHA,
        "config": {"architectures": ["AlbertForSequenceClassification"]},
    },
    "contract": {
        "family": "albert",
        "inputs": [{"name": "input_ids", "dtype": "int64", "axes": ["batch", "sequence"]}],
        "outputs": [{"name": "logits", "dtype": "float32", "axes": ["batch", 2]}],
        "labels": ["bad", "good"],
        "max_length": 64,
    },
    "opset": 20,
    "versions": {"python": "3.11.7", "albert-deploy": "0.1.0", "torch": "2.13.0+cpu", "onnx": None},
    "variants": {
        "fp32": {"file": "onnx/model.onnx"},
        "int8-qdq": {
            "file": "onnx/model_int8_qdq.onnx",
            "made_from": {
                "scheme": {"dtype": "int8", "options": {"rule": "mse"}},
                "texts": {"name": "sst2", "file": "train.tsv", "sha256": "06" * 32, "rows": 256},
            },
        },
    },
    "engines": {
        "sm89-fp32": {
            "file": "engines/sm89-fp32.plan",
            "record": "engines/sm89-fp32.json",
            "flavour": "tensorrt_rtx",
            "version": "1.7.1",
            "variant": "fp32",
        }
    },
}


def judged(score: float, size: int) -> dict[str, Any]:
    metric = {
        "source": 94.0,
        "variant": score,
        "difference": score - 94.0,
        "interval": [-1.25, 0.25],
        "variant_interval": [91.5, 95.5],
        "confidence": 0.95,
    }
    return {
        "verdict": "pass",
        "bytes": size,
        "metrics": {"accuracy": metric},
        "agreement": 0.99,
        "changed_predictions": 9,
        "parity": {},
    }


REPORT: dict[str, Any] = {
    "verdict": "pass",
    "task": "text-classification",
    "dataset": {
        "name": "sst2",
        "rows": 872,
        "labelled": True,
        "file": "dev.tsv",
        "sha256": "07" * 32,
        "revision": "main1",
    },
    "variants": {"fp32": judged(94.0, 1000), "int8-qdq": judged(93.5, 300)},
    "engines": {},
}
UNLABELLED: dict[str, Any] = {
    "verdict": "pass",
    "task": "text-classification",
    "dataset": {"name": None, "rows": 64, "labelled": False},
    "variants": {name: judged(94.0, 1) | {"metrics": {}} for name in ("fp32", "int8-qdq")},
}


def made(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"manifest": MANIFEST, "report": REPORT, "files": FILES}
    values |= {"licence": "Apache-2.0", "epoch": EPOCH} | changes
    manifest, report, files = (values.pop(name) for name in ("manifest", "report", "files"))
    return bom(manifest, report, files, **values)


def properties(part: dict[str, Any]) -> dict[str, str]:
    return {p["name"].removeprefix("albert-deploy:"): p["value"] for p in part["properties"]}


@pytest.mark.parametrize("licence", [None, "mit", "Some Licence of our own"])
@pytest.mark.parametrize("report", [REPORT, UNLABELLED, None], ids=["scores", "texts", "none"])
def test_it_holds_the_official_schema(report: dict[str, Any] | None, licence: str | None) -> None:
    pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib[json-validation]")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    value = made(report=report, licence=licence)
    assert validator.validate_str(json.dumps(value)) is None
    value["metadata"]["component"]["modelCard"]["modelParameters"]["task"] = 1
    assert validator.validate_str(json.dumps(value)) is not None


def test_the_number_follows_from_the_contents() -> None:
    first = made()
    assert made() == first
    assert first["serialNumber"].startswith("urn:uuid:")
    files = copy.deepcopy(FILES)
    files["config.json"]["sha256"] = "ff" * 32
    others = [made(files=files), made(licence=None), made(epoch=1), made(report=None)]
    assert len({one["serialNumber"] for one in (first, *others)}) == 5


def test_scores_have_their_intervals() -> None:
    metrics = made()["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    found = [m for m in metrics["performanceMetrics"] if m["type"] == "accuracy"]
    assert found[1] == {
        "type": "accuracy",
        "value": "93.5",
        "slice": "int8-qdq on 872 rows of sst2",
        "confidenceInterval": {"lowerBound": "91.5", "upperBound": "95.5"},
    }
    unmeasured = copy.deepcopy(REPORT)
    unmeasured["variants"]["fp32"]["metrics"]["accuracy"]["variant"] = None
    metrics = made(report=unmeasured)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    assert sum(m["type"] == "accuracy" for m in metrics["performanceMetrics"]) == 1


def test_data_sets_are_told_by_their_use() -> None:
    value = made()
    found = {properties(d["data"][0]["contents"])["use"]: d for d in value["components"]}
    assert found.keys() == {"evaluation", "calibration"}
    assert found["evaluation"]["hashes"][0]["content"] == "07" * 32
    assert found["evaluation"]["version"] == "main1"
    assert properties(found["calibration"]["data"][0]["contents"])["rows"] == "256"
    named = value["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]
    assert [one["ref"] for one in named] == [d["bom-ref"] for d in value["components"]]


def test_files_tell_how_they_were_made() -> None:
    model = made()["metadata"]["component"]
    parts = {part["name"]: part for part in model["components"]}
    assert {n: p["hashes"][0]["content"] for n, p in parts.items()} == {
        n: record["sha256"] for n, record in FILES.items()
    }
    told = properties(parts["onnx/model_int8_qdq.onnx"])
    assert json.loads(told["quantization"])["options"]["rule"] == "mse"
    assert (told["variant"], told["verdict"]) == ("int8-qdq", "pass")
    assert properties(parts["engines/sm89-fp32.plan"])["built_by"] == "tensorrt_rtx 1.7.1"
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == SHA
    assert model["pedigree"]["ancestors"][0]["version"] == "c0ffee"


def test_tools_have_their_versions() -> None:
    tools = made()["metadata"]["tools"]["components"]
    assert [t["name"] for t in tools] == ["python", "albert-deploy", "torch"]
    assert tools[2]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"


@pytest.mark.parametrize(
    ("licence", "found"),
    [("apache-2.0", {"id": "Apache-2.0"}), ("MIT", {"id": "MIT"}), ("ours", {"name": "ours"})],
)
def test_a_licence_is_as_stated(licence: str, found: dict[str, str]) -> None:
    told = made(licence=licence)["metadata"]["component"]["licenses"][0]["license"]
    assert told == found | {"acknowledgement": "declared"}


def test_an_unstated_licence_is_not_made_up() -> None:
    model = made(licence=None)["metadata"]["component"]
    assert "licenses" not in model
    assert properties(model)["licence"] == "not stated"


def written(**changes: Any) -> str:
    values: dict[str, Any] = {"manifest": MANIFEST, "report": REPORT, "files": FILES}
    values |= {"licence": None, "signed": False} | changes
    manifest, report, files = (values.pop(name) for name in ("manifest", "report", "files"))
    return card(manifest, report, files, **values)


def test_every_task_has_its_use() -> None:
    assert USES.keys() == TASKS.keys()


def test_the_card_gives_scores_with_intervals_and_hashes() -> None:
    text = written()
    for part in ("93.50", "[91.50, 95.50]", "-0.50", "[-1.25, +0.25]", "95% confidence"):
        assert part in text
    assert all(record["sha256"] in text for record in FILES.values())
    assert "64 tokens" in text
    assert "Licence of the model: not stated" in text
    assert "load it only where you trust who built it" in text


def test_the_card_of_what_did_not_pass_says_so_first() -> None:
    failed = copy.deepcopy(REPORT) | {"verdict": "fail", "reason": "int8-qdq: too far"}
    lines = written(report=failed).partition("## Scores")[0]
    assert "did not pass its validation: fail" in lines
    assert "int8-qdq: too far" in lines
    assert "Not validated" in written(report=None)
    assert "Not validated" not in written()
    assert "did not pass" not in written()
    assert "No score was measured" in written(report=UNLABELLED)


@pytest.mark.parametrize("task", TASKS)
def test_the_front_matter_is_the_hubs(task: str) -> None:
    from huggingface_hub import ModelCard

    manifest = copy.deepcopy(MANIFEST) | {"task": task}
    data = ModelCard(written(manifest=manifest, licence="MIT")).data
    assert data.license == "mit"
    assert data.base_model == "someone/albert"
    assert {"onnx", "albert", "fp32", "int8-qdq"} <= set(data.tags or ())
    assert [r.metric_value for r in data.eval_results or ()] == [94.0, 93.5]
    odd = ModelCard(written(manifest=manifest, licence="Our: own")).data
    assert (odd.license, odd["license_name"]) == ("other", "Our: own")


def test_a_local_checkpoint_is_no_model_of_the_hub() -> None:
    from huggingface_hub import ModelCard

    manifest = copy.deepcopy(MANIFEST)
    manifest["source"] |= {"path": "/home/me/my albert/", "revision": None}
    data = ModelCard(written(manifest=manifest, report=UNLABELLED)).data
    assert data.base_model is None
    assert not data.eval_results
    assert "# my albert" in written(manifest=manifest)


def test_names_from_data_stay_text() -> None:
    from huggingface_hub import ModelCard

    manifest, report = copy.deepcopy(MANIFEST), copy.deepcopy(REPORT)
    evil = 'x"\n---\nlicense: mit | <script>alert(1)</script> `a`'
    manifest["contract"]["labels"] = [evil, "b"]
    manifest["source"]["path"] = evil
    report["dataset"]["name"] = evil
    text = written(manifest=manifest, report=report)
    data = ModelCard(text).data
    assert data.license is None
    assert data.base_model == evil
    body = text.split("\n---\n", 1)[1]
    outside = "".join(body.split("`")[::2])
    assert "<script>" not in outside
