"""Measure what the runtime alone takes: a fresh environment's size, and the time of its import.

``python -m albert_deploy.scripts.runtime_size [DIR]`` installs this project with ONNX Runtime into
a temporary environment, takes away what ``slim`` takes away, and answers with DIR. It fails above
a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from albert_deploy.scripts.unneeded import environment_bytes

LIMIT_S, LIMIT_MB = 0.3, 120.0
_PACKAGES = ("export", "quantize", "runtime", "scripts", "validation")
_FILES = ("pyproject.toml", "README.md", "LICENSE")
_ROUNDS = 5
_REPOSITORY = Path(__file__).resolve().parent.parent
_IMPORT = """
import json, sys, time
start = time.perf_counter()
from albert_deploy.runtime import load
first = time.perf_counter()
import albert_deploy.runtime.pipeline
second = time.perf_counter()
heavy = sorted({"torch", "transformers", "onnx"} & set(sys.modules))
print(json.dumps([first - start, second - start, heavy]))
"""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What was measured; sizes in 10^6 bytes of all files of an environment, byte code and all.

    Attributes:
        installed_mb: As pip installs it, with every dependency that packages declare.
        slim_mb: After ``slim``.
        least_mb: After ``slim --pip``, and after a directory was answered with.
        import_s: Time to import ``load``, the least of several, in seconds.
        import_all_s: Likewise with what a call of it needs beside the engine.
        check: What ``pip check`` says of the slim environment, a line each.
    """

    installed_mb: float
    slim_mb: float
    least_mb: float
    import_s: float
    import_all_s: float
    check: tuple[str, ...]

    def table(self) -> str:
        """Return the sizes and times as lines for people."""
        return "\n".join(
            [
                f"as pip installs it      {self.installed_mb:7.1f} MB",
                f"after slim              {self.slim_mb:7.1f} MB",
                f"after slim --pip        {self.least_mb:7.1f} MB  (limit {LIMIT_MB:g})",
                f"import of load          {self.import_s:7.3f} s   (limit {LIMIT_S:g})",
                f"with numpy, tokenizers  {self.import_all_s:7.3f} s   (limit {LIMIT_S:g})",
                *(f"pip check: {line}" for line in self.check),
            ]
        )

    def exceeded(self) -> list[str]:
        """Return what is above its limit, for people."""
        limits = (
            ("the size", self.least_mb, LIMIT_MB, "MB"),
            ("the import of load", self.import_s, LIMIT_S, "s"),
            ("the import with numpy and tokenizers", self.import_all_s, LIMIT_S, "s"),
        )
        return [
            f"{what} is {value:.3f} {unit}, above {limit:g} {unit}"
            for what, value, limit, unit in limits
            if value > limit
        ]


def measure(directory: Path | None = None, *, source: Path = _REPOSITORY) -> Sizes:
    """Install the runtime into a temporary environment, slim it and measure it.

    Args:
        directory: Deployment directory that the slim environment has to answer with.
        source: Folder of the project.

    Raises:
        subprocess.CalledProcessError: Something cannot be installed, imported or answered.
        SystemExit: Importing the runtime imports what it must not.
    """
    with tempfile.TemporaryDirectory(prefix="albert-deploy-size-") as folder:
        place = Path(folder)
        environment = place / "env"
        python = install(environment, source=source)
        installed = environment_bytes(environment)
        slim = [python, "-m", "albert_deploy.scripts.slim"]
        _run(slim, place)
        after = environment_bytes(environment)
        check = _run([python, "-m", "pip", "check"], place, check=False)
        _run([*slim, "--pip"], place)
        if directory is not None:
            predict = [python, "-m", "albert_deploy.scripts.cli", "predict"]
            _run([*predict, str(directory.resolve()), "--skip-bad-lines", "a text"], place)
        times = [_import_times(python, place) for _ in range(_ROUNDS)]
        return Sizes(
            installed_mb=installed / 1e6,
            slim_mb=after / 1e6,
            least_mb=environment_bytes(environment) / 1e6,
            import_s=min(first for first, _ in times),
            import_all_s=min(second for _, second in times),
            check=tuple(check.splitlines()),
        )


def install(environment: Path, *, source: Path = _REPOSITORY) -> str:
    """Make an environment with the project and ONNX Runtime, and nothing of this one.

    Args:
        environment: Folder to make.
        source: Folder of the project, of which a copy is installed.

    Returns:
        The environment's own Python.

    Raises:
        subprocess.CalledProcessError: pip cannot install it; its standard error says why.
    """
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    with tempfile.TemporaryDirectory(prefix="albert-deploy-source-") as folder:
        project = _copied(source, Path(folder) / "project")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, f"{project}[cpu]"], environment)
    return python


def _run(command: list[str], place: Path, *, check: bool = True) -> str:
    """Run a command outside the project, whose folders would hide what is installed."""
    usual = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run = subprocess.run(command, cwd=place, env=usual, check=False, capture_output=True, text=True)
    if check and run.returncode:
        sys.stderr.write(run.stdout + run.stderr)
        raise subprocess.CalledProcessError(run.returncode, command, run.stdout, run.stderr)
    return run.stdout


def _copied(source: Path, to: Path) -> Path:
    """Copy what is installed: pip would leave its build folder in the source."""
    unwanted = shutil.ignore_patterns("__pycache__", "node_modules")
    for name in _PACKAGES:
        shutil.copytree(source / name, to / name, ignore=unwanted)
    for name in _FILES:
        shutil.copy(source / name, to / name)
    return to


def _import_times(python: str, place: Path) -> tuple[float, float]:
    first, second, heavy = json.loads(_run([python, "-c", _IMPORT], place))
    if heavy:
        raise SystemExit(f"importing the runtime imports {', '.join(heavy)}")
    return first, second


def main(arguments: list[str] | None = None) -> None:
    """Print sizes and times; exit with 1 where one of them is above its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, help="a deployment directory to answer")
    found = measure(parser.parse_args(arguments).directory)
    print(found.table())
    if wrong := found.exceeded():
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
