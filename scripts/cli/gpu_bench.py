"""The GPU benchmark's command line: ``make gpu-bench``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from albert_deploy.scripts.cli import options
from albert_deploy.scripts.gpu_run import ALL_GEOMETRIES, CommandConfig, make_model, measure, smoked
from albert_deploy.validation.bench.gpu_bench import BATCHES, LENGTHS, GpuBenchConfig
from albert_deploy.validation.bench.gpu_contenders import ENTRANTS
from albert_deploy.validation.bench.gpu_report import text

OUT = Path("docs/performance")


@click.command()
@options.option("--out", type=click.Path(path_type=Path), default=OUT, help="Folder to write to.")
@options.option("--geometries", default="base,xxlarge", help=f"Of: {', '.join(ALL_GEOMETRIES)}.")
@options.option("--batches", default=",".join(map(str, BATCHES)), help="Rows of a batch.")
@options.option("--lengths", default=",".join(map(str, LENGTHS)), help="Tokens of a row.")
@options.option(
    "--contenders", default=None, help=f"Patterns such as '*@trt'; of: {', '.join(ENTRANTS)}."
)
@options.option("--seconds", default=500.0, help="No new shape starts after this time.")
@options.option(
    "--models",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder that keeps the models and engines; by default a temporary one.",
)
@options.option("--prepare", is_flag=True, help="Only make the models, which needs no GPU.")
@options.option(
    "--data",
    multiple=True,
    metavar="NAME[=PATH]",
    default=("sst2", "squad"),
    help="Data whose lengths are run too; may be given several times; '' for none.",
)
@options.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the tokenizer that counts its tokens; by default the sample's.",
)
@options.option("--compile-mode", default=None, help="Of torch.compile, such as reduce-overhead.")
@options.option("--fresh", is_flag=True, help="Begin anew instead of going on where a run ended.")
@options.option("--smoke", is_flag=True, help="A small model and few runs: does it work here?")
def command(
    out: Path,
    geometries: str,
    batches: str,
    lengths: str,
    contenders: str | None,
    seconds: float,
    models: Path | None,
    prepare: bool,
    data: tuple[str, ...],
    tokenizer: Path | None,
    compile_mode: str | None,
    fresh: bool,
    smoke: bool,
) -> None:
    """Measure PyTorch, ONNX Runtime and TensorRT on this machine's GPU, in turns.

    Writes JSON, tables and a picture named after the GPU. A run that was ended goes on where it
    was when it is started again; a contender that cannot run is left out with its reason.
    """
    begin = time.perf_counter()
    bench = GpuBenchConfig(
        batches=options.numbers("--batches", batches),
        lengths=options.numbers("--lengths", lengths),
        seconds=seconds,
    )
    named = [options.parse_dataset(one) for one in data if one]
    config = CommandConfig(
        bench=bench,
        geometries=options.names(geometries),
        contenders=None if contenders is None else options.names(contenders),
        models=models,
        data=tuple(one for one in named if one is not None),
        tokenizer=tokenizer,
        compile_mode=compile_mode,
        fresh=fresh,
        smoke=smoke,
        command=" ".join(["python -m albert_deploy.scripts.cli.gpu_bench", *sys.argv[1:]]),
    )
    if smoke:
        config = smoked(config)
    if prepare:
        if models is None:
            raise click.UsageError("--prepare needs --models DIR, where the models are kept")
        for geometry in config.geometries:
            make_model(geometry, models / geometry, config.contenders, note=options.note)
        return
    path, report = measure(config, out, begin=begin, note=options.note)
    click.echo(text(report))
    click.echo(str(path))


def main() -> None:
    """Run the command with the exit codes of ``albert-deploy``."""
    from albert_deploy.scripts.cli import main as cli

    cli.cli.add_command(command, "gpu-bench")
    cli.main(["gpu-bench", *sys.argv[1:]])


if __name__ == "__main__":
    main()
