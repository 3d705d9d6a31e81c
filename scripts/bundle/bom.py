"""The bill of materials of a bundle: CycloneDX 1.6 with its model card, as plain JSON.

cyclonedx-python-lib has no model cards; tests hold what is written against the schema it carries.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from albert_deploy.runtime.bundle import content_digest
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.scripts.bundle.card import LICENCES, UNSTATED, USES, limits, model_name

_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_MODEL = "model"
_PREFIX = "albert-deploy:"
# What the manifest counts among the versions and is on no package index.
_NO_PACKAGE = {"python"}


def bom(
    manifest: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    files: Mapping[str, Mapping[str, Any]],
    *,
    licence: str | None,
    epoch: int,
) -> dict[str, Any]:
    """Return the bill of materials of a bundle, the same for the same bundle.

    Args:
        manifest: Of the bundle.
        report: ``reports/validation.json`` with the bundled variants alone; None without one.
        files: Name to ``sha256`` and ``bytes`` of what the manifest vouches for.
        licence: Of the model, as the user states it.
        epoch: Its time, in seconds since 1970.
    """
    datasets = _datasets(manifest, report)
    value = {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.UTC).isoformat(),
            "tools": {"components": _tools(manifest)},
            "component": _model(manifest, report, files, datasets, licence),
        },
        "components": datasets,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [one["bom-ref"] for one in datasets]},
            *({"ref": one["bom-ref"]} for one in datasets),
        ],
    }
    # No number at random: it is made from all that is told here.
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    value["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    return value


def _model(
    manifest: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    files: Mapping[str, Mapping[str, Any]],
    datasets: list[dict[str, Any]],
    licence: str | None,
) -> dict[str, Any]:
    source, content = manifest["source"], content_digest(files)
    revision = {"version": str(source["revision"])} if source.get("revision") else {}
    component = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": model_name(manifest),
        "version": content[:12],
        "description": f"ONNX files for {manifest['task']}: {', '.join(manifest['variants'])}",
        "pedigree": {
            "ancestors": [
                {
                    "type": "machine-learning-model",
                    "name": str(source["path"]),
                    **revision,
                    "hashes": _hashes(source["sha256"]),
                }
            ]
        },
        "modelCard": _card(manifest, report, datasets),
        "components": [_file(manifest, report, n, r) for n, r in files.items()],
        "properties": _properties(
            content_sha256=content,
            licence=licence or UNSTATED,
            verdict=(report or {}).get("verdict", "not validated"),
            opset=manifest.get("opset"),
        ),
    }
    if licence:
        spdx = LICENCES.get(licence.lower())
        named = {"id": spdx} if spdx else {"name": licence}
        component["licenses"] = [{"license": named | {"acknowledgement": "declared"}}]
    return component


def _card(
    manifest: Mapping[str, Any], report: Mapping[str, Any] | None, datasets: list[dict[str, Any]]
) -> dict[str, Any]:
    contract = manifest["contract"]
    good, bad = USES[manifest["task"]]
    return {
        "modelParameters": {
            "task": manifest["task"],
            "architectureFamily": contract["family"],
            "modelArchitecture": ", ".join(
                map(str, manifest["source"]["config"].get("architectures") or [contract["family"]])
            ),
            "datasets": [{"ref": one["bom-ref"]} for one in datasets],
            "inputs": _formats(contract["inputs"]),
            "outputs": _formats(contract["outputs"]),
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(report)},
        "considerations": {
            "useCases": [f"For {good}.", f"Not for {bad}."],
            "technicalLimitations": limits(manifest, report),
            "performanceTradeoffs": _tradeoffs(report),
        },
    }


def _formats(tensors: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {"format": f"{t['name']}: {t['dtype']} [{', '.join(map(str, t['axes']))}]"} for t in tensors
    ]


def _metrics(report: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if report is None:
        return []
    data, found = report.get("dataset") or {}, []
    for variant, entry in report["variants"].items():
        on = f"{variant} on {data.get('rows')} rows of {data.get('name') or 'unlabelled texts'}"
        if entry.get("agreement") is not None:
            value = str(entry["agreement"])
            found.append({"type": "agreement with source", "value": value, "slice": on})
        for metric, scores in (entry.get("metrics") or {}).items():
            if scores.get("variant") is None:
                continue
            one = {"type": metric, "value": str(scores["variant"]), "slice": on}
            if low_high := scores.get("variant_interval"):
                low, high = map(str, low_high)
                one |= {"confidenceInterval": {"lowerBound": low, "upperBound": high}}
            found.append(one)
    return found


def _tradeoffs(report: Mapping[str, Any] | None) -> list[str]:
    found = []
    for name, entry in ((report or {}).get("variants") or {}).items():
        for metric, scores in (entry.get("metrics") or {}).items():
            if scores.get("difference") is not None:
                low_high = scores.get("interval")
                at = f", interval {low_high[0]:+.2f} to {low_high[1]:+.2f}" if low_high else ""
                found.append(
                    f"{name}: {entry['bytes']:,} bytes, {metric} {scores['difference']:+.2f} "
                    f"points against the source{at}"
                )
    return found


def _datasets(
    manifest: Mapping[str, Any], report: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the data that gated the variants, and the data that calibrated them."""
    found: dict[str, dict[str, Any]] = {}
    gated = (report or {}).get("dataset") or {}
    if gated.get("name"):
        _add(found, "evaluation", gated, gated.get("rows"))
    for entry in manifest["variants"].values():
        texts = (entry.get("made_from") or {}).get("texts")
        if texts and texts.get("name"):
            _add(found, "calibration", texts, texts.get("rows"))
    return list(found.values())


def _add(found: dict[str, dict[str, Any]], use: str, data: Mapping[str, Any], rows: object) -> None:
    ref = f"data:{use}:{data['name']}:{str(data.get('sha256') or '')[:12]}".rstrip(":")
    properties = _properties(use=use, rows=rows, file=data.get("file"))
    found[ref] = {
        "type": "data",
        "bom-ref": ref,
        "name": str(data["name"]),
        **({"version": str(data["revision"])} if data.get("revision") else {}),
        **({"hashes": _hashes(data["sha256"])} if data.get("sha256") else {}),
        "data": [
            {"type": "dataset", "name": str(data["name"]), "contents": {"properties": properties}}
        ],
    }


def _file(
    manifest: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    name: str,
    record: Mapping[str, Any],
) -> dict[str, Any]:
    properties: dict[str, object] = {"bytes": record["bytes"]}
    for variant, entry in manifest["variants"].items():
        if name == VARIANTS[variant].file:
            scheme = (entry.get("made_from") or {}).get("scheme")
            judged = ((report or {}).get("variants") or {}).get(variant) or {}
            properties |= {
                "variant": variant,
                "quantization": None if scheme is None else json.dumps(scheme, sort_keys=True),
                "verdict": judged.get("verdict", "not validated"),
            }
    for engine, entry in manifest.get("engines", {}).items():
        if name == entry.get("file"):
            properties |= {"engine": engine, "built_by": f"{entry['flavour']} {entry['version']}"}
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": _hashes(record["sha256"]),
        "properties": _properties(**properties),
    }


def _tools(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, version in manifest["versions"].items():
        if version is None:
            continue
        own = name == "albert-deploy"
        tool = {"type": "application" if own else "library", "name": name, "version": str(version)}
        if not own and name not in _NO_PACKAGE:
            tool["purl"] = f"pkg:pypi/{quote(name)}@{quote(str(version), safe='')}"
        found.append(tool)
    return found


def _properties(**values: object) -> list[dict[str, str]]:
    return [{"name": _PREFIX + k, "value": str(v)} for k, v in values.items() if v is not None]


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
