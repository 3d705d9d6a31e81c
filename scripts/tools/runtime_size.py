"""Measure what the runtime alone takes: a fresh environment's size, and the time of its import.

``python -m albert_deploy.scripts.tools.runtime_size [DIR]`` makes a temporary environment as
``docker/Dockerfile.cpu`` makes its own, by that file's very command, and answers with DIR. It fails
above a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

LIMIT_S, LIMIT_MB = 0.3, 120.0
_ROUNDS = 5
_REPOSITORY = Path(__file__).resolve().parents[2]
_IMAGE = "docker/Dockerfile.cpu"
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
        pip_mb: As pip installs the extra ``cpu``, with all that packages declare, and pip.
        image_mb: As the image has it, after a directory was answered with.
        import_s: Time to import ``load``, the least of several, in seconds.
        import_all_s: Likewise with what a call of it needs beside the engine.
    """

    pip_mb: float
    image_mb: float
    import_s: float
    import_all_s: float

    def table(self) -> str:
        """Return the sizes and times as lines for people."""
        return "\n".join(
            [
                f"pip install [cpu]       {self.pip_mb:7.1f} MB",
                f"as {_IMAGE} {self.image_mb:7.1f} MB  (limit {LIMIT_MB:g})",
                f"import of load          {self.import_s:7.3f} s   (limit {LIMIT_S:g})",
                f"with numpy, tokenizers  {self.import_all_s:7.3f} s   (limit {LIMIT_S:g})",
            ]
        )

    def exceeded(self) -> list[str]:
        """Return what is above its limit, for people."""
        limits = (
            ("the size", self.image_mb, LIMIT_MB, "MB"),
            ("the import of load", self.import_s, LIMIT_S, "s"),
            ("the import with numpy and tokenizers", self.import_all_s, LIMIT_S, "s"),
        )
        return [
            f"{what} is {value:.3f} {unit}, above {limit:g} {unit}"
            for what, value, limit, unit in limits
            if value > limit
        ]


def measure(directory: Path | None = None) -> Sizes:
    """Install the runtime into temporary environments and measure them.

    Args:
        directory: Deployment directory that the small environment has to answer with.

    Raises:
        subprocess.CalledProcessError: Something cannot be installed, imported or answered.
        SystemExit: Importing the runtime imports what it must not.
    """
    with tempfile.TemporaryDirectory(prefix="albert-deploy-size-") as folder:
        place = Path(folder)
        install(place / "pip")
        python = install_image(place / "image")
        if directory is not None:
            predict = [python, "-m", "albert_deploy.scripts.cli", "predict"]
            _run([*predict, str(directory.resolve()), "--skip-bad-lines", "a text"], place)
        times = [_import_times(python, place) for _ in range(_ROUNDS)]
        return Sizes(
            pip_mb=environment_bytes(place / "pip") / 1e6,
            image_mb=environment_bytes(place / "image") / 1e6,
            import_s=min(first for first, _ in times),
            import_all_s=min(second for _, second in times),
        )


def install(environment: Path) -> str:
    """Make an environment with the project and ONNX Runtime as pip does; returns its Python."""
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(prefix="albert-deploy-source-") as folder:
        _run([*pip, f"{_copied(Path(folder))}[cpu]"], environment)
    return python


def install_image(environment: Path) -> str:
    """Make an environment by the command of ``docker/Dockerfile.cpu``; returns its Python."""
    with tempfile.TemporaryDirectory(prefix="albert-deploy-source-") as folder:
        place = _copied(Path(folder))
        text = (place / _IMAGE).read_text(encoding="utf-8").replace("\\\n", " ")
        (command,) = re.findall(r"^RUN (.+)$", text, flags=re.MULTILINE)
        command = command.replace("/opt/albert", shlex.quote(str(environment)))
        command = command.replace(" pip ", f" {shlex.quote(sys.executable)} -m pip ")
        command = command.replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv")
        _run(["sh", "-ec", command], place)
    return str(environment / "bin" / "python")


def environment_bytes(prefix: Path) -> int:
    """Return the size of all files of an environment, in bytes; links count nothing."""
    files = (path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def _run(command: list[str], place: Path) -> str:
    """Run a command outside the project, whose folders would hide what is installed."""
    usual = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run = subprocess.run(command, cwd=place, env=usual, check=False, capture_output=True, text=True)
    if run.returncode:
        sys.stderr.write(run.stdout + run.stderr)
        raise subprocess.CalledProcessError(run.returncode, command, run.stdout, run.stderr)
    return run.stdout


def _copied(to: Path) -> Path:
    """Copy what is committed or to be: pip would leave its build folder in the source."""
    listed = _run(["git", "ls-files", "-co", "--exclude-standard", "-z"], _REPOSITORY)
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("tests/", "docs/")) and (_REPOSITORY / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((_REPOSITORY / name).read_bytes())
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
