"""Records of engines: what ``engines/NAME.json`` says of a plan, written together with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.manifest import (
    file_record,
    is_intact,
    write_json,
    write_manifest,
    writing,
)
from albert_deploy.runtime.trt.gpu import probe
from albert_deploy.runtime.trt.record import FOLDER, FORMAT, record_file
from albert_deploy.runtime.trt.targets import Target

if TYPE_CHECKING:
    from albert_deploy.export.engine.build import Built
    from albert_deploy.export.engine.proofs import Proof


def describe(name: str, record: Mapping[str, Any]) -> str:
    """Return a line about an engine for people."""
    counts = dict.fromkeys(("passed", "failed", "not proven"), 0)
    for proof in record["proofs"]:
        counts[proof["status"]] += 1
    proofs = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    return (
        f"{name}: {record['bytes']:,} bytes in {record['build_ms'] / 1000:.1f} s with "
        f"{record['flavour']} {record['version']}; proofs: {proofs}"
    )


def engine_record(
    manifest: Mapping[str, Any],
    target: Target,
    variant: str,
    identity: Mapping[str, Any],
    built: Built,
    proofs: Sequence[Proof],
    tokens: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the record of a plan.

    Args:
        manifest: Of the directory.
        target: What it was built for.
        variant: Key of ``VARIANTS``.
        identity: What the same plan would be built from again: ``onnx``, ``flavour``,
            ``version``, ``profiles``, ``settings``.
        built: The plan.
        proofs: What is proven of it.
        tokens: What its profiles were chosen from; None where they were given.
    """
    gpu = probe()
    log = built.log
    return {
        "format": FORMAT,
        "plan": f"{FOLDER}/{target.name}-{variant}.plan",
        "sha256": hashlib.sha256(built.plan).hexdigest(),
        "bytes": len(built.plan),
        "task": manifest["task"],
        "variant": variant,
        "target": target.name,
        "capability": list(built.capability),
        **identity,
        "driver": gpu.driver,
        "built_on": {"gpu": gpu.devices[0].name if gpu.devices else None},
        "version_compatible": identity["settings"]["version_compatible"],
        "hardware_compatible": identity["settings"]["hardware_compatible"],
        "stripped": identity["settings"]["strip"],
        "inputs": manifest["contract"]["inputs"],
        "outputs": manifest["contract"]["outputs"],
        "timing_cache": built.timing_cache,
        "parameter_bytes": manifest["parameter_bytes"],
        "weights_bytes": log.weights_bytes,
        "scratch_bytes": log.scratch_bytes,
        "activation_bytes": log.activation_bytes,
        "build_ms": round(built.build_ms, 1),
        "peak_bytes": built.peak_bytes,
        "proofs": [asdict(proof) for proof in proofs],
        **({"tokens": dict(tokens)} if tokens is not None else {}),
    }


def write_engine(
    directory: Path, manifest: dict[str, Any], name: str, plan: bytes, record: dict[str, Any]
) -> None:
    """Write a plan and its record, each atomically, and enter both in the manifest."""
    file, described = record["plan"], record_file(name)
    with writing(directory / file) as out:
        out.write(plan)
    write_json(directory / described, record)
    manifest["files"] |= {n: file_record(directory / n) for n in (file, described)}
    manifest.setdefault("engines", {})[name] = {
        "file": file,
        "record": described,
        **{k: record[k] for k in ("target", "variant", "flavour", "version", "sha256")},
    }
    write_manifest(directory, manifest)


def is_current(
    directory: Path, manifest: Mapping[str, Any], name: str, identity: Mapping[str, Any]
) -> bool:
    """Tell whether an engine is there, intact, and what the identity would build again."""
    entry = manifest.get("engines", {}).get(name)
    if entry is None or not all(
        is_intact(directory, dict(manifest), entry[key]) for key in ("file", "record")
    ):
        return False
    record = json.loads((directory / entry["record"]).read_text(encoding="utf-8"))
    return all(record.get(key) == value for key, value in identity.items())
