"""The command line: parses, calls one function per command, turns errors into exit codes."""

from __future__ import annotations

import os
import re
import sys

import click

from albert_deploy.runtime.errors import (
    EXIT_CODES,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    AlbertDeployError,
    MachineError,
)
from albert_deploy.scripts.cli import bench as cli_speed
from albert_deploy.scripts.cli import (
    bundle,
    engines,
    options,
    predict,
    release,
    serve,
    validate,
)

# Options of Python -> their names here, where it is not the same with dashes.
_FLAGS = {
    "allow_few": "allow-few-samples",
    "allow_evaluation": "allow-evaluation-split",
}
_EPILOG = "Exit codes:\n\n\b\n" + "\n".join(f"{c:>4}  {text}" for c, text in EXIT_CODES.items())


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="albert-deploy")
@click.pass_context
def cli(context: click.Context) -> None:
    """From an ALBERT checkpoint to ONNX, INT8 and FP16 that provably keep its score."""
    context.with_resource(options.progress())


for command in (
    release.release,
    release.export,
    release.quantize,
    bundle.bundle,
    bundle.verify,
    engines.build,
    engines.doctor,
    validate.validate,
    validate.compare,
    validate.gate,
    predict.predict,
    serve.serve,
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
        click.echo(f"error: {' '.join(as_flags(str(error)).splitlines())}", err=True)
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


def as_flags(message: str) -> str:
    """Return a message with options written as here: `allow_few=True` is --allow-few-samples."""
    return re.sub(
        r"`([a-z_]+)(?:=True)?`",
        lambda found: f"--{_FLAGS.get(found[1], found[1]).replace('_', '-')}",
        message,
    )


def _leave(code: int, *, at_once: bool) -> None:
    """Exit; a process of this command alone at once where an engine hangs: it would wait for it."""
    watching = sys.modules.get("albert_deploy.validation.evaluate.timeout")
    if at_once and watching is not None and watching.hung():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
