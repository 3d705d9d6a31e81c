"""Measure what the runtime alone takes: a fresh environment's size, and the time of its import.

``python -m albert_deploy.scripts.runtime_size`` installs this project with ONNX Runtime into a
temporary environment and then takes away what an inference never loads. It fails above a limit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT_S, LIMIT_MB = 0.3, 120.0
# What an inference imports. pip brings the rest with these: tokenizers wants the hub's client.
NEEDED = ("albert-deploy", "click", "numpy", "onnxruntime", "tokenizers", "tqdm")
# The Python module has all of ONNX Runtime in itself and does not load the C library beside it.
UNUSED = ("onnxruntime/capi/libonnxruntime.so*", "numpy/**/tests")
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
    """What was measured; sizes in 10^6 bytes, without pip, setuptools and byte code.

    Attributes:
        installed_mb: As pip installs it, with every dependency that packages declare.
        needed_mb: With ``NEEDED`` alone.
        least_mb: Without the files of ``UNUSED`` too.
        import_s: Time to import ``load``, the least of several, in seconds.
        import_all_s: Likewise with what a call of it needs beside the engine.
    """

    installed_mb: float
    needed_mb: float
    least_mb: float
    import_s: float
    import_all_s: float


def measure(directory: Path | None = None, *, source: Path = _REPOSITORY) -> Sizes:
    """Install the runtime into a temporary environment, strip it and measure it.

    Args:
        directory: Deployment directory that the stripped environment has to answer with.
        source: Folder of the project.

    Raises:
        subprocess.CalledProcessError: Something cannot be installed, imported or answered.
        SystemExit: Importing the runtime imports what it must not.
    """
    with tempfile.TemporaryDirectory(prefix="albert-deploy-size-") as folder:
        place = Path(folder)
        venv.create(place / "env", with_pip=True)
        python = str(place / "env" / "bin" / "python")
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        project = _copied(source, place / "project")
        subprocess.run([*pip, "install", "--quiet", f"{project}[cpu]"], check=True)
        installed = installed_bytes(place)
        listed = subprocess.run(
            [*pip, "list", "--format=json"], check=True, capture_output=True, text=True
        )
        kept = {*NEEDED, "pip", "setuptools"}
        names = [row["name"] for row in json.loads(listed.stdout) if row["name"] not in kept]
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *names], check=True)
        needed = installed_bytes(place)
        for packages in (place / "env").rglob("site-packages"):
            for pattern in UNUSED:
                for path in list(packages.glob(pattern)):
                    remove: Callable[[Path], None] = shutil.rmtree if path.is_dir() else Path.unlink
                    remove(path)
        if directory is not None:
            command = [
                python,
                "-m",
                "albert_deploy.scripts.cli",
                "predict",
                str(directory.resolve()),
            ]
            subprocess.run([*command, "--skip-bad-lines", "a text"], check=True, cwd=place)
        times = [_import_times(python) for _ in range(_ROUNDS)]
        return Sizes(
            installed_mb=installed / 1e6,
            needed_mb=needed / 1e6,
            least_mb=installed_bytes(place) / 1e6,
            import_s=min(first for first, _ in times),
            import_all_s=min(second for _, second in times),
        )


def installed_bytes(environment: Path) -> int:
    """Return the size of an environment's packages, pip and byte code left out, in bytes."""
    return sum(
        path.stat().st_size
        for packages in environment.rglob("site-packages")
        for path in packages.rglob("*")
        if path.is_file()
        and path.suffix != ".pyc"
        and not path.relative_to(packages).parts[0].startswith(("pip", "setuptools"))
    )


def _copied(source: Path, to: Path) -> Path:
    """Copy what is installed: pip would leave its build folder in the source."""
    unwanted = shutil.ignore_patterns("__pycache__", "node_modules")
    for name in _PACKAGES:
        shutil.copytree(source / name, to / name, ignore=unwanted)
    for name in _FILES:
        shutil.copy(source / name, to / name)
    return to


def _import_times(python: str) -> tuple[float, float]:
    run = subprocess.run(
        [python, "-c", _IMPORT], cwd=Path(python).parent, check=True, capture_output=True, text=True
    )
    first, second, heavy = json.loads(run.stdout)
    if heavy:
        raise SystemExit(f"importing the runtime imports {', '.join(heavy)}")
    return first, second


def main(arguments: list[str] | None = None) -> None:
    """Print sizes and times; exit with 1 where one of them is above its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, help="a deployment directory to answer")
    found = measure(parser.parse_args(arguments).directory)
    print(
        f"installed by pip {found.installed_mb:.1f} MB, what is imported {found.needed_mb:.1f} MB, "
        f"without files that nothing loads {found.least_mb:.1f} MB (limit {LIMIT_MB:g})\n"
        f"import of load {found.import_s:.3f} s, with numpy and tokenizers "
        f"{found.import_all_s:.3f} s (limit {LIMIT_S:g})"
    )
    slow = max(found.import_s, found.import_all_s) > LIMIT_S
    sys.exit(1 if slow or found.least_mb > LIMIT_MB else 0)


if __name__ == "__main__":
    main()
