"""The commands about engines: build and doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.trt.targets import LOCAL
from albert_deploy.scripts import options

if TYPE_CHECKING:
    from albert_deploy.export.engine.profiles import ProfilePlan
    from albert_deploy.export.engine.step import BuildConfig

_AUTO = "auto"


@click.command()
@options.directory
@options.option(
    "--target",
    default=None,
    metavar="NAME,…",
    help="GPUs to build for, such as sm89,l4; local asks the one here. A wrong name lists all. "
    "By default local, or what a build kit says.",
)
@options.option(
    "--variants",
    default=None,
    help="Variants to build; by default those in DIR that TensorRT reads and the target computes.",
)
@options.option("--flavour", default=_AUTO, help="auto, tensorrt or tensorrt_rtx.")
@options.option(
    "--profile",
    default=None,
    metavar="MIN:OPT:MAX,…",
    help="Shapes that the engine takes, each rows x tokens, such as 1x1:8x128:32x128; or auto, "
    "from the lengths of --dataset. By default one profile for every length.",
)
@options.option(
    "--dataset",
    default=None,
    metavar="NAME[=PATH]",
    help="Data whose lengths --profile auto goes by.",
)
@options.option(
    "--max-profiles",
    "most",
    default=4,
    type=click.IntRange(min=1),
    help="Most profiles that --profile auto makes.",
)
@options.option(
    "--batch",
    default="1:8:32",
    metavar="MIN:OPT:MAX",
    help="Rows at a time that --profile auto makes profiles for.",
)
@options.option(
    "--workspace", default=None, type=click.IntRange(min=1), metavar="MIB", help="Scratch memory."
)
@options.option(
    "--level", default=None, type=click.IntRange(0, 5), help="How long the builder may search."
)
@options.option(
    "--timing-cache",
    default=None,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder that keeps the times of kernels between builds.",
)
@options.option("--require-cache-hit", is_flag=True, help="Fail (4) rather than time a kernel.")
@options.option("--version-compatible", is_flag=True, help="A plan for later versions too.")
@options.option("--hardware-compatible", is_flag=True, help="A plan for newer GPUs too.")
@options.option("--refit", is_flag=True, help="Weights of the engine can be replaced.")
@options.option("--strip", is_flag=True, help="A plan without weights, to be refitted.")
@options.option("--weight-streaming", is_flag=True, help="Weights may stay in host memory.")
@options.option("--kit", is_flag=True, help="Write a folder for the target machine to build from.")
@options.option(
    "--adopt",
    default=None,
    metavar="KIT",
    type=click.Path(path_type=Path),
    help="Take the engines that were built in a kit into DIR.",
)
@options.force
def build(directory: Path, target: str | None, kit: bool, adopt: Path | None, **given: Any) -> None:
    """Build TensorRT engines from the ONNX variants in DIR, and prove what they are.

    TensorRT-RTX builds for any RTX-class GPU on any machine; full TensorRT builds on the target
    itself. Where it is another machine, --kit writes kits/TARGET: copy that folder there, run
    its build.sh, copy it back and take its engines in with --adopt.
    """
    from albert_deploy.export.engine.kit import adopt as take
    from albert_deploy.export.engine.kit import is_kit, kit_config, write_kit
    from albert_deploy.export.engine.step import build as run

    if adopt is not None:
        for name in take(directory, adopt):
            click.echo(f"{name}: taken from {adopt}")
        return
    if is_kit(directory) and target is None:
        run(
            directory,
            kit_config(directory, flavour=given["flavour"], force=given["force"]),
            note=click.echo,
        )
        return
    config = _config(directory, target or LOCAL, given)
    if kit:
        for name in config.targets:
            click.echo(f"{name}: copy {write_kit(directory, name, config)} there, run its build.sh")
        return
    run(directory, config, note=click.echo)


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


def _config(directory: Path, target: str, given: dict[str, Any]) -> BuildConfig:
    from albert_deploy.export.engine.build import EngineConfig
    from albert_deploy.export.engine.step import BuildConfig, default_profiles
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.runtime.trt.profiles import parse_profiles

    manifest = read_manifest(directory)
    profiles, plan = default_profiles(manifest), None
    asked = given["profile"]
    if asked == _AUTO or (asked is None and given["dataset"] is not None):
        plan = _auto(directory, manifest, given)
        profiles = plan.profiles
        _show(plan)
    elif asked is not None:
        profiles = parse_profiles(asked, rank=len(manifest["contract"]["inputs"][0]["axes"]))
    workspace = given["workspace"]
    engine = EngineConfig(
        profiles=profiles,
        workspace_bytes=None if workspace is None else workspace << 20,
        **{
            name: given[name]
            for name in (
                "level",
                "timing_cache",
                "require_cache_hit",
                "version_compatible",
                "hardware_compatible",
                "refit",
                "strip",
                "weight_streaming",
            )
        },
    )
    return BuildConfig(
        targets=options.targets(target),
        variants=None if given["variants"] is None else options.names(given["variants"]),
        flavour=given["flavour"],
        profiles=profiles,
        tokens=None if plan is None else plan.to_json(),
        engine=engine,
        force=given["force"],
    )


def _auto(directory: Path, manifest: dict[str, Any], given: dict[str, Any]) -> ProfilePlan:
    """Choose profiles from the lengths of a data set, by default the sample's own."""
    from albert_deploy.export.engine.profiles import AutoConfig, auto_profiles
    from albert_deploy.scripts.release import sample_data
    from albert_deploy.validation.data.lengths import lengths_of

    data = sample_data(
        manifest["source"]["path"], options.parse_dataset(given["dataset"]), task=manifest["task"]
    )
    if data is None:
        raise InputError(
            "--profile auto goes by the lengths of a data set; name one: --dataset sst2=FOLDER"
        )
    rows = options.numbers("--batch", given["batch"].replace(":", ","))
    if len(rows) != 3:
        raise InputError(f"got --batch {given['batch']}; wanted min:opt:max, such as 1:8:32")
    config = AutoConfig(most=given["most"], batches=((rows[0], rows[1], rows[2]),))
    return auto_profiles(lengths_of(directory, data), manifest["source"]["config"], config)


def _show(plan: ProfilePlan) -> None:
    single = plan.ratio_at(plan.lengths.max_length)
    options.note(
        f"{len(plan.profiles)} profiles for {plan.lengths.sequences:,} texts: "
        f"{', '.join(map(str, plan.profiles))}; each text padded to the end of its bucket is "
        f"{plan.ratio:.2f} times the real tokens, to {plan.lengths.max_length} {single:.2f} times"
    )
