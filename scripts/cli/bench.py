"""The commands that measure: bench and profile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.scripts.cli import options
from albert_deploy.scripts.cli.options import DATASET, NAMES, NUMBERS, PATTERNS, Dataset, opt, takes

if TYPE_CHECKING:
    from albert_deploy.validation.bench.config import BenchConfig


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured; None leaves it to the defaults, which are others on a GPU."""

    lengths: tuple[int, ...] | None = opt(
        None, "Tokens of a row; by default 8,32,128,384, on a GPU 32,128,384.", type=NUMBERS
    )
    batches: tuple[int, ...] | None = opt(
        None, "Rows of a batch; by default 1, on a GPU 1,8,32,128.", type=NUMBERS
    )
    dataset: tuple[Dataset, ...] = opt(
        (),
        "Measure texts as long as this data's too; may be given several times. By default none, "
        "on a GPU sst2 and squad.",
        "NAME[=PATH]",
        type=DATASET,
        multiple=True,
    )
    threads: tuple[int, ...] | None = opt(
        None, "Threads, such as 1,0 for one and then one per core; by default 1.", type=NUMBERS
    )
    repeats: int | None = opt(
        None, "Timed rounds; by default 15, on a GPU 200.", type=click.IntRange(min=1)
    )
    seconds: float | None = opt(
        None, "No new round starts after this time; by default 180, on a GPU 400."
    )
    variants: tuple[str, ...] | None = opt(
        None, "Variants, by default those that are there.", type=NAMES
    )
    contenders: tuple[str, ...] | None = opt(
        None,
        "Some of them, such as 'torch,int8*,nncf-int8@openvino'; a wrong name lists all.",
        type=PATTERNS,
    )
    source: str | None = opt(None, options.SOURCE)
    no_torch: bool = opt(False, "Leave PyTorch out.")
    compile_mode: str | None = opt(None, "Of torch.compile, such as reduce-overhead.")
    gpu: bool = opt(False, "Measure this machine's GPU instead of its processor.")

    def config(self) -> BenchConfig:
        """Return the options of a bench."""
        from albert_deploy.validation.bench.config import GPU_DEFAULTS, BenchConfig

        names = ("lengths", "batches", "threads", "repeats", "seconds", "variants", "contenders")
        given: dict[str, Any] = {n: getattr(self, n) for n in (*names, "source", "compile_mode")}
        given["datasets"] = self.dataset or None
        return BenchConfig(
            device="gpu" if self.gpu else "cpu",
            torch=not self.no_torch,
            **(GPU_DEFAULTS if self.gpu else {})
            | {name: value for name, value in given.items() if value is not None},
        )

    def beside_serving(self) -> list[Any]:
        """Return what a measurement of serving has no use for."""
        timing = [self.batches, self.threads, self.repeats, self.seconds, self.contenders]
        return [*timing, self.source, self.compile_mode, self.no_torch or None, self.gpu or None]


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@takes(Measured, "measured")
@options.option(
    "--random", "geometry", default=None, help="Instead of DIR: base, large, xlarge, xxlarge."
)
@options.option(
    "--models",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder that keeps the model of --random and its engines; by default a temporary one.",
)
@options.option("--prepare", is_flag=True, help="Only make that model, which needs no GPU.")
@options.option("--tune", is_flag=True, help="Record the quickest engine of each variant in DIR.")
@options.option(
    "--serving",
    is_flag=True,
    help="Measure, and record in DIR, only how many networks of how many threads answer the most "
    "rows, and in which batches.",
)
@options.pays
@options.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="JSON file to write too, with tables and a picture beside it, or a folder for it. One "
    "that a run left unfinished is gone on with.",
)
def bench(
    directory: Path | None,
    measured: Measured,
    geometry: str | None,
    models: Path | None,
    prepare: bool,
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
    if measured.source is not None and (measured.no_torch or geometry is not None):
        raise click.UsageError("--source goes with DIR and without --no-torch")
    if tune and geometry is not None:
        raise click.UsageError("--tune goes with DIR, in whose manifest it is recorded")
    if measured.gpu and (tune or speedup or size or measured.threads or measured.variants):
        raise click.UsageError(
            "--tune, --require-speedup, --require-size, --threads and --variants are for a "
            "processor and do not go with --gpu"
        )
    if models is not None and geometry is None:
        raise click.UsageError("--models keeps the model of --random; DIR is kept anyway")
    if prepare and models is None:
        raise click.UsageError("--prepare needs --models DIR, where the model is kept")
    if serving:
        others = [geometry, speedup, size, tune or None, *measured.beside_serving()]
        if directory is None or any(other is not None for other in others):
            raise click.UsageError(
                "--serving goes with DIR, --lengths, --dataset, --variants and --out alone"
            )
        _measure_serving(directory, measured, out)
        return
    from albert_deploy.scripts.bench import bench_directory, bench_random, make_model

    config = measured.config()
    pays = options.pays_config(speedup, size)
    if directory is not None:
        bench_directory(directory, config, tune=tune, pays=pays, out=out, show=click.echo)
    elif geometry is not None and prepare and models is not None:
        click.echo(make_model(geometry, config, models))
    elif geometry is not None:
        bench_random(
            geometry,
            config,
            models=models,
            pays=pays,
            out=out,
            show=click.echo,
        )


def _measure_serving(directory: Path, measured: Measured, out: Path | None) -> None:
    from albert_deploy.runtime.manifest import write_json
    from albert_deploy.scripts.serving.profile import (
        ServingConfig,
        measure_serving,
        record_serving,
        serving_text,
    )

    if len(measured.dataset) > 1:
        raise click.UsageError("--serving takes one --dataset")
    given: dict[str, Any] = {} if measured.variants is None else {"variants": measured.variants}
    config = ServingConfig(
        lengths=measured.config().lengths,
        dataset=measured.dataset[0] if measured.dataset else None,
        **given,
    )
    found = measure_serving(directory, config)
    click.echo(serving_text(found))
    record_serving(directory, found)
    if out is not None:
        write_json(out, found)


@click.command()
@options.directory
@options.option("--variant", default="int8", help=f"One of: {', '.join(VARIANTS)}.")
@options.option("--lengths", type=NUMBERS, default="32,128,384", help="Tokens of a row.")
@options.option("--threads", default=1, type=click.IntRange(min=0), help="0 for one per core.")
def profile(directory: Path, variant: str, lengths: tuple[int, ...], threads: int) -> None:
    """Show where the time of a variant goes in ONNX Runtime, by operators' names."""
    from albert_deploy.validation.bench.profile import ProfileConfig, table
    from albert_deploy.validation.bench.profile import profile as run

    config = ProfileConfig(variant=variant, lengths=lengths, threads=threads)
    click.echo(table(run(directory, config)))
