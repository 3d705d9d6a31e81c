"""Staging beside the output and the one step that puts it there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from albert_deploy.runtime import directory
from albert_deploy.runtime.directory import check_replaceable, publish, staged
from albert_deploy.runtime.errors import InputError

OURS = '{"format": 1, "files": {}}'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_staged_folder_lies_beside_the_output_and_goes_away(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged(out) as work:
        assert work.parent == out.parent
        assert names(work) == []
        (work / "file").touch()
        assert not out.exists()
    assert names(out.parent) == []


def test_a_failure_removes_the_staged_folder_and_keeps_the_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()

    def interrupted() -> None:
        with staged(out) as work:
            (work / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["old"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("old", [None, "empty", "full"])
def test_publish_replaces_the_whole_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, old: str | None
) -> None:
    if not exchange:  # as on systems without renameat2
        monkeypatch.setattr(directory, "_exchange", lambda one, other: False)
    out = tmp_path / "out"
    if old is not None:
        out.mkdir()
    if old == "full":
        (out / "old").touch()
    with staged(out) as work:
        (work / "new").touch()
        publish(work, out)
    assert names(tmp_path) == ["out"]
    assert names(out) == ["new"]


def test_publish_through_a_link_replaces_what_it_names(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    (real / "old").touch()
    link.symlink_to(real)
    with staged(link) as work:
        assert work.parent == real.parent
        (work / "new").touch()
        publish(work, link)
    assert link.is_symlink()
    assert names(real) == ["new"]
    assert names(real.parent) == ["real"]
    assert names(tmp_path) == ["disk", "link"]


@pytest.mark.parametrize("name", ["out", "out[1]", "*"])
def test_what_a_killed_run_left_is_removed(tmp_path: Path, name: str) -> None:
    out, host = tmp_path / name, socket.gethostname()
    left = tmp_path / f".{name}.partial-{host}-{dead_pid()}"
    running = tmp_path / f".{name}.partial-{host}-{os.getppid()}"
    elsewhere = tmp_path / f".{name}.partial-another-{dead_pid()}"
    other = tmp_path / f".other.partial-{host}-{dead_pid()}"
    for folder in (left, running, elsewhere, other):
        folder.mkdir()
        (folder / "half").touch()
    with staged(out):
        pass
    assert names(tmp_path) == sorted(p.name for p in (running, elsewhere, other))


def test_an_output_under_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose an output that can be written"):  # noqa: SIM117
        with staged(tmp_path / "file" / "out"):
            pytest.fail("nothing can be staged there")


def test_nothing_and_an_empty_folder_may_be_written(tmp_path: Path) -> None:
    assert check_replaceable(tmp_path / "none") is False
    assert check_replaceable(tmp_path) is False


def test_a_deployment_directory_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(OURS, encoding="utf-8")
    assert check_replaceable(tmp_path) is True


@pytest.mark.parametrize("manifest", [None, "{}", "not JSON", '{"manifest_version": 3}', "[1]"])
def test_a_foreign_folder_may_not(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "photo.jpg").touch()
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(InputError, match="it is left alone: choose another `out`"):
        check_replaceable(tmp_path)


def test_a_file_may_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; choose a folder"):
        check_replaceable(tmp_path / "file")


@pytest.mark.parametrize("out", ["", ".", "x/..", "/"])
def test_a_folder_without_a_name_may_not(out: str) -> None:
    with pytest.raises(InputError, match="choose a named folder"):
        check_replaceable(Path(out))


def test_a_name_too_long_for_the_file_system_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose an output that can be written"):
        check_replaceable(tmp_path / ("n" * 300))


def test_a_removed_staging_folder_cannot_be_published(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out) as work:
        shutil.rmtree(work)
        with pytest.raises(InputError, match="cannot write"):
            publish(work, out)
    assert not out.exists()
