"""The bundle step: a validated deployment directory becomes what is shipped, the same each time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_deploy.runtime.bundle import (
    BESIDE,
    BOM,
    CARD,
    LISTING,
    SIGNATURE,
    Bundle,
    check_bundle,
    is_bundle,
    listing_bytes,
)
from albert_deploy.runtime.contract import VARIANTS, variant_named
from albert_deploy.runtime.directory import check_replaceable, publish, staged
from albert_deploy.runtime.errors import ContractError, InputError, check_known
from albert_deploy.runtime.manifest import (
    MANIFEST_NAME,
    file_record,
    model_files,
    os_failure,
    read_manifest,
    write_json,
    write_manifest,
    write_text,
)
from albert_deploy.scripts.bundle.archive import FOLDER, SUFFIX, check_archive_name, write_archive
from albert_deploy.scripts.bundle.choice import (
    REPORT,
    chosen_variants,
    epoch_of,
    passing_report,
    recommended,
)
from albert_deploy.scripts.bundle.sign import Signer
from albert_deploy.scripts.serving.options import RepositoryConfig, measured_settings

SUMMARY = "reports/summary.md"
_CHUNK = 1 << 20
# Of the steps: what they cost on one machine on one day.
_COSTS = {"seconds", "peak_memory_bytes"}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form in which a bundle is put where it was asked for.

    Args:
        check: ``check(out)`` fails where ``out`` must not be written.
        put: ``put(folder, out, epoch)`` takes the finished folder there.
        served: It has one variant, and ``models/``, a repository that Triton serves.
    """

    check: Callable[[Path], None]
    put: Callable[[Path, Path, int], None]
    served: bool = False


def check_folder(out: Path) -> None:
    """Fail where a bundle's folder must not be put.

    Raises:
        InputError: There is something that is no bundle, or it has an archive's name.
    """
    if out.name.endswith(SUFFIX):
        raise InputError(f"{out} has an archive's name; add --format archive, or name a folder")
    if check_replaceable(out) and not is_bundle(out):
        raise InputError(f"{out} is a deployment directory and no bundle; choose another --out")


FORMATS: dict[str, Format] = {
    "plain": Format(check=check_folder, put=lambda folder, out, _: publish(folder, out)),
    "archive": Format(
        check=check_archive_name,
        put=lambda folder, out, epoch: write_archive(folder, out, epoch=epoch),
    ),
    "triton": Format(
        check=check_folder, put=lambda folder, out, _: publish(folder, out), served=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """Options of the bundle step.

    Args:
        form: Key of ``FORMATS``.
        variants: Keys of ``VARIANTS``; None for all in the directory, or for ``triton`` the one
            that is recommended.
        licence: Of the model, an identifier such as ``apache-2.0``; None where it is not known.
        allow_failed: Bundle what did not pass a validation, or had none.
        signer: How it is signed; None for no signature.
        serving: How ``triton`` serves; its variant is that of the bundle. What it leaves open is
            taken from what ``bench --serving`` measured.

    Raises:
        InputError: Unknown format or variant, or not one variant for ``triton``.
    """

    form: str = "plain"
    variants: tuple[str, ...] | None = None
    licence: str | None = None
    allow_failed: bool = False
    signer: Signer | None = None
    serving: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_known(self.form, FORMATS, "format")
        for name in self.variants or ():
            variant_named(name)
        if FORMATS[self.form].served and len(self.variants or ("one",)) != 1:
            raise InputError(f"got {len(self.variants or ())} variants; --format triton serves one")


def bundle(directory: Path, config: BundleConfig, *, out: Path) -> Bundle:
    """Write what deployment needs of a directory, with its evidence, as a bundle.

    The same directory gives the same bytes, wherever and whenever; a signature alone differs each
    time. Times of files are ``SOURCE_DATE_EPOCH`` where that is set, else that of the validation.

    Args:
        directory: Deployment directory.
        config: Options.
        out: Folder or archive to write; one that is a bundle already is replaced.

    Returns:
        What was bundled, checked; its ``directory`` is ``out``.

    Raises:
        InputError: No such directory or variant, no validation, or ``out`` cannot be written.
        ContractError: A file is not the one that the manifest records, or was not validated.
        AlbertDeployError: The verdict is not pass; the class is that of the check that failed.
        MachineError: The disk is full, or signing needs a package.
    """
    form = FORMATS[config.form]
    manifest = read_manifest(directory)
    here, there = directory.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise InputError(f"{out} and {directory} lie in each other; choose an --out outside of it")
    form.check(out)
    asked = config.variants or ((recommended(directory, manifest),) if form.served else None)
    variants = chosen_variants(directory, manifest, asked)
    report = passing_report(directory, manifest, variants, allow_failed=config.allow_failed)
    epoch = epoch_of(report)
    with staged(out) as work:
        folder = work / FOLDER
        try:
            folder.mkdir()
            made = _fill(directory, folder, manifest, variants, report)
            if form.served:
                _add_models(directory, folder, manifest, made, config)
            _tell(folder, made, _only(report, made), config, epoch)
            found = check_bundle(folder)
            _settle(folder, epoch)
        except OSError as error:
            raise os_failure(error, out) from error
        form.put(folder, out, epoch)
    return Bundle(directory=out, sha256=found.sha256, files=found.files, signed=found.signed)


def _fill(
    directory: Path,
    folder: Path,
    manifest: Mapping[str, Any],
    variants: tuple[str, ...],
    report: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Copy what deployment needs, and return the manifest of that."""
    models = {file for n in variants for file in model_files(manifest, VARIANTS[n].file)}
    engines = {n: e for n, e in manifest.get("engines", {}).items() if e["variant"] in variants}
    models |= {entry[key] for entry in engines.values() for key in ("file", "record")}
    # At the top lie the configuration and the tokenizer's files.
    wanted = [n for n in manifest["files"] if n in models or ("/" not in n and n not in BESIDE)]
    wanted += [] if report is None else [REPORT]
    listing_bytes({name: manifest["files"][name] for name in wanted})  # Names that can be shipped.
    files = {name: _copy(directory, folder, name, manifest["files"][name]) for name in wanted}
    if report is not None:
        from albert_deploy.validation.report.markdown import summary

        write_text(folder / SUMMARY, summary(report))
        files[SUMMARY] = file_record(folder / SUMMARY)
    made = dict(manifest) | {
        "files": dict(sorted(files.items())),
        "variants": {name: manifest["variants"][name] for name in variants},
        "steps": {
            name: {k: v for k, v in step.items() if k not in _COSTS}
            for name, step in manifest["steps"].items()
        },
    }
    measured = {key: _chosen(manifest.get(key), variants) for key in ("tuned", "serving")}
    for key, kept in (("engines", engines), *measured.items()):
        made.pop(key, None)
        made |= {key: kept} if kept else {}
    return made


def _add_models(
    directory: Path,
    folder: Path,
    manifest: dict[str, Any],
    made: dict[str, Any],
    config: BundleConfig,
) -> None:
    """Write the repository that Triton serves, and enter its files in the bundle's manifest."""
    from albert_deploy.scripts.serving.repository import MODELS, UP, write_repository

    (variant,) = made["variants"]
    asked = dict(config.serving)
    # What was measured, was on a CPU.
    measured = (
        {} if asked.get("form") == "tensorrt" else measured_settings(manifest, variant, asked)
    )
    served = RepositoryConfig(**measured | asked | {"variant": variant})
    write_repository(directory, manifest, served, out=folder / MODELS, location=UP)
    files = (path for path in (folder / MODELS).rglob("*") if path.is_file())
    made["files"] |= {path.relative_to(folder).as_posix(): file_record(path) for path in files}
    made["files"] = dict(sorted(made["files"].items()))


def _chosen(value: Mapping[str, Any] | None, variants: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in variants if value and name in value}


def _copy(directory: Path, folder: Path, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    place, digest = folder / name, hashlib.sha256()
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        source = (directory / name).open("rb")
    except OSError as error:
        raise ContractError(f"cannot read {directory / name}: {error.strerror}") from error
    with source, place.open("xb") as file:
        while piece := source.read(_CHUNK):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != record["sha256"]:
        raise ContractError(
            f"{directory / name} is not the file that {MANIFEST_NAME} recorded; export again"
        )
    return {"sha256": record["sha256"], "bytes": place.stat().st_size}


def _only(report: dict[str, Any] | None, made: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of what is in the bundle."""
    if report is None:
        return None
    engines = {
        n: e for n, e in (report.get("engines") or {}).items() if n in made.get("engines", {})
    }
    variants = {n: report["variants"][n] for n in made["variants"]}
    return report | {"variants": variants, "engines": engines}


def _tell(
    folder: Path,
    made: dict[str, Any],
    report: dict[str, Any] | None,
    config: BundleConfig,
    epoch: int,
) -> None:
    """Write manifest, card, bill of materials, signature and the list of them all."""
    from albert_deploy.scripts.bundle.bom import bom
    from albert_deploy.scripts.bundle.card import card

    files, licence = made["files"], config.licence
    write_manifest(folder, made)
    write_json(folder / BOM, bom(made, report, files, licence=licence, epoch=epoch))
    signed = config.signer is not None
    write_text(folder / CARD, card(made, report, files, licence=licence, signed=signed))
    beside = [MANIFEST_NAME, BOM, CARD]
    if config.signer is not None:
        from albert_deploy.scripts.bundle.sign import sign

        sign(folder, config.signer)
        beside.append(SIGNATURE)
    listed = files | {name: file_record(folder / name) for name in beside}
    (folder / LISTING).write_bytes(listing_bytes(listed))


def _settle(folder: Path, epoch: int) -> None:
    """Give every file and folder the same time and rights wherever it is made."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (epoch, epoch))
    folder.chmod(0o755)
    os.utime(folder, (epoch, epoch))
