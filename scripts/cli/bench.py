"""The commands that measure: bench and profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.scripts.cli import options

# What --serving has no use for.
_TIMING = ("threads", "repeats", "seconds")


@click.command()
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
@options.option(
    "--serving",
    is_flag=True,
    help="Measure, and record in DIR, only how many networks of how many threads answer the most "
    "rows, and in which batches.",
)
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
    serving: bool,
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
    if serving:
        asked = click.get_current_context().get_parameter_source
        timing = [asked(name) is ParameterSource.COMMANDLINE for name in _TIMING]
        others = (geometry, source, no_torch, tune, contenders, speedup, size, *timing)
        if directory is None or any(others):
            raise click.UsageError(
                "--serving goes with DIR, --lengths, --dataset, --variants and --out alone"
            )
        _measure_serving(directory, lengths, dataset, variants, out)
        return
    from albert_deploy.scripts.bench import bench_directory, bench_random
    from albert_deploy.validation.bench.interleave import BenchConfig

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
            directory, config, tune=tune, pays=pays, out=out, show=click.echo, note=options.note
        )
    elif geometry is not None:
        bench_random(geometry, config, pays=pays, out=out, show=click.echo, note=options.note)


def _measure_serving(
    directory: Path, lengths: str, dataset: str | None, variants: str | None, out: Path | None
) -> None:
    from albert_deploy.runtime.manifest import write_json
    from albert_deploy.scripts.serving.profile import (
        ServingConfig,
        measure_serving,
        record_serving,
        serving_text,
    )

    given: dict[str, Any] = {} if variants is None else {"variants": options.names(variants)}
    config = ServingConfig(
        lengths=options.numbers("--lengths", lengths),
        dataset=options.parse_dataset(dataset),
        **given,
    )
    found = measure_serving(directory, config, note=options.note)
    click.echo(serving_text(found))
    record_serving(directory, found)
    if out is not None:
        write_json(out, found)


@click.command()
@options.directory
@options.option("--variant", default="int8", help=f"One of: {', '.join(VARIANTS)}.")
@options.option("--lengths", default="32,128,384", help="Tokens of a row, separated by commas.")
@options.option("--threads", default=1, type=click.IntRange(min=0), help="0 for one per core.")
def profile(directory: Path, variant: str, lengths: str, threads: int) -> None:
    """Show where the time of a variant goes in ONNX Runtime, by operators' names."""
    from albert_deploy.validation.bench.profile import ProfileConfig, table
    from albert_deploy.validation.bench.profile import profile as run

    config = ProfileConfig(
        variant=variant, lengths=options.numbers("--lengths", lengths), threads=threads
    )
    click.echo(table(run(directory, config)))
