"""The wheel has every room and nothing else, and works where the repository is not."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy without anything that is not committed or to be."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=REPOSITORY)
    for name in filter(None, listed.split("\0")):
        source, copy = REPOSITORY / name, folder / "copy" / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--verbose", "-w", folder)
    said = run(*pip, folder / "copy", cwd=folder)
    assert "would be ignored" not in said
    (made,) = folder.glob("*.whl")
    return made


def test_it_has_the_rooms_that_are_listed(wheel: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    names = zipfile.ZipFile(wheel).namelist()
    rooms = {Path(n).parent.as_posix().replace("/", ".") for n in names if n.endswith(".py")}
    assert rooms == set(project["tool"]["setuptools"]["packages"])


def test_it_releases_a_sample_outside_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    purelib = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")})
    # The packages of this environment, but not the project: a path in a .pth reads no other .pth.
    packages = "\n".join(path for path in sys.path if path.endswith("site-packages"))
    Path(purelib, "packages.pth").write_text(packages, encoding="utf-8")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(purelib)
    where = "import albert_deploy.runtime as r; print(r.__file__)"
    assert str(tmp_path) in run(python, "-c", where, cwd=tmp_path)
    main = "from albert_deploy.scripts.cli.main import main; main()"
    arguments = ("release", "sample-sst2", "--out", "out", "--variants", "fp32,int8")
    assert "verdict: pass" in run(python, "-c", main, *arguments, cwd=tmp_path)
    assert (tmp_path / "out/onnx/model_int8.onnx").is_file()
