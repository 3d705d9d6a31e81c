"""The quantize step: ``onnx/model.onnx`` becomes the variants asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import (
    DEFAULT_VARIANTS,
    VARIANTS,
    TensorSpec,
    variant_named,
)
from albert_deploy.runtime.manifest import (
    check_file,
    file_record,
    is_intact,
    read_manifest,
    write_manifest,
)
from albert_deploy.runtime.measure import measured


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Which variants to make.

    Args:
        variants: Keys of ``VARIANTS``; ``fp32`` is there already and may be named.
        force: Make them again although they are up to date.
    """

    variants: tuple[str, ...] = DEFAULT_VARIANTS
    force: bool = False

    def __post_init__(self) -> None:
        """Check the names."""
        for name in self.variants:
            variant_named(name)


def quantize(
    directory: Path, config: QuantizeConfig, *, note: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Make variants in a deployment directory; those up to date are left alone.

    Args:
        directory: Deployment directory with ``onnx/model.onnx``.
        config: Options.
        note: Called with a line about each variant.

    Returns:
        The manifest.

    Raises:
        InputError: No deployment directory.
        ContractError: The source file was changed, or a variant breaks an invariant.
    """
    from albert_deploy.quantize.schemes import SCHEMES

    manifest = read_manifest(directory)
    source = VARIANTS["fp32"].file
    check_file(directory, manifest, source)
    for name in config.variants:
        if name == "fp32":
            continue
        made_from = {
            "source_sha256": manifest["files"][source]["sha256"],
            "scheme": SCHEMES[name].to_json(),
        }
        if not config.force and _is_current(directory, manifest, name, made_from):
            note(f"{name}: up to date")
            continue
        with measured() as cost:
            rows = _make(directory, manifest, name)
        file = VARIANTS[name].file
        for path in (directory / file, directory / f"{file}_data"):
            manifest["files"].pop(str(path.relative_to(directory)), None)
            if path.is_file():
                manifest["files"][str(path.relative_to(directory))] = file_record(path)
        manifest["variants"][name] = {
            "file": file,
            "made_from": made_from,
            "coverage": [row.to_json() for row in rows],
        }
        manifest["steps"][f"quantize {name}"] = cost.to_json()
        write_manifest(directory, manifest)
        note(f"{name}: {manifest['files'][file]['bytes']:,} bytes in {cost.seconds:.1f} s")
    return manifest


def _make(directory: Path, manifest: dict[str, Any], name: str) -> list[Any]:
    from albert_deploy.export.checks import check_artifact
    from albert_deploy.export.onnx_file import load, save
    from albert_deploy.quantize.coverage import check_coverage, coverage
    from albert_deploy.quantize.schemes import SCHEMES

    scheme = SCHEMES[name]
    source = directory / VARIANTS["fp32"].file
    model = load(source)
    scheme.convert(model, scheme.config)
    model.metadata_props["variant"] = name
    model.metadata_props["scheme"] = json.dumps(scheme.to_json(), sort_keys=True)
    # Checked under another name, so that a bad file never takes a good one's place.
    target = directory / VARIANTS[name].file
    work = directory / f".{target.stem}"
    candidate = work / target.name
    try:
        files = save(model, candidate)
        del model
        contract = manifest["contract"]
        written = check_artifact(
            candidate,
            variant=name,
            parameter_bytes=manifest["parameter_bytes"],
            inputs=[_spec(s) for s in contract["inputs"]],
            outputs=[_spec(s) for s in contract["outputs"]],
        )
        original = load(source)
        exceptions = scheme.exceptions(original, scheme.config)
        rows = coverage(original, written, dtype=scheme.dtype, exceptions=exceptions)
        check_coverage(rows, target.name)
        # The weights' file first: a model never stands there without its data.
        for file in reversed(files):
            file.replace(target.parent / file.name)
    finally:
        for left in work.glob("*"):
            left.unlink()
        if work.is_dir():
            work.rmdir()
    return rows


def _is_current(
    directory: Path, manifest: dict[str, Any], name: str, made_from: dict[str, Any]
) -> bool:
    record = manifest["variants"].get(name)
    if record is None or record["made_from"] != json.loads(json.dumps(made_from)):
        return False
    file = VARIANTS[name].file
    data = f"{file}_data"
    names = [file, data] if data in manifest["files"] else [file]
    return all(is_intact(directory, manifest, n) for n in names)


def _spec(record: dict[str, Any]) -> TensorSpec:
    return TensorSpec(name=record["name"], dtype=record["dtype"], axes=tuple(record["axes"]))
