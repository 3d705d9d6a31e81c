"""An export replaces nothing that it may not, and says so where it cannot write."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import sha256_of

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

BAD_INPUT = InputError.exit_code
MODEL = VARIANTS["fp32"].file
NOBODY = 65534


def test_the_same_export_again_does_nothing(cli: Cli, first: Path, deployed: Path) -> None:
    before = cli.state(deployed)
    result = cli("export", first, "--out", deployed)
    assert result.code == 0, result.err
    assert cli.state(deployed) == before


def test_another_source_needs_force(cli: Cli, second: Path, deployed: Path) -> None:
    hints = ("already holds an export of", "pass --force to replace it or choose another --out")
    cli.refuses(BAD_INPUT, "export", second, "--out", deployed, hints=hints, out=deployed)


def test_another_task_needs_force(cli: Cli, first: Path, deployed: Path) -> None:
    arguments = ("export", first, "--out", deployed, "--task", "feature-extraction")
    cli.refuses(BAD_INPUT, *arguments, hints=("pass --force",), out=deployed)


def test_a_changed_export_needs_force(cli: Cli, first: Path, deployed: Path) -> None:
    (deployed / "tokenizer.json").write_text("{}", encoding="utf-8")
    hints = ("changed files", "pass --force")
    cli.refuses(BAD_INPUT, "export", first, "--out", deployed, hints=hints, out=deployed)


def test_force_replaces_another_export(cli: Cli, second: Path, deployed: Path) -> None:
    (deployed / "left over").touch()
    result = cli("export", second, "--out", deployed, "--force")
    assert result.code == 0, result.err
    manifest = json.loads((deployed / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["sha256"] == sha256_of(second / "model.safetensors")
    assert manifest["files"][MODEL]["sha256"] == sha256_of(deployed / MODEL)
    assert not (deployed / "left over").exists()
    assert cli.strays(deployed) == []


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("verb", ["export", "release"])
@pytest.mark.parametrize("manifest", [None, '{"manifest_version": 3}', "no JSON"])
def test_a_foreign_folder_is_left_alone(
    cli: Cli, first: Path, out: Path, verb: str, force: tuple[str, ...], manifest: str | None
) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work", encoding="utf-8")
    if manifest is not None:
        (out / "manifest.json").write_text(manifest, encoding="utf-8")
    hints = ("is not a deployment directory", "left alone: choose another --out")
    cli.refuses(BAD_INPUT, verb, first, "--out", out, *force, hints=hints, out=out)


def test_the_checkpoint_itself_is_no_output(cli: Cli, source: Path) -> None:
    arguments = ("export", source, "--out", source, "--force")
    cli.refuses(BAD_INPUT, *arguments, hints=("left alone",), out=source)


@pytest.mark.parametrize("given", ["", ".", ".."])
def test_an_output_needs_a_name(cli: Cli, first: Path, out: Path, given: str) -> None:
    hints = ("choose a named folder for --out",)
    cli.refuses(BAD_INPUT, "export", first, "--out", given, hints=hints, out=out)


def test_a_file_is_no_output(cli: Cli, first: Path, out: Path) -> None:
    out.write_text("text", encoding="utf-8")
    hints = ("is a file; choose a folder for --out",)
    cli.refuses(BAD_INPUT, "export", first, "--out", out, hints=hints, out=out)
    assert out.read_text(encoding="utf-8") == "text"


def test_an_output_below_a_file_cannot_be_written(cli: Cli, first: Path, out: Path) -> None:
    out.touch()
    hints = ("cannot write", "choose an output that can be written")
    cli.refuses(BAD_INPUT, "export", first, "--out", out / "deep", hints=hints, out=out / "deep")


@pytest.fixture
def unprivileged(first: Path) -> Iterator[Path]:
    """A folder that everyone may enter, with a checkpoint; permissions hold, for root too."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    shutil.copytree(first, place / "checkpoint")
    (place / "checkpoint").chmod(0o755)
    for file in (place / "checkpoint").iterdir():
        file.chmod(0o644)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield place
    finally:
        if user == 0:
            os.seteuid(0)
        for folder in [path for path in place.rglob("*") if path.is_dir()]:
            folder.chmod(0o755)
        shutil.rmtree(place)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_an_output_without_permission_is_bad_input(cli: Cli, unprivileged: Path, mode: int) -> None:
    closed = unprivileged / "closed"
    user = os.geteuid()
    if user == NOBODY:
        os.seteuid(0)
    closed.mkdir(mode=mode)
    closed.chmod(mode)
    os.seteuid(user)
    result = cli("export", unprivileged / "checkpoint", "--out", closed / "out")
    result.check_refusal(BAD_INPUT, ("Permission denied; choose an output that can be written",))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("config.json", "cannot read"),
        ("model.safetensors", "cannot read the weights"),
        ("", "cannot read"),
    ],
)
def test_a_checkpoint_without_permission_is_bad_input(
    cli: Cli, unprivileged: Path, name: str, hint: str
) -> None:
    closed, user = unprivileged / "checkpoint" / name, os.geteuid()
    if user == NOBODY:
        os.seteuid(0)
    mode = closed.stat().st_mode
    closed.chmod(0)
    os.seteuid(user)
    out = unprivileged / "out"
    result = cli("export", unprivileged / "checkpoint", "--out", out)
    if user == NOBODY:
        os.seteuid(0)
    closed.chmod(mode)
    os.seteuid(user)
    result.check_refusal(BAD_INPUT, (hint, "Permission denied"))
    assert not out.exists()
