"""The commands about engines: build and doctor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.trt.targets import LOCAL
from albert_deploy.scripts.cli import options
from albert_deploy.scripts.cli.options import COUNT, opt

if TYPE_CHECKING:
    from albert_deploy.export.engine.profiles import ProfilePlan
    from albert_deploy.export.engine.step import BuildConfig

_AUTO = "auto"
# Options that the engine's builder takes as they are.
_BUILDER = (
    "level",
    "timing_cache",
    "require_cache_hit",
    "version_compatible",
    "hardware_compatible",
    "refit",
    "strip",
    "weight_streaming",
)


@dataclass(frozen=True, kw_only=True)
class Build:
    """What is built, and how."""

    target: str | None = opt(
        None,
        "GPUs to build for, such as sm89,l4; local asks the one here. A wrong name lists all. "
        "By default local, or what a build kit says.",
        "NAME,…",
    )
    variants: tuple[str, ...] | None = opt(
        None,
        "Variants to build; by default those in DIR that TensorRT reads and the target computes.",
        type=options.NAMES,
    )
    flavour: str = opt(_AUTO, "auto, tensorrt or tensorrt_rtx.")
    profile: str | None = opt(
        None,
        "Shapes that the engine takes, each rows x tokens, such as 1x1:8x128:32x128; or auto, "
        "from the lengths of --dataset. By default one profile for every length.",
        "MIN:OPT:MAX,…",
    )
    dataset: options.Dataset | None = opt(
        None, "Data whose lengths --profile auto goes by.", "NAME[=PATH]", type=options.DATASET
    )
    most: int = opt(
        4, "Most profiles that --profile auto makes.", type=COUNT, flag="--max-profiles"
    )
    batch: str = opt(
        "1:8:32", "Rows at a time that --profile auto makes profiles for.", "MIN:OPT:MAX"
    )
    workspace: int | None = opt(None, "Scratch memory.", "MIB", type=COUNT)
    level: int | None = opt(None, "How long the builder may search.", type=click.IntRange(0, 5))
    timing_cache: Path | None = opt(
        None, "Folder that keeps the times of kernels between builds.", "DIR"
    )
    require_cache_hit: bool = opt(False, "Fail (4) rather than time a kernel.")
    version_compatible: bool = opt(False, "A plan for later versions too.")
    hardware_compatible: bool = opt(False, "A plan for newer GPUs too.")
    refit: bool = opt(False, "Weights of the engine can be replaced.")
    strip: bool = opt(False, "A plan without weights, to be refitted.")
    weight_streaming: bool = opt(False, "Weights may stay in host memory.")
    kit: bool = opt(False, "Write a folder for the target machine to build from.")
    adopt: Path | None = opt(None, "Take the engines that were built in a kit into DIR.", "KIT")
    force: bool = opt(False, "Replace what another run left there.")


@click.command()
@options.directory
@options.takes(Build, "given")
def build(directory: Path, given: Build) -> None:
    """Build TensorRT engines from the ONNX variants in DIR, and prove what they are.

    TensorRT-RTX builds for any RTX-class GPU on any machine; full TensorRT builds on the target
    itself. Where it is another machine, --kit writes kits/TARGET: copy that folder there, run
    its build.sh, copy it back and take its engines in with --adopt.
    """
    from albert_deploy.export.engine.kit import adopt as take
    from albert_deploy.export.engine.kit import is_kit, kit_config, write_kit
    from albert_deploy.export.engine.step import build as run

    options.progress_is_the_result()
    if given.adopt is not None:
        for name in take(directory, given.adopt):
            click.echo(f"{name}: taken from {given.adopt}")
        return
    if is_kit(directory) and given.target is None:
        config = kit_config(directory, flavour=given.flavour, force=given.force)
        run(directory, config)
        return
    config = _config(directory, given)
    if given.kit:
        for name in config.targets:
            click.echo(f"{name}: copy {write_kit(directory, name, config)} there, run its build.sh")
        return
    run(directory, config)


@click.command()
@options.directory
@options.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def doctor(directory: Path, as_json: bool) -> None:
    """Tell for each artifact in DIR whether it can run on this machine, and why not."""
    from albert_deploy.runtime.doctor import doctor as run

    diagnosis = run(directory)
    if as_json:
        click.echo(json.dumps(diagnosis.to_json(), indent=2))
    else:
        click.echo(diagnosis.table())
    diagnosis.raise_for_damage()


def _config(directory: Path, given: Build) -> BuildConfig:
    from albert_deploy.export.engine.build import EngineConfig
    from albert_deploy.export.engine.step import BuildConfig, default_profiles
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.runtime.trt.profiles import parse_profiles

    manifest = read_manifest(directory)
    profiles, plan = default_profiles(manifest), None
    asked = given.profile
    if asked == _AUTO or (asked is None and given.dataset is not None):
        plan = _auto(directory, manifest, given)
        profiles = plan.profiles
        _show(plan)
    elif asked is not None:
        profiles = parse_profiles(asked, rank=len(manifest["contract"]["inputs"][0]["axes"]))
    workspace = given.workspace
    engine = EngineConfig(
        profiles=profiles,
        workspace_bytes=None if workspace is None else workspace << 20,
        **{name: getattr(given, name) for name in _BUILDER},
    )
    return BuildConfig(
        targets=options.targets(given.target or LOCAL),
        variants=given.variants,
        flavour=given.flavour,
        profiles=profiles,
        tokens=None if plan is None else plan.to_json(),
        engine=engine,
        force=given.force,
    )


def _auto(directory: Path, manifest: dict[str, Any], given: Build) -> ProfilePlan:
    """Choose profiles from the lengths of a data set, by default the sample's own."""
    from albert_deploy.export.engine.profiles import AutoConfig, auto_profiles
    from albert_deploy.scripts.release import sample_data
    from albert_deploy.validation.data.lengths import lengths_of

    data = sample_data(manifest["source"]["path"], given.dataset, task=manifest["task"])
    if data is None:
        raise InputError(
            "--profile auto goes by the lengths of a data set; name one: --dataset sst2=FOLDER"
        )
    rows = options.numbers("--batch", given.batch.replace(":", ","))
    if len(rows) != 3:
        raise InputError(f"got --batch {given.batch}; wanted min:opt:max, such as 1:8:32")
    config = AutoConfig(most=given.most, batches=((rows[0], rows[1], rows[2]),))
    return auto_profiles(lengths_of(directory, data), manifest["source"]["config"], config)


def _show(plan: ProfilePlan) -> None:
    single = plan.ratio_at(plan.lengths.max_length)
    click.echo(
        f"{len(plan.profiles)} profiles for {plan.lengths.sequences:,} texts: "
        f"{', '.join(map(str, plan.profiles))}; each text padded to the end of its bucket is "
        f"{plan.ratio:.2f} times the real tokens, to {plan.lengths.max_length} {single:.2f} times",
        err=True,
    )
