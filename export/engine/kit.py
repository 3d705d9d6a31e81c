"""Build kits: what another machine needs to make the engines that this one cannot make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albert_deploy.export.engine.step import (
    BuildConfig,
    chosen_variants,
    engine_config,
    settings_json,
)
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.directory import check_replaceable, publish, staged
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import (
    check_file,
    file_record,
    is_intact,
    model_files,
    read_manifest,
    sha256_of,
    write_json,
    write_manifest,
    write_text,
)
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.runtime.trt.record import FOLDER
from albert_deploy.runtime.trt.targets import LOCAL, target_named

KITS = "kits"
KIT_NAME = "kit.json"
KIT_FORMAT = 1
SUMS = "SHA256SUMS"
# Run on the target machine, from wherever the kit was copied to.
_SCRIPT = """#!/bin/sh
# Builds the engines of this kit on this machine; needs: pip install 'albert-deploy[gpu]'
set -eu
cd "$(dirname "$0")"
sha256sum --check --quiet SHA256SUMS
exec albert-deploy build . "$@"
"""


def write_kit(directory: Path, target_name: str, config: BuildConfig) -> Path:
    """Write the build kit of a target: a deployment directory of its own with settings in it.

    Args:
        directory: Deployment directory.
        target_name: Key of ``TARGETS``.
        config: What to build; its targets are not looked at.

    Returns:
        The kit's folder, ``kits/<target>`` in the directory.

    Raises:
        InputError: ``local``, which is another GPU elsewhere, or a variant that is not there.
        ContractError: A file was changed.
        MachineError: The disk is full.
    """
    if target_name == LOCAL:
        raise InputError("a kit is for another machine: name its GPU, such as `target` h100")
    target = target_named(target_name)
    manifest = read_manifest(directory)
    variants = chosen_variants(manifest, config.variants, target)
    settings = engine_config(manifest, config)
    names = _names(manifest, variants)
    kit = directory / KITS / target.name
    check_replaceable(kit)
    with staged(kit) as work:
        for name in names:
            source = check_file(directory, manifest, name)
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, work / name)
        content = dict(manifest) | {
            "files": {name: manifest["files"][name] for name in names},
            "variants": {name: manifest["variants"][name] for name in variants},
            "steps": {},
        }
        content.pop("engines", None)
        write_manifest(work, content)
        write_json(
            work / KIT_NAME,
            {
                "format": KIT_FORMAT,
                "target": target.name,
                "variants": list(variants),
                "flavour": config.flavour,
                "profiles": [p.to_json() for p in settings.profiles],
                "settings": settings_json(settings),
                "tokens": dict(config.tokens) if config.tokens is not None else None,
            },
        )
        write_text(work / "build.sh", _SCRIPT)
        (work / "build.sh").chmod(0o755)
        listed = [*names, KIT_NAME, "build.sh"]
        sums = "".join(f"{sha256_of(work / name)}  {name}\n" for name in listed)
        write_text(work / SUMS, sums)
        publish(work, kit)
    return kit


def is_kit(directory: Path) -> bool:
    """Tell whether a folder is a build kit."""
    return (directory / KIT_NAME).is_file()


def kit_config(directory: Path, *, flavour: str = "auto", force: bool = False) -> BuildConfig:
    """Return what a kit says is to be built.

    Args:
        directory: The kit's folder.
        flavour: Key of ``FLAVOURS``; ``auto`` takes the kit's.
        force: Build again what is up to date.

    Raises:
        InputError: The kit cannot be read.
        ContractError: A file of it is not the one that was put into it.
    """
    from albert_deploy.export.engine.build import EngineConfig

    _check_sums(directory)
    path = directory / KIT_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != KIT_FORMAT:
            raise InputError(
                f"{path} has format {content['format']}, this version reads {KIT_FORMAT}; "
                "write the kit again with: albert-deploy build DIR --target … --kit"
            )
        profiles = tuple(Profile.from_json(p) for p in content["profiles"])
        engine = EngineConfig(profiles=profiles, **content["settings"])
        return BuildConfig(
            targets=(content["target"],),
            variants=tuple(content["variants"]),
            flavour=content["flavour"] if flavour == "auto" else flavour,
            profiles=profiles,
            tokens=content["tokens"],
            engine=engine,
            force=force,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error}; write the kit again") from error


def adopt(directory: Path, kit: Path) -> list[str]:
    """Take the engines that were built from a kit back into the deployment directory.

    Args:
        directory: Deployment directory that the kit was written from.
        kit: The kit's folder with its engines, copied back.

    Returns:
        Names of the engines taken.

    Raises:
        InputError: The kit has no engine.
        ContractError: An engine is damaged, or was made from another ONNX file.
    """
    manifest, theirs = read_manifest(directory), read_manifest(kit)
    engines: Mapping[str, Any] = theirs.get("engines", {})
    if not engines:
        raise InputError(f"{kit} holds no engine; build them there with: albert-deploy build {kit}")
    taken = []
    for name, entry in engines.items():
        for key in ("file", "record"):
            if entry[key] != f"{FOLDER}/{Path(entry[key]).name}":
                raise InputError(f"{kit} names {entry[key]}, which is outside of {FOLDER}/")
            if not is_intact(kit, theirs, entry[key]):
                raise ContractError(
                    f"{kit / entry[key]} is missing or not the file that was built; copy it again"
                )
        record = json.loads((kit / entry["record"]).read_text(encoding="utf-8"))
        file = VARIANTS[entry["variant"]].file
        if record["onnx"]["sha256"] != manifest["files"].get(file, {}).get("sha256"):
            raise ContractError(
                f"{name} was made from another {file} than {directory} holds; write a new kit: "
                f"albert-deploy build {directory} --target {entry['target']} --kit"
            )
        for key in ("file", "record"):
            target = directory / entry[key]
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.tmp")
            shutil.copyfile(kit / entry[key], partial)
            partial.replace(target)
            manifest["files"][entry[key]] = file_record(target)
        manifest.setdefault("engines", {})[name] = dict(entry)
        taken.append(name)
    write_manifest(directory, manifest)
    return taken


def _names(manifest: Mapping[str, Any], variants: tuple[str, ...]) -> list[str]:
    """Return the files of a kit: the variants, and what a runtime reads."""
    wanted = {file for name in variants for file in model_files(manifest, VARIANTS[name].file)}
    return [name for name in manifest["files"] if name in wanted or "/" not in name]


def _check_sums(directory: Path) -> None:
    try:
        lines = (directory / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {directory / SUMS}: {error}; copy the kit again") from error
    for line in lines:
        expected, _, name = line.partition("  ")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{directory / SUMS} names {name}, which is outside of the kit")
        path = directory / name
        if not path.is_file() or sha256_of(path) != expected:
            raise ContractError(
                f"{path} is missing or is not the file that was put into the kit; copy it again"
            )
