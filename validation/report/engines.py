"""What a report says of one TensorRT engine: its record, its proofs and the checks on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import AlbertDeployError
from albert_deploy.runtime.manifest import check_file
from albert_deploy.validation.gate.checks import Check

# Of an engine's record -> its entry.
_KEPT = (
    "variant",
    "target",
    "flavour",
    "version",
    "bytes",
    "weights_bytes",
    "parameter_bytes",
    "scratch_bytes",
    "activation_bytes",
    "build_ms",
)


def engine_entries(directory: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known of each engine, by name; none of them is loaded.

    A proof that could not be made where the engine was built is ``not proven`` in ``proofs`` and
    no check: it neither passed nor failed.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
    """
    return {
        name: _entry(directory, manifest, entry)
        for name, entry in manifest.get("engines", {}).items()
    }


def _entry(
    directory: Path, manifest: Mapping[str, Any], engine: Mapping[str, Any]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "file": engine["file"],
        "sha256": engine["sha256"],
        "proofs": [],
        **dict.fromkeys(_KEPT),
        **{key: engine.get(key) for key in ("variant", "target", "flavour", "version")},
    }
    try:
        for key in ("file", "record"):
            check_file(directory, dict(manifest), engine[key])
        record = json.loads((directory / engine["record"]).read_text(encoding="utf-8"))
    except AlbertDeployError as error:
        message = f"{error}; build the engine again"
        return told | {"verdict": "fail", "checks": [_check("recorded bytes", "fail", message)]}
    told |= {key: record.get(key) for key in _KEPT} | {"proofs": record["proofs"]}
    source = record["onnx"]
    current = manifest["files"].get(source["file"], {}).get("sha256")
    stale = current != source["sha256"]
    message = f"{source['file']} is not the file that it was built from; build it again"
    checks = [
        _check("recorded bytes", "pass", ""),
        _check("built from", *(("fail", message) if stale else ("pass", ""))),
    ]
    for proof in record["proofs"]:
        if proof["status"] != "not proven":
            verdict = "pass" if proof["status"] == "passed" else "fail"
            message = f"{proof['found']}; wanted {proof['wanted']}"
            checks.append(_check(proof["name"], verdict, message))
    failed = any(check["verdict"] == "fail" for check in checks)
    return told | {"verdict": "fail" if failed else "pass", "checks": checks}


def _check(name: str, verdict: str, message: str) -> dict[str, Any]:
    return Check(kind="contract", name=name, verdict=verdict, message=message).to_json()
