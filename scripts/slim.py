"""Take from an environment made for inference alone what answering never loads.

``python -m albert_deploy.scripts.slim [PREFIX]`` deletes what ``unneeded`` finds and then sees that
the runtime can still be imported. An environment that does anything but inference is refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from albert_deploy.runtime.errors import ContractError
from albert_deploy.scripts.unneeded import Removal, environment_bytes, unneeded

_CHECK = """
import importlib.util
import albert_deploy.runtime.pipeline, albert_deploy.scripts.cli.main
if importlib.util.find_spec("onnxruntime"):
    import albert_deploy.runtime.ort, onnxruntime
"""


def remove(removal: Removal) -> None:
    """Delete what was found, and see that what answers can still be imported.

    Raises:
        ContractError: It cannot.
    """
    folders = set()
    for path in removal.paths:
        folders.add(path.parent)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        _drop_if_empty(folder, removal.prefix)
    python = removal.prefix / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    usual = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run = subprocess.run(
        [python, "-c", _CHECK],
        cwd=removal.prefix,
        env=usual,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise ContractError(
            f"{removal.prefix} cannot import the runtime any more: {last}; make the environment "
            "anew and report this"
        )


def _drop_if_empty(folder: Path, prefix: Path) -> None:
    while folder != prefix and folder.is_dir() and not folder.is_symlink():
        left = list(folder.iterdir())
        if any(path.name != "__pycache__" for path in left) or folder.name == "site-packages":
            return
        shutil.rmtree(folder)
        folder = folder.parent


@click.command()
@click.argument("prefix", default=sys.prefix, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--pip", is_flag=True, help="Remove pip and setuptools too: nothing comes after.")
def command(prefix: Path, dry_run: bool, pip: bool) -> None:
    """Remove from the environment PREFIX what answering never loads; by default from this one.

    Refuses an environment that does anything but inference.
    """
    removal = unneeded(prefix, installers=pip)
    before = environment_bytes(removal.prefix)
    verb = "would remove" if dry_run else "removed"
    if not dry_run:
        remove(removal)
    for name, size in (*removal.packages.items(), *removal.files.items()):
        click.echo(f"{verb} {size / 1e6:6.1f} MB  {name}")
    after = f", after {environment_bytes(removal.prefix) / 1e6:.1f} MB" if not dry_run else ""
    click.echo(f"{removal.prefix}: before {before / 1e6:.1f} MB{after}")


def main() -> None:
    """Run the command with the exit codes of ``albert-deploy``."""
    from albert_deploy.scripts.cli import main as cli

    cli.cli.add_command(command, "slim")
    cli.main(["slim", *sys.argv[1:]])


if __name__ == "__main__":
    main()
