"""The quantize step: ``onnx/model.onnx`` becomes the variants asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.contract import DEFAULT_VARIANTS, VARIANTS, TensorSpec, variant_named
from albert_deploy.runtime.errors import AccuracyError, InputError
from albert_deploy.runtime.manifest import (
    check_file,
    external_data,
    file_record,
    is_intact,
    model_files,
    read_manifest,
    write_manifest,
)
from albert_deploy.runtime.measure import measured

if TYPE_CHECKING:
    from albert_deploy.quantize.calibration.texts import CalibrationConfig, Texts
    from albert_deploy.quantize.schemes.table import Scheme
    from albert_deploy.validation.parity.coverage import CoverageRow

_LOG = logging.getLogger(__name__)
STATISTICS = "calibration/statistics.npz"


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Which variants to make.

    Args:
        variants: Keys of ``VARIANTS``; ``fp32`` is there already and may be named.
        force: Make them again although they are up to date.
        calibration: Texts to calibrate on; static variants need them, half-precision ones look
            for overflows in them. None takes what an earlier run left in the directory.
        static: Options of the static variants that differ from their scheme's, by the name of
            the field of ``StaticConfig``.
        budget: Trials of the search for products to keep real in static variants; None does
            not search.
    """

    variants: tuple[str, ...] = DEFAULT_VARIANTS
    force: bool = False
    calibration: CalibrationConfig | None = None
    static: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None

    def __post_init__(self) -> None:
        for name in self.variants:
            variant_named(name)


def quantize(directory: Path, config: QuantizeConfig) -> dict[str, Any]:
    """Make variants in a deployment directory; those up to date are left alone.

    Args:
        directory: Deployment directory with ``onnx/model.onnx``.
        config: Options.

    Returns:
        The manifest.

    Raises:
        InputError: No deployment directory.
        ContractError: The source file was changed, or a variant breaks an invariant.
        AccuracyError: The search found nothing that holds its gate.
    """
    from albert_deploy.quantize.schemes.table import SCHEMES

    manifest = read_manifest(directory)
    source = VARIANTS["fp32"].file
    check_file(directory, manifest, source)
    wanted = [name for name in config.variants if name != "fp32"]
    texts = _texts(directory, manifest, config, [SCHEMES[name] for name in wanted])
    for name in wanted:
        scheme = scheme_for(name, config.static)
        if config.budget is not None and scheme.calibrated and texts is not None:
            scheme = _searched(directory, manifest, name, scheme, texts, config.budget)
        made_from = {
            "source_sha256": manifest["files"][source]["sha256"],
            "scheme": scheme.to_json(),
            "texts": dict(texts.origin) if texts and scheme.takes_texts else None,
        }
        if config.calibration is None and not scheme.calibrated:
            # Texts that an earlier run looked for overflows in are not taken back.
            known = manifest["variants"].get(name, {}).get("made_from", {})
            made_from["texts"] = known.get("texts")
        if not config.force and _is_current(directory, manifest, name, made_from):
            _LOG.info(f"{name}: up to date")
            continue
        with measured() as cost:
            rows, made = _make(directory, manifest, name, scheme, texts)
        file = VARIANTS[name].file
        _enter(directory, manifest, file, external_data(file))
        manifest["variants"][name] = {
            "file": file,
            "made_from": made_from,
            "coverage": [row.to_json() for row in rows],
            **_calibration(directory, manifest, texts if scheme.takes_texts else None, made),
        }
        manifest["steps"][f"quantize {name}"] = cost.to_json()
        write_manifest(directory, manifest)
        _LOG.info(f"{name}: {manifest['files'][file]['bytes']:,} bytes in {cost.seconds:.1f} s")
    return manifest


def _searched(
    directory: Path,
    manifest: dict[str, Any],
    name: str,
    scheme: Scheme,
    texts: Texts,
    budget: int,
) -> Scheme:
    """Return a scheme that keeps what the search says has to stay real."""
    from albert_deploy.quantize.search.search import search
    from albert_deploy.quantize.search.trials import SearchConfig

    asked = SearchConfig(variant=name, budget=budget)
    result = search(directory, asked, texts, scheme.config)
    _enter(directory, manifest, *result.files)
    if not result.held:
        raise AccuracyError(result.message)
    return replace(scheme, config=replace(scheme.config, keep=result.keep))


def scheme_for(name: str, static: Mapping[str, Any]) -> Scheme:
    """Return a variant's scheme with the options asked for, where it is a static one."""
    from albert_deploy.quantize.schemes.static import StaticConfig
    from albert_deploy.quantize.schemes.table import SCHEMES

    scheme = SCHEMES[name]
    if not static or not isinstance(scheme.config, StaticConfig):
        return scheme
    return replace(scheme, config=replace(scheme.config, **static))


def _texts(
    directory: Path, manifest: dict[str, Any], config: QuantizeConfig, schemes: list[Scheme]
) -> Texts | None:
    """Read the calibration texts, or the statistics that an earlier run left."""
    from albert_deploy.quantize.calibration.texts import read_texts, saved_texts

    if config.calibration is not None:
        return read_texts(directory, manifest, config.calibration)
    if not any(scheme.calibrated for scheme in schemes):
        return None
    if STATISTICS not in manifest["files"]:
        needing = [n for n in config.variants if n != "fp32" and scheme_for(n, {}).calibrated]
        raise InputError(
            f"{', '.join(needing)} needs texts to calibrate on; give some of the task's: "
            "`calibration` NAME=PATH (a data set's folder with its train split, or text=FILE "
            "with a text per line)"
        )
    return saved_texts(
        check_file(directory, manifest, STATISTICS),
        source_sha256=manifest["files"][VARIANTS["fp32"].file]["sha256"],
    )


def _calibration(
    directory: Path, manifest: dict[str, Any], texts: Texts | None, made: dict[str, Any]
) -> dict[str, Any]:
    """Save what was measured, and return what a variant's entry says of it."""
    entry: dict[str, Any] = {key: made[key] for key in ("passes", "kept_float32") if key in made}
    if texts is None:
        return entry
    if texts.rows and texts.measured:
        texts.save(directory / STATISTICS)
        _enter(directory, manifest, STATISTICS)
    return entry | {
        "calibration": {
            "file": STATISTICS if STATISTICS in manifest["files"] else None,
            "dataset": dict(texts.origin),
            "rows": texts.origin.get("rows"),
            "rule": made.get("rule"),
            "ranges": made.get("ranges", []),
        }
    }


def _enter(directory: Path, manifest: dict[str, Any], *names: str) -> None:
    for name in names:
        manifest["files"].pop(name, None)
        if (directory / name).is_file():
            manifest["files"][name] = file_record(directory / name)


def _make(
    directory: Path, manifest: dict[str, Any], name: str, scheme: Scheme, texts: Texts | None
) -> tuple[list[CoverageRow], dict[str, Any]]:
    from albert_deploy.export.checks import check_artifact
    from albert_deploy.export.graph.file import load, save
    from albert_deploy.validation.parity.coverage import check_coverage, coverage

    source = directory / VARIANTS["fp32"].file
    model = load(source)
    made = scheme.convert(model, scheme.config, texts)
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
            inputs=map(TensorSpec.from_json, contract["inputs"]),
            outputs=map(TensorSpec.from_json, contract["outputs"]),
        )
        original = load(source)
        exceptions = scheme.exceptions(original, scheme.config)
        rows = coverage(
            original,
            written,
            dtype=scheme.dtype,
            exceptions=exceptions,
            real_uses=scheme.real_uses(original, scheme.config) if scheme.real_uses else None,
        )
        products = scheme.products(original, scheme.config) if scheme.products else None
        check_coverage(rows, target.name, products=products)
        # The weights' file first: a model never stands there without its data.
        for file in reversed(files):
            file.replace(target.parent / file.name)
    finally:
        for left in work.glob("*"):
            left.unlink()
        if work.is_dir():
            work.rmdir()
    return rows, made


def _is_current(
    directory: Path, manifest: dict[str, Any], name: str, made_from: dict[str, Any]
) -> bool:
    record = manifest["variants"].get(name)
    if record is None or record["made_from"] != json.loads(json.dumps(made_from)):
        return False
    names = model_files(manifest, VARIANTS[name].file)
    return all(is_intact(directory, manifest, n) for n in names)
