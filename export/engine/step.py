"""The build step: ONNX variants of a deployment directory become TensorRT engines, with proof."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.export.graph.naming import label_of
from albert_deploy.runtime.contract import CHOICES, VARIANTS, variant_named
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import (
    check_file,
    file_record,
    is_intact,
    model_files,
    read_manifest,
    write_json,
    write_manifest,
    writing,
)
from albert_deploy.runtime.trt.gpu import probe, require_gpu
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.runtime.trt.record import FOLDER, FORMAT, record_file
from albert_deploy.runtime.trt.targets import (
    LOCAL,
    Target,
    can_run,
    target_named,
    target_of,
    variants_for_engines,
)

if TYPE_CHECKING:
    from albert_deploy.export.engine.build import Built, EngineConfig
    from albert_deploy.export.engine.network import Network
    from albert_deploy.export.engine.proofs import Proof
    from albert_deploy.runtime.trt.flavours import Flavour

_LOG = logging.getLogger(__name__)
# Of a profile that nothing is known for: tuned for a few short texts, up to whatever fits.
_OPTIMUM, _LARGEST_BATCH, _CHOICES = (8, 128), 32, 4


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Which engines to build, and how.

    Args:
        targets: Keys of ``TARGETS``, or ``local`` for the GPU of this machine.
        variants: Keys of ``VARIANTS``; None takes those of the directory that TensorRT reads
            and the target computes.
        flavour: Key of ``runtime.trt.flavours.FLAVOURS``, or ``auto``.
        profiles: Shapes that the engines take; None for ``default_profiles``.
        tokens: What the profiles were chosen from, for the record.
        engine: Settings of the builder; its profiles are replaced by those above.
        force: Build again what is up to date.
    """

    targets: tuple[str, ...] = (LOCAL,)
    variants: tuple[str, ...] | None = None
    flavour: str = "auto"
    profiles: tuple[Profile, ...] | None = None
    tokens: Mapping[str, Any] | None = None
    engine: EngineConfig | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            InputError: An unknown target or variant, or none.
        """
        if not self.targets:
            raise InputError("no target is named; use `target` local or one such as sm89")
        for name in self.targets:
            if name != LOCAL:
                target_named(name)
        for name in self.variants or ():
            variant_named(name)


def build(directory: Path, config: BuildConfig) -> dict[str, Any]:
    """Build engines in a deployment directory; those up to date are left alone.

    Each is written when its proofs hold, and not at all when one of them fails: an earlier
    engine of the same name then stays.

    Returns:
        The manifest.

    Raises:
        InputError: No deployment directory, a variant that is not there or not for TensorRT, or
            a setting that the flavour does not have.
        ContractError: A file was changed, TensorRT refuses it, or a proof failed.
        MachineError: TensorRT is not installed or cannot build for the target here.
    """
    manifest = read_manifest(directory)
    targets = [resolve(name) for name in config.targets]
    jobs = [(t, v) for t in targets for v in chosen_variants(manifest, config.variants, t)]
    flavours = check_buildable(config)
    settings = engine_config(manifest, config)
    for target, variant in jobs:
        name = f"{target.name}-{variant}"
        flavour = flavours[target.name]
        file = VARIANTS[variant].file
        source, *_ = (check_file(directory, manifest, n) for n in model_files(manifest, file))
        identity = {
            "onnx": {"file": file, "sha256": manifest["files"][file]["sha256"]},
            "flavour": flavour.name,
            "version": flavour.version,
            "profiles": [p.to_json() for p in settings.profiles],
            "settings": settings_json(settings),
        }
        if not config.force and _is_current(directory, manifest, name, identity):
            _LOG.info(f"{name}: up to date")
            continue
        from albert_deploy.export.engine.build import build_plan
        from albert_deploy.export.engine.proofs import prove

        built = build_plan(source, target, settings, flavour=flavour)
        proofs = prove(
            source,
            variant,
            layer_uses(manifest),
            built,
            parameter_bytes=manifest["parameter_bytes"],
            kept=_kept_wide(manifest["variants"][variant], built.network),
        )
        failed = [p for p in proofs if p.status == "failed"]
        if failed:
            raise ContractError(
                f"the engine {name} is not what was asked for: "
                + "; ".join(f"{p.name}: {p.found}, wanted {p.wanted}" for p in failed)
                + f"; nothing was written to {directory / FOLDER}"
            )
        record = _record(manifest, target, variant, identity, built, proofs, config.tokens)
        _write(directory, manifest, name, built.plan, record)
        _LOG.info(_describe(name, record))
    return manifest


def check_buildable(config: BuildConfig) -> dict[str, Flavour]:
    """Return who builds for each target, by its name, before any long work is done.

    Raises:
        InputError: Unknown flavour.
        MachineError: There is none that builds for one of the targets here.
    """
    from albert_deploy.runtime.trt.flavours import load_flavour, set_target

    found = {}
    for target in map(resolve, config.targets):
        found[target.name] = load_flavour(config.flavour, need=target)
        set_target(found[target.name], None, target)
    return found


def resolve(name: str) -> Target:
    """Return a target by name; ``local`` asks the GPU.

    Raises:
        InputError: Unknown name.
        MachineError: ``local``, and there is no GPU here.
    """
    if name != LOCAL:
        return target_named(name)
    return target_of(require_gpu().capability)


def chosen_variants(
    manifest: Mapping[str, Any], asked: Sequence[str] | None, target: Target
) -> tuple[str, ...]:
    """Return the variants to build for a target.

    Raises:
        InputError: One that was asked for is not in the directory, or the target cannot run it.
    """
    there = [n for n in variants_for_engines() if VARIANTS[n].file in manifest["files"]]
    if asked is None:
        found = tuple(name for name in there if can_run(target, name) is None)
        if not found:
            raise InputError(
                f"the directory holds no variant that {target.label} runs; make one with: "
                "albert-deploy quantize DIR --variants fp16"
            )
        return found
    for name in asked:
        why = can_run(target, name)
        if why is not None:
            raise InputError(f"no engine of {name} for {target.name}: {why}")
        if name not in there:
            raise InputError(
                f"the directory holds no {name}; it holds: {', '.join(there)}; make it with: "
                f"albert-deploy quantize DIR --variants {name}"
            )
    return tuple(asked)


def default_profiles(manifest: Mapping[str, Any]) -> tuple[Profile, ...]:
    """Return one profile from a single token to the longest input, tuned for 8 rows of 128."""
    longest = int(manifest["contract"]["max_length"])
    choices = CHOICES in manifest["contract"]["inputs"][0]["axes"]
    batch, length = _OPTIMUM
    middle: tuple[int, ...] = (_CHOICES,) if choices else ()
    most = tuple(2 * n for n in middle)
    return (
        Profile(
            minimum=(1, *(1 for _ in middle), 1),
            optimum=(batch, *middle, min(length, longest)),
            maximum=(_LARGEST_BATCH, *most, longest),
        ),
    )


def engine_config(manifest: Mapping[str, Any], config: BuildConfig) -> EngineConfig:
    """Return the builder's settings with the profiles of a build filled in."""
    from albert_deploy.export.engine.build import EngineConfig

    profiles = config.profiles or default_profiles(manifest)
    if config.engine is None:
        return EngineConfig(profiles=profiles)
    return replace(config.engine, profiles=profiles)


def settings_json(settings: EngineConfig) -> dict[str, Any]:
    """Return the settings that shape a plan, as a record holds them."""
    values = asdict(settings)
    # Where times of kernels are kept does not shape the plan; shapes have their own entry.
    for name in ("profiles", "timing_cache", "require_cache_hit"):
        del values[name]
    return values


def layer_uses(manifest: Mapping[str, Any]) -> int:
    """Return how many times a layer runs: iterations times the layers of a group."""
    config = manifest["source"]["config"]
    return int(config["num_hidden_layers"]) * int(config.get("inner_group_num", 1))


def _kept_wide(variant: Mapping[str, Any], network: Network) -> set[str]:
    """Return the products that a variant leaves wider on purpose, by node, as its manifest says."""
    labels = {label for row in variant.get("coverage", ()) for label in row["real_inputs"] or ()}
    nodes = set(variant.get("kept_float32") or ())
    return {p.name for p in network.products if p.name in nodes or label_of(p.name) in labels}


def _describe(name: str, record: Mapping[str, Any]) -> str:
    """Return a line about an engine for people."""
    counts = dict.fromkeys(("passed", "failed", "not proven"), 0)
    for proof in record["proofs"]:
        counts[proof["status"]] += 1
    proofs = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    return (
        f"{name}: {record['bytes']:,} bytes in {record['build_ms'] / 1000:.1f} s with "
        f"{record['flavour']} {record['version']}; proofs: {proofs}"
    )


def _record(
    manifest: Mapping[str, Any],
    target: Target,
    variant: str,
    identity: Mapping[str, Any],
    built: Built,
    proofs: Sequence[Proof],
    tokens: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the record of a plan; ``identity`` is what the same one would be built from again."""
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


def _write(
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


def _is_current(
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
