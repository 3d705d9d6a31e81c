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
from albert_deploy.scripts import (
    cli_bundle,
    cli_engines,
    cli_evidence,
    cli_predict,
    cli_serve,
    cli_speed,
    options,
)

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
@options.validation
@options.option(
    "--target",
    default=None,
    metavar="NAME,…",
    help="Build TensorRT engines for these GPUs too, see build; needs TensorRT.",
)
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
    target: str | None,
    speedup: float | None,
    size: float | None,
    lengths: str,
    **given: Any,
) -> None:
    """Export SOURCE, quantize it, validate every variant and give a verdict.

    SOURCE is a checkpoint's folder, a hub id, or a shipped sample (sample-sst2, sample-squad,
    which bring their data). This is what `make export` runs.
    """
    from albert_deploy.export.engine.step import BuildConfig
    from albert_deploy.export.step import ExportConfig
    from albert_deploy.scripts.release import ReleaseConfig, sample_data
    from albert_deploy.scripts.release import release as run

    hub = given["dataset_revision"] is not None
    place = sample_data(source, options.parse_dataset(dataset), task=task, hub=hub)
    config = ReleaseConfig(
        export=ExportConfig(task=task, revision=revision, allow_pickle=allow_pickle, force=force),
        quantize=options.quantize_config(
            given,
            variants=variants,
            default=sample_data(source, None, task=task),
        ),
        build=None if target is None else BuildConfig(targets=options.targets(target)),
        pays=options.pays_config(speedup, size),
        lengths=options.numbers("--lengths", lengths),
        validate=options.validate_config(given, dataset=place),
    )
    made, report = run(source, config, out=out, note=options.note)
    options.show(made, report)


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


for command in (
    cli_bundle.bundle,
    cli_bundle.verify,
    cli_engines.build,
    cli_engines.doctor,
    cli_evidence.validate,
    cli_evidence.compare,
    cli_evidence.gate,
    cli_predict.predict,
    cli_serve.serve,
    cli_speed.bench,
    cli_speed.profile,
):
    cli.add_command(command)


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
        _leave(error.exit_code, at_once=arguments is None)
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


def _leave(code: int, *, at_once: bool) -> None:
    """Exit; a process of this command alone at once where an engine hangs: it would wait for it."""
    watching = sys.modules.get("albert_deploy.validation.evaluate.timeout")
    if at_once and watching is not None and watching.hung():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
