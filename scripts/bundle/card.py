"""The model card of a bundle: README.md from the evidence, with the front matter hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.manifest import external_data
from albert_deploy.validation.gate.verdicts import PASS, reason
from albert_deploy.validation.report import wording
from albert_deploy.validation.report.details import engines
from albert_deploy.validation.report.markdown import escaped, markdown, tables
from albert_deploy.validation.report.sections import variants

# Task -> what its answers are good for, and what they are not.
USES: dict[str, tuple[str, str]] = {
    "feature-extraction": (
        "vectors of texts for search, clustering or a classifier of one's own",
        "statements about a text without such a second step",
    ),
    "pretraining": (
        "scores of masked words and of the order of two sentences, and further training",
        "writing text, or answering questions",
    ),
    "fill-mask": (
        "likely words at a masked place of a text",
        "writing text, or telling whether a statement is true",
    ),
    "text-classification": (
        "sorting texts like those it was scored on into its classes, or grading them",
        "other kinds of texts, languages or classes, and decisions on people without review",
    ),
    "multiple-choice": (
        "choosing the best of several given answers",
        "questions none of whose given answers is right",
    ),
    "token-classification": (
        "marking words of texts like those it was scored on with its tags",
        "finding all that is personal in a text where missing some of it does harm",
    ),
    "question-answering": (
        "finding the piece of a given text that answers a question",
        "questions whose answer is not in the text, unless it was trained and scored on such",
    ),
}
# Not every task is one of the hub's.
_HUB_TASKS = set(USES) - {"pretraining", "multiple-choice"}
# Identifiers on the hub -> in SPDX's list; any other licence is given by its name.
LICENCES = {
    "apache-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc0-1.0": "CC0-1.0",
    "mit": "MIT",
}
UNSTATED = "not stated"
_CLASSES_LISTED = 20


def model_name(manifest: Mapping[str, Any]) -> str:
    """Return a name for people: the last part of where the checkpoint came from."""
    path = str(manifest["source"]["path"]).replace("\\", "/").rstrip("/")
    return wording.printable(path.rpartition("/")[2]) or "model"


def limits(manifest: Mapping[str, Any], report: Mapping[str, Any] | None) -> list[str]:
    """Return what the evidence does not cover, a sentence each, as plain text."""
    contract = manifest["contract"]
    data = (report or {}).get("dataset") or {}
    longest = contract["max_length"]
    if manifest["task"] == "question-answering":
        found = [f"A context is read {longest} tokens at a time, in windows that overlap."]
    else:
        found = [f"Texts of more than {longest} tokens are refused or cut."]
    if report is None:
        found.append("It was not validated: nothing is known of its answers.")
    elif not data.get("labelled"):
        found.append(
            "No score was measured: its outputs were compared with those of the checkpoint on "
            f"{data.get('rows')} texts without labels."
        )
    else:
        found.append(
            f"Its scores hold for {data.get('rows')} rows of {data.get('name')}; on other texts "
            "they may be lower."
        )
    found += [
        "It answers as the checkpoint does, with its errors and its biases; fairness between "
        "groups of people was not measured.",
        "What the checkpoint was trained on is not known here.",
    ]
    if any(name.startswith("int8") for name in manifest["variants"]):
        found.append(
            "INT8 kernels differ between processors, so the last digits of a score may, too."
        )
    if manifest.get("engines"):
        found.append(
            "An engine (.plan) runs on the GPUs and with the version of TensorRT that its record "
            "names; it is code: load it only where you trust who built it."
        )
    return found


def card(
    manifest: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    files: Mapping[str, Mapping[str, Any]],
    *,
    licence: str | None,
    signed: bool,
) -> str:
    """Return README.md.

    Args:
        manifest: Of the bundle.
        report: ``reports/validation.json`` with the bundled variants alone; None without one.
        files: Name to ``sha256`` and ``bytes`` of what is bundled.
        licence: Of the model, as the user states it.
        signed: A signature will be added.
    """
    source, task = manifest["source"], manifest["task"]
    good, bad = USES[task]
    origin = f"`{_code(source['path'])}`"
    origin += f" at revision `{_code(source['revision'])}`" if source.get("revision") else ""
    lines = [
        *_front_matter(manifest, report, licence),
        f"# {escaped(model_name(manifest))}",
        "",
        f"ONNX files for {task}, made from the PyTorch checkpoint {origin} and compared with it.",
        "",
        *_verdict(report),
        "## Scores",
        "",
        *_scores(report),
        "## Intended use",
        "",
        f"For {good}. Not for {bad}.",
        "",
        *_classes(manifest),
        "## Limits",
        "",
        *(f"- {escaped(text)}" for text in limits(manifest, report)),
        "",
        "## How to run it",
        "",
        "```",
        "pip install 'albert-deploy[cpu]'",
        'albert-deploy predict FOLDER "a text"',
        "```",
        "",
        "FOLDER is where this file is. ONNX Runtime, OpenVINO, Transformers.js and optimum read",
        "the same files as they are.",
        "",
        "## Files",
        "",
        markdown(
            [[n, _holds(n), f"{r['bytes']:,}", r["sha256"]] for n, r in files.items()],
            ("file", "what", "bytes", "SHA-256"),
        ),
        "",
        "`albert-deploy verify FOLDER` compares them all"
        + (
            ", and with `--key`, `--cert-chain` or `--identity` the signature."
            if signed
            else "; the bundle is not signed."
        ),
        "`bom.cdx.json` is a CycloneDX bill of materials.",
        "",
        f"Licence of the model: {escaped(licence or UNSTATED)}. Weights of the checkpoint: "
        f"SHA-256 `{source['sha256']}`.",
        "",
    ]
    return "\n".join(lines)


def _verdict(report: Mapping[str, Any] | None) -> list[str]:
    if report is None:
        return ["> **Not validated.** It was bundled all the same, with `--allow-failed`.", ""]
    if report.get("verdict") == PASS:
        return ["Validation: **pass**.", ""]
    return [
        f"> **It did not pass its validation: {escaped(report.get('verdict'))}.** "
        f"{escaped(reason(report))} It was bundled all the same, with `--allow-failed`.",
        "",
    ]


def _scores(report: Mapping[str, Any] | None) -> list[str]:
    if report is None:
        return ["None: there was no validation.", ""]
    data = report.get("dataset") or {}
    lines = []
    if data.get("labelled"):
        lines += [f"On {data.get('rows')} rows of {escaped(data.get('name'))}:", ""]
    lines += [tables(variants(report).tables), ""]
    scores = [score for v in report["variants"].values() for score in v["metrics"].values()]
    confidence = {score.get("confidence") for score in scores} - {None}
    at = f"; intervals are at {max(confidence):.0%} confidence" if confidence else ""
    if scores:
        lines += [f"Differences are points against the checkpoint in PyTorch{at}.", ""]
    built = engines(report).tables
    lines += [tables(built), ""] if built else []
    return [*lines, "`reports/validation.json` has all of it.", ""]


def _classes(manifest: Mapping[str, Any]) -> list[str]:
    labels = manifest["contract"].get("labels") or []
    if not labels or "classification" not in manifest["task"]:
        return []
    named = ", ".join(escaped(label) for label in labels[:_CLASSES_LISTED])
    more = f" and {len(labels) - _CLASSES_LISTED} more" if len(labels) > _CLASSES_LISTED else ""
    return [f"Classes: {named}{more}.", ""]


def _front_matter(
    manifest: Mapping[str, Any], report: Mapping[str, Any] | None, licence: str | None
) -> list[str]:
    """Return the YAML that the hub reads; every value is JSON, which YAML reads too."""
    task, source = manifest["task"], manifest["source"]
    named = [n for n in VARIANTS if n in manifest["variants"]]
    value: dict[str, Any] = {"library_name": "onnx"}
    if licence:
        known = licence.lower() in LICENCES
        value |= {"license": licence.lower()} if known else {"license": "other"}
        value |= {} if known else {"license_name": licence}
    value |= {"pipeline_tag": task} if task in _HUB_TASKS else {}
    value["tags"] = ["albert-deploy", manifest["contract"]["family"], "onnx", *named]
    # Only what came from the hub at a commit is known to be there.
    value |= {"base_model": source["path"]} if source.get("revision") else {}
    if results := _results(task, report):
        value["model-index"] = [{"name": model_name(manifest), "results": results}]
    return ["---", *(f"{key}: {_json(item)}" for key, item in value.items()), "---", ""]


def _results(task: str, report: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    data = (report or {}).get("dataset") or {}
    if report is None or not data.get("labelled"):
        return []
    return [
        {
            "task": {"type": task},
            "dataset": {"name": data["name"], "type": data["name"]},
            "metrics": [
                {"type": metric, "value": m["variant"], "name": f"{metric} of {name}"}
                for name, variant in report["variants"].items()
                for metric, m in (variant.get("metrics") or {}).items()
                if m.get("variant") is not None
            ],
        }
    ]


def _holds(name: str) -> str:
    for variant, row in VARIANTS.items():
        if name in (row.file, external_data(row.file)):
            return variant + (", weights" if name.endswith("_data") else "")
    return ""


def _code(value: object) -> str:
    return wording.printable(value).replace("`", "'").replace("\n", " ")


def _json(value: object) -> str:
    return wording.printable(json.dumps(value, ensure_ascii=False))
