"""The command line: parses, calls one function per command, turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from albert_deploy.runtime.contract import DEFAULT_VARIANTS, TASKS, VARIANTS
from albert_deploy.runtime.errors import (
    EXIT_CODES,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    AlbertDeployError,
    InputError,
    MachineError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_EPILOG = "Exit codes:\n\n\b\n" + "\n".join(f"{c:>4}  {text}" for c, text in EXIT_CODES.items())


def _option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    return click.option(*names, **({"show_default": True} | settings))


_out = _option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Deployment directory to make.",
)
_task = _option("--task", default="auto", help=f"auto, or one of: {', '.join(TASKS)}.")
_revision = _option("--revision", default=None, help="Branch, tag or commit of a hub model.")
_pickle = _option(
    "--allow-pickle",
    is_flag=True,
    help="Read pytorch_model.bin where there are no safetensors (weights only).",
)
_force = _option("--force", is_flag=True, help="Replace what another run left there.")
_variants = _option(
    "--variants",
    default=",".join(DEFAULT_VARIANTS),
    help=f"Variants to make, separated by commas, of: {', '.join(VARIANTS)}.",
)
_dataset = _option(
    "--dataset",
    default=None,
    metavar="NAME[=PATH]",
    help="Labelled data: sst2=FOLDER or squad=FOLDER in the official layout.",
)
_gate = _option(
    "--gate",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="TOML file with limits per variant.",
)
_truncate = _option(
    "--truncate", is_flag=True, help="Cut over-long texts instead of refusing them."
)
_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="albert-deploy")
def cli() -> None:
    """From an ALBERT checkpoint to ONNX, INT8 and FP16 that provably keep its score."""


@cli.command()
@click.argument("source")
@_out
@_task
@_revision
@_pickle
@_force
@_variants
@_dataset
@_gate
@_truncate
def release(
    source: str,
    out: Path,
    task: str,
    revision: str | None,
    allow_pickle: bool,
    force: bool,
    variants: str,
    dataset: str | None,
    gate: Path | None,
    truncate: bool,
) -> None:
    """Export SOURCE, quantize it, validate every variant and give a verdict.

    SOURCE is a checkpoint's folder, a hub id, or a shipped sample (sample-sst2, sample-squad,
    which bring their data). This is what `make export` runs.
    """
    from albert_deploy.export.step import ExportConfig
    from albert_deploy.quantize.step import QuantizeConfig
    from albert_deploy.scripts.release import ReleaseConfig, sample_data
    from albert_deploy.scripts.release import release as run
    from albert_deploy.validation.evaluate import EvaluateConfig
    from albert_deploy.validation.rows import RowsConfig
    from albert_deploy.validation.step import ValidateConfig

    config = ReleaseConfig(
        export=ExportConfig(task=task, revision=revision, allow_pickle=allow_pickle, force=force),
        quantize=QuantizeConfig(variants=_names(variants)),
        validate=ValidateConfig(
            dataset=sample_data(source, _parse_dataset(dataset), task=task),
            gate=gate,
            evaluate=EvaluateConfig(rows=RowsConfig(truncate=truncate)),
        ),
    )
    place, report = run(source, config, out=out, note=_note)
    _show(place, report)


@cli.command()
@click.argument("source")
@_out
@_task
@_revision
@_pickle
@_force
def export(
    source: str, out: Path, task: str, revision: str | None, allow_pickle: bool, force: bool
) -> None:
    """Export SOURCE to onnx/model.onnx in a deployment directory."""
    from albert_deploy.export.step import ExportConfig
    from albert_deploy.export.step import export as run

    config = ExportConfig(task=task, revision=revision, allow_pickle=allow_pickle, force=force)
    manifest = run(source, config, out=out)
    record = manifest["files"][VARIANTS["fp32"].file]
    click.echo(
        f"{out / VARIANTS['fp32'].file}: {manifest['task']}, {record['bytes']:,} bytes, "
        f"sha256 {record['sha256'][:12]}"
    )


@cli.command()
@_directory
@_variants
@_force
def quantize(directory: Path, variants: str, force: bool) -> None:
    """Make INT8 and FP16 variants of the ONNX model in DIR."""
    from albert_deploy.quantize.step import QuantizeConfig
    from albert_deploy.quantize.step import quantize as run

    run(directory, QuantizeConfig(variants=_names(variants), force=force), note=click.echo)


@cli.command()
@_directory
@_option("--source", default=None, help="The checkpoint; by default where it was exported from.")
@_dataset
@_gate
@_truncate
def validate(
    directory: Path, source: str | None, dataset: str | None, gate: Path | None, truncate: bool
) -> None:
    """Compare every variant in DIR with the fp32 source and give a verdict."""
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.scripts.release import sample_data
    from albert_deploy.validation.evaluate import EvaluateConfig
    from albert_deploy.validation.rows import RowsConfig
    from albert_deploy.validation.step import ValidateConfig
    from albert_deploy.validation.step import validate as run

    manifest = read_manifest(directory)
    given = source or manifest["source"]["path"]
    config = ValidateConfig(
        dataset=sample_data(given, _parse_dataset(dataset), task=manifest["task"]),
        source=source,
        gate=gate,
        evaluate=EvaluateConfig(rows=RowsConfig(truncate=truncate)),
    )
    _show(directory, run(directory, config, note=_note))


@cli.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@_option("--lengths", default="8,32,128,384", help="Tokens of a row, separated by commas.")
@_option(
    "--dataset",
    default=None,
    metavar="NAME[=PATH]",
    help="Measure texts as long as this data's too.",
)
@_option("--threads", default="1", help="Threads, such as 1,0 for one and then one per core.")
@_option("--repeats", default=15, type=click.IntRange(min=1), help="Timed rounds.")
@_option("--seconds", default=180.0, help="No new round starts after this time.")
@_option("--variants", default=None, help="Variants, by default those that are there.")
@_option(
    "--contenders",
    default=None,
    help="Some of them, such as 'torch,int8*,nncf-int8@openvino'; a wrong name lists all.",
)
@_option("--source", default=None, help="The checkpoint; by default where it was exported from.")
@_option("--no-torch", is_flag=True, help="Leave PyTorch out.")
@_option("--random", "geometry", default=None, help="Instead of DIR: base, large, xlarge, xxlarge.")
@_option("--tune", is_flag=True, help="Record the quickest engine of each variant in DIR.")
@_option(
    "--require-speedup",
    "speedup",
    type=float,
    default=None,
    metavar="X",
    help="Fail (7) unless each variant is X times as fast as fp32 in each column.",
)
@_option(
    "--require-size",
    "size",
    type=float,
    default=None,
    metavar="X",
    help="Fail (7) if a variant has more than this share of fp32's bytes, such as 0.3.",
)
@_option("--out", type=click.Path(path_type=Path), default=None, help="JSON file to write too.")
def bench(
    directory: Path | None,
    lengths: str,
    dataset: str | None,
    threads: str,
    repeats: int,
    seconds: float,
    variants: str | None,
    contenders: str | None,
    source: str | None,
    no_torch: bool,
    geometry: str | None,
    tune: bool,
    speedup: float | None,
    size: float | None,
    out: Path | None,
) -> None:
    """Measure size, load time and latency of the variants in DIR beside PyTorch and peers.

    All run in turns, so that the ratios hold on a busy machine too. Without DIR, --random makes
    a model with random weights in the geometry of a published ALBERT, in a temporary folder.
    """
    if (directory is None) == (geometry is None):
        raise click.UsageError("give either DIR or --random GEOMETRY")
    if source is not None and (no_torch or geometry is not None):
        raise click.UsageError("--source goes with DIR and without --no-torch")
    if tune and geometry is not None:
        raise click.UsageError("--tune goes with DIR, in whose manifest it is recorded")
    from albert_deploy.scripts.bench import bench_directory, bench_random
    from albert_deploy.validation.latency import BenchConfig
    from albert_deploy.validation.pays import PaysConfig

    config = BenchConfig(
        lengths=_numbers("--lengths", lengths),
        dataset=_parse_dataset(dataset),
        threads=_numbers("--threads", threads),
        repeats=repeats,
        seconds=seconds,
        variants=None if variants is None else _names(variants),
        contenders=None if contenders is None else tuple(contenders.split(",")),
        source=source,
        torch=not no_torch,
    )
    pays = None
    if speedup is not None or size is not None:
        pays = PaysConfig(speedup=speedup, size=size)
    if directory is not None:
        bench_directory(
            directory, config, tune=tune, pays=pays, out=out, show=click.echo, note=_note
        )
    elif geometry is not None:
        bench_random(geometry, config, pays=pays, out=out, show=click.echo, note=_note)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with a documented code."""
    # Waiting threads sleep: PyTorch's spin, which starves other processes on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        cli.main(args=arguments, prog_name="albert-deploy", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AlbertDeployError as error:
        # One line, whatever a library's own message holds.
        click.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        click.echo(
            f"error: this command needs the package {error.name}, which is not installed; "
            "run: pip install 'albert-deploy[export,cpu]'",
            err=True,
        )
        sys.exit(MachineError.exit_code)
    except Exception as error:
        click.echo(
            f"internal error: {type(error).__name__}: {error}; please report it with the output "
            "of the same command under ALBERT_DEPLOY_TRACEBACK=1",
            err=True,
        )
        if os.environ.get("ALBERT_DEPLOY_TRACEBACK"):
            raise
        sys.exit(EXIT_INTERNAL)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError(f"--variants names none; use some of: {', '.join(VARIANTS)}")
    return names


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"got {option} {text}; wanted numbers such as 8,32") from None


def _parse_dataset(text: str | None) -> tuple[str, Path | None] | None:
    from albert_deploy.validation.datasets import parse_dataset_option

    return None if text is None else parse_dataset_option(text)


def _note(line: str) -> None:
    click.echo(line, err=True)


def _show(place: Path, report: dict[str, Any]) -> None:
    from albert_deploy.validation.gate import raise_for_verdict
    from albert_deploy.validation.report import REPORTS, table

    data = report["dataset"]
    on = data["name"] or "texts without labels: no score was measured, see --dataset"
    click.echo(f"\n{report['task']} on {data['rows']} rows ({on})\n\n{table(report)}\n")
    click.echo(f"verdict: {report['verdict']}   {place}   {place / REPORTS / 'summary.md'}")
    raise_for_verdict(report)


if __name__ == "__main__":
    main()
