"""What tests of the command line share: a way to run it, and checkpoints and directories for it.

Modules of tests cannot import each other, so all that they share comes through fixtures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from folders import write_sst2

from albert_deploy.runtime.manifest import sha256_of
from albert_deploy.scripts.cli.main import main

Checkpoints = Callable[..., Path]


@dataclass(frozen=True, kw_only=True)
class Result:
    code: int
    out: str
    err: str

    def check_refusal(self, code: int, hints: tuple[str, ...]) -> None:
        """Check the exit code, the one ``error:`` line, which comes last, and what it says."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        lines = self.err.rstrip("\n").split("\n")
        assert [line for line in lines if line.startswith("error:")] == lines[-1:], self.err
        for hint in hints:
            assert hint in lines[-1]


@dataclass(frozen=True)
class Cli:
    """Runs the command line in this process, or in one of its own, and sees what it leaves."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Result:
        self.capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self.capsys.readouterr()
        return Result(code=code, out=captured.out, err=captured.err)

    def child(self, *arguments: object, **environment: str) -> Result:
        done = subprocess.run(
            self.command(*arguments),
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return Result(code=done.returncode, out=done.stdout, err=done.stderr)

    def refuses(self, code: int, *arguments: object, hints: tuple[str, ...], out: Path) -> Result:
        """Run and check that the command fails as documented and leaves ``out`` as it is."""
        before = self.state(out)
        result = self(*arguments)
        result.check_refusal(code, hints)
        assert self.state(out) == before
        assert self.strays(out) == []
        return result

    @staticmethod
    def command(*arguments: object) -> list[str]:
        return [sys.executable, "-m", "albert_deploy.scripts.cli", *map(str, arguments)]

    @staticmethod
    def state(folder: Path) -> dict[str, tuple[str, int]] | None:
        """Return the digest and the time of every file; None where there is no such folder."""
        if not folder.is_dir():
            return None
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {
            str(file.relative_to(folder)): (sha256_of(file), file.stat().st_mtime_ns)
            for file in files
        }

    @staticmethod
    def strays(out: Path) -> list[str]:
        """Return what a run left beside ``out``."""
        if not out.parent.is_dir():
            return []
        return [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(scope="session")
def first(make_checkpoint: Checkpoints) -> Path:
    """A good checkpoint, quick to validate; tests copy it before they damage it."""
    return make_checkpoint(max_position_embeddings=16)


@pytest.fixture(scope="session")
def second(make_checkpoint: Checkpoints) -> Path:
    """Another good checkpoint of the same shape."""
    return make_checkpoint(seed=1, max_position_embeddings=16)


@pytest.fixture(scope="session")
def exported(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment directory of ``first``; tests copy it before they touch it."""
    out = tmp_path_factory.mktemp("exported") / "out"
    main(["export", str(first), "--out", str(out)])
    return out


@pytest.fixture
def source(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "checkpoint"))


@pytest.fixture
def deployed(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "deployed"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A few labelled rows in the layout of SST-2."""
    words = ("long", "warm", "a river", "who", "what is the film", "zebra", "is", "where was it")
    folder = tmp_path / "sst2"
    folder.mkdir()
    write_sst2(folder / "dev.tsv", [f"the film was {word}" for word in words])
    return folder
