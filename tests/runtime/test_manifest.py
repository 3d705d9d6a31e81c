"""Atomic writes and what a manifest must hold."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import (
    FORMAT_VERSION,
    check_file,
    file_record,
    is_deployment,
    is_intact,
    os_failure,
    read_manifest,
    sha256_of,
    write_json,
    write_manifest,
    writing,
)

COMPLETE = {
    "format": FORMAT_VERSION,
    "task": "fill-mask",
    "source": {},
    "contract": {},
    "parameter_bytes": 1,
    "files": {},
    "versions": {},
    "steps": {},
    "variants": {},
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_appears_only_when_its_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with writing(path) as file:
        file.write(b"whole")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert names(path.parent) == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with writing(path) as file:
            file.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_a_machine_error_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match=r"No space left on device; free some space"):
        write_json(path, {"new": 1})
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_written_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "file", 1)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_not_written_to_json(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"score": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, MachineError),
        (errno.EDQUOT, MachineError),
        (errno.EACCES, InputError),
        (errno.EROFS, InputError),
        (errno.ENOTDIR, InputError),
    ],
)
def test_operating_system_errors_become_ours(number: int, kind: type[Exception]) -> None:
    failure = os_failure(OSError(number, os.strerror(number)), Path("there"))
    assert type(failure) is kind
    assert "cannot write there" in str(failure)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, COMPLETE)
    assert read_manifest(tmp_path) == COMPLETE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot read"),
        ("", "cannot read"),
        ("[" * 100_000, "cannot read"),
        ("\ud800", "cannot read"),
        ("[]", "has format ?"),
        ("{}", "has format None"),
        (json.dumps(COMPLETE | {"format": FORMAT_VERSION + 1}), "this version reads"),
        (json.dumps({"format": FORMAT_VERSION, "task": "fill-mask"}), "lacks contract, files"),
    ],
)
def test_an_unusable_manifest_is_bad_input(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="export the checkpoint again") as caught:
        read_manifest(tmp_path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("missing", sorted(COMPLETE.keys() - {"format"}))
def test_a_manifest_without_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    write_manifest(tmp_path, {k: v for k, v in COMPLETE.items() if k != missing})
    with pytest.raises(InputError, match=f"lacks {missing};"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_no_deployment_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="albert-deploy export SOURCE --out"):
        read_manifest(tmp_path)
    assert not is_deployment(tmp_path)


def test_only_our_manifest_makes_a_deployment_directory(tmp_path: Path) -> None:
    write_manifest(tmp_path, COMPLETE | {"format": 99})
    assert is_deployment(tmp_path)
    write_manifest(tmp_path, {"manifest_version": 3, "name": "a browser extension"})
    assert not is_deployment(tmp_path)


def test_a_changed_or_missing_file_breaks_the_contract(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"right")
    manifest = COMPLETE | {"files": {"weights": file_record(file)}}
    assert manifest["files"]["weights"] == {"sha256": sha256_of(file), "bytes": 5}  # type: ignore[index]
    assert check_file(tmp_path, manifest, "weights") == file
    file.write_bytes(b"wrong")
    assert not is_intact(tmp_path, manifest, "weights")
    with pytest.raises(ContractError, match="is not the file that the manifest recorded"):
        check_file(tmp_path, manifest, "weights")
    file.unlink()
    with pytest.raises(ContractError, match="is missing"):
        check_file(tmp_path, manifest, "weights")
    with pytest.raises(InputError, match="it holds: weights"):
        check_file(tmp_path, manifest, "other")
