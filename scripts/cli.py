"""The command line: parses, calls one function per command, turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import (
    EXIT_CODES,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    AlbertDeployError,
    MachineError,
)
from albert_deploy.scripts import options

_EPILOG = "Exit codes:\n\n\b\n" + "\n".join(f"{c:>4}  {text}" for c, text in EXIT_CODES.items())


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="albert-deploy")
def cli() -> None:
    """From an ALBERT checkpoint to ONNX, INT8 and FP16 that provably keep its score."""


@cli.command()
@click.argument("source")
@options.out
@options.task
@options.revision
@options.pickle
@options.force
@options.variants
@options.dataset
@options.quantization
@options.gate
@options.truncate
@options.pays
@options.option("--lengths", default="32,128", help="Tokens of the rows that --require judges by.")
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
    speedup: float | None,
    size: float | None,
    lengths: str,
    **quantization: Any,
) -> None:
    """Export SOURCE, quantize it, validate every variant and give a verdict.

    SOURCE is a checkpoint's folder, a hub id, or a shipped sample (sample-sst2, sample-squad,
    which bring their data). This is what `make export` runs.
    """
    from albert_deploy.export.step import ExportConfig
    from albert_deploy.scripts.release import ReleaseConfig, sample_data
    from albert_deploy.scripts.release import release as run
    from albert_deploy.validation.evaluate import EvaluateConfig
    from albert_deploy.validation.rows import RowsConfig
    from albert_deploy.validation.step import ValidateConfig

    config = ReleaseConfig(
        export=ExportConfig(task=task, revision=revision, allow_pickle=allow_pickle, force=force),
        quantize=options.quantize_config(
            quantization,
            variants=variants,
            default=sample_data(source, None, task=task),
        ),
        pays=options.pays_config(speedup, size),
        lengths=options.numbers("--lengths", lengths),
        validate=ValidateConfig(
            dataset=sample_data(source, options.parse_dataset(dataset), task=task),
            gate=gate,
            evaluate=EvaluateConfig(rows=RowsConfig(truncate=truncate)),
        ),
    )
    place, report = run(source, config, out=out, note=_note)
    _show(place, report)


@cli.command()
@click.argument("source")
@options.out
@options.task
@options.revision
@options.pickle
@options.force
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
@options.directory
@options.variants
@options.force
@options.quantization
def quantize(directory: Path, variants: str, force: bool, **quantization: Any) -> None:
    """Make INT8, FP16 and other variants of the ONNX model in DIR.

    int8, fp16 and bf16 need no data. int8-qdq, int8-fp16 and fp8-qdq are static: their ranges
    come from --calibration texts, which fp16 is searched for overflows with too.
    """
    from albert_deploy.quantize.step import quantize as run
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.scripts.release import sample_data

    made_from = read_manifest(directory)
    config = options.quantize_config(
        quantization,
        variants=variants,
        force=force,
        default=sample_data(made_from["source"]["path"], None, task=made_from["task"]),
    )
    run(directory, config, note=click.echo)


@cli.command()
@options.directory
@options.source
@options.dataset
@options.gate
@options.truncate
@options.option(
    "--allow-calibration-rows",
    is_flag=True,
    help="Accept a variant that was calibrated on the very data it is judged on.",
)
def validate(
    directory: Path,
    source: str | None,
    dataset: str | None,
    gate: Path | None,
    truncate: bool,
    allow_calibration_rows: bool,
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
        dataset=sample_data(given, options.parse_dataset(dataset), task=manifest["task"]),
        source=source,
        gate=gate,
        evaluate=EvaluateConfig(rows=RowsConfig(truncate=truncate)),
        allow_calibration_rows=allow_calibration_rows,
    )
    _show(directory, run(directory, config, note=_note))


@cli.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@options.lengths
@options.option(
    "--dataset",
    default=None,
    metavar="NAME[=PATH]",
    help="Measure texts as long as this data's too.",
)
@options.option(
    "--threads", default="1", help="Threads, such as 1,0 for one and then one per core."
)
@options.option("--repeats", default=15, type=click.IntRange(min=1), help="Timed rounds.")
@options.option("--seconds", default=180.0, help="No new round starts after this time.")
@options.option("--variants", default=None, help="Variants, by default those that are there.")
@options.option(
    "--contenders",
    default=None,
    help="Some of them, such as 'torch,int8*,nncf-int8@openvino'; a wrong name lists all.",
)
@options.source
@options.option("--no-torch", is_flag=True, help="Leave PyTorch out.")
@options.option(
    "--random", "geometry", default=None, help="Instead of DIR: base, large, xlarge, xxlarge."
)
@options.option("--tune", is_flag=True, help="Record the quickest engine of each variant in DIR.")
@options.pays
@options.option(
    "--out", type=click.Path(path_type=Path), default=None, help="JSON file to write too."
)
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

    config = BenchConfig(
        lengths=options.numbers("--lengths", lengths),
        dataset=options.parse_dataset(dataset),
        threads=options.numbers("--threads", threads),
        repeats=repeats,
        seconds=seconds,
        variants=None if variants is None else options.names(variants),
        contenders=None if contenders is None else tuple(contenders.split(",")),
        source=source,
        torch=not no_torch,
    )
    pays = options.pays_config(speedup, size)
    if directory is not None:
        bench_directory(
            directory, config, tune=tune, pays=pays, out=out, show=click.echo, note=_note
        )
    elif geometry is not None:
        bench_random(geometry, config, pays=pays, out=out, show=click.echo, note=_note)


@cli.command()
@options.directory
@options.option("--variant", default="int8", help=f"One of: {', '.join(VARIANTS)}.")
@options.option("--lengths", default="32,128,384", help="Tokens of a row, separated by commas.")
@options.option("--threads", default=1, type=click.IntRange(min=0), help="0 for one per core.")
def profile(directory: Path, variant: str, lengths: str, threads: int) -> None:
    """Show where the time of a variant goes in ONNX Runtime, by operators' names."""
    from albert_deploy.validation.profile import ProfileConfig, table
    from albert_deploy.validation.profile import profile as run

    config = ProfileConfig(
        variant=variant, lengths=options.numbers("--lengths", lengths), threads=threads
    )
    click.echo(table(run(directory, config)))


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
