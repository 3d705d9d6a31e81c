"""Archives of bundles: the same bytes each time, and nothing but a bundle comes out of one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.bundle import FORMAT, LISTING, content_digest, listing_bytes
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.scripts.bundle import archive as bundle_archive
from albert_deploy.scripts.bundle.archive import (
    Limits,
    check_archive_name,
    extract_archive,
    seal_of,
    write_archive,
)

EPOCH = 1_700_000_000
FILES = {"config.json": b'{"a": 1}\n', "onnx/model.onnx": bytes(range(256)) * 3, "empty": b""}


def records(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / LISTING).write_bytes(listing_bytes(records(files)))
    return folder


def sealed(tar: bytes) -> bytes:
    """Pack what an attacker made of a tar file so that its digest is right."""
    packed = gzip.compress(tar, mtime=0)
    return packed + seal_of(hashlib.sha256(packed).hexdigest())


Member = tuple[str, bytes, dict[str, Any]]


def packed(members: list[Member], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data, fields in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), EPOCH, 0o644
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    # What tarfile fills its last block of twenty with.
    end = buffer.getvalue().rstrip(b"\0")
    return end + bytes(-len(end) % 512 + 1024)


def honest(files: dict[str, bytes], listing: bytes | None = None) -> list[Member]:
    listing = listing_bytes(records(files)) if listing is None else listing
    return [(f"bundle/{LISTING}", listing, {})] + [
        (f"bundle/{name}", files[name], {}) for name in sorted(files)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "made", FILES)


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "made.tar.gz"
    write_archive(folder, out, epoch=EPOCH)
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "into" / "out"
    place.mkdir(parents=True)
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_goes_in_comes_out(archive: Path, folder: Path, out: Path) -> None:
    extract_archive(archive, out)
    assert contents(out) == contents(folder)


def test_other_tools_read_it(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        read = {m.name: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    assert read == {f"bundle/{name}": data for name, data in contents(folder).items()}
    assert {(m.mtime, m.mode, m.uid, m.uname) for m in members} == {(EPOCH, 0o644, 0, "")}
    assert gzip.decompress(archive.read_bytes())[:8] == b"bundle/b"


def test_the_same_files_give_the_same_bytes(archive: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").chmod(0o600)
    os.utime(folder / "config.json", (5, 5))
    other = tmp_path / "elsewhere" / "another-name.tar.gz"
    write_archive(folder, other, epoch=EPOCH)
    assert other.read_bytes() == archive.read_bytes()


def test_a_long_path_fits(tmp_path: Path, out: Path) -> None:
    folder = write_folder(tmp_path / "long", {f"{'a' * 60}/{'b' * 80}": b"x"})
    write_archive(folder, tmp_path / "long.tar.gz", epoch=0)
    extract_archive(tmp_path / "long.tar.gz", out)
    assert contents(out) == contents(folder)


def test_a_path_that_tar_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "long", {"b" * 150: b"x"})
    with pytest.raises(InputError, match="--format plain"):
        write_archive(folder, tmp_path / "long.tar.gz", epoch=0)
    assert not (tmp_path / "long.tar.gz").exists()


def test_each_flipped_bit_is_seen(archive: Path, tmp_path: Path, out: Path) -> None:
    good, bad = archive.read_bytes(), tmp_path / "bad.tar.gz"
    for place in range(len(good)):
        flipped = bytearray(good)
        flipped[place] ^= 1 << place % 8
        bad.write_bytes(flipped)
        with pytest.raises(ContractError):
            extract_archive(bad, out)
    assert contents(out) == {}


def test_each_cut_is_seen(archive: Path, tmp_path: Path, out: Path) -> None:
    good, bad = archive.read_bytes(), tmp_path / "bad.tar.gz"
    for end in range(0, len(good), 7):
        bad.write_bytes(good[:end])
        with pytest.raises((ContractError, InputError)):
            extract_archive(bad, out)
    bad.write_bytes(good + b"\0")
    with pytest.raises(ContractError):
        extract_archive(bad, out)
    assert contents(out) == {}


def _link(kind: bytes) -> list[Member]:
    members = honest(FILES)
    members[1] = (members[1][0], b"", {"type": kind, "linkname": "/etc/passwd"})
    return members


def _named(name: str) -> list[Member]:
    members = honest(FILES)
    members[1] = (name, members[1][1], {})
    return members


def _extra() -> list[Member]:
    return [*honest(FILES), ("bundle/more", b"x", {})]


def _setuid() -> list[Member]:
    members = honest(FILES)
    members[1] = (*members[1][:2], {"mode": 0o4755})
    return members


MALICIOUS: dict[str, Callable[[], list[Member]]] = {
    "hard link": lambda: _link(tarfile.LNKTYPE),
    "symbolic link": lambda: _link(tarfile.SYMTYPE),
    "character device": lambda: _link(tarfile.CHRTYPE),
    "block device": lambda: _link(tarfile.BLKTYPE),
    "pipe": lambda: _link(tarfile.FIFOTYPE),
    "folder": lambda: _link(tarfile.DIRTYPE),
    "sparse file": lambda: _link(tarfile.GNUTYPE_SPARSE),
    "way up": lambda: _named("bundle/../../evil"),
    "absolute path": lambda: _named("/tmp/evil"),
    "another folder": lambda: _named("evil/config.json"),
    "rights": _setuid,
    "extra file": _extra,
    "missing file": lambda: honest(FILES)[:-1],
    "another order": lambda: [honest(FILES)[0], *honest(FILES)[:0:-1]],
    "a file twice": lambda: [*honest(FILES), honest(FILES)[1]],
    "other contents": lambda: [*honest(FILES)[:-1], ("bundle/onnx/model.onnx", bytes(768), {})],
    "a larger file": lambda: [*honest(FILES)[:-1], ("bundle/onnx/model.onnx", bytes(9999), {})],
    "list not first": lambda: honest(FILES)[::-1],
}


def test_what_the_attacks_are_made_with_is_taken_where_it_is_honest(
    tmp_path: Path, out: Path
) -> None:
    place = tmp_path / "honest.tar.gz"
    place.write_bytes(sealed(packed(honest(FILES))))
    extract_archive(place, out)
    assert contents(out).keys() == {*FILES, LISTING}


@pytest.mark.parametrize("attack", MALICIOUS)
def test_malicious_archives_are_refused(attack: str, tmp_path: Path, out: Path) -> None:
    place = tmp_path / "evil.tar.gz"
    place.write_bytes(sealed(packed(MALICIOUS[attack]())))
    with pytest.raises(ContractError):
        extract_archive(place, out)
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert not Path("/tmp/evil").exists()


def test_headers_with_extensions_are_refused(tmp_path: Path, out: Path) -> None:
    members = honest(FILES)
    members[1] = (*members[1][:2], {"pax_headers": {"path": "../evil"}})
    place = tmp_path / "evil.tar.gz"
    place.write_bytes(sealed(packed(members, tarfile.PAX_FORMAT)))
    with pytest.raises(ContractError):
        extract_archive(place, out)


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(lambda: packed(_named("bundle/../../evil")), id="an archive"),
        pytest.param(lambda: gzip.compress(b"", mtime=0), id="an empty member"),
        pytest.param(lambda: bytes(700), id="zeros"),
    ],
)
def test_what_comes_behind_an_archive_is_refused(
    behind: Callable[[], bytes], tmp_path: Path, out: Path
) -> None:
    place = tmp_path / "evil.tar.gz"
    place.write_bytes(sealed(packed(honest(FILES)) + behind()))
    with pytest.raises(ContractError, match="goes on after its end"):
        extract_archive(place, out)


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../x", "/x", "a//x", "./x", ".x", "x/", "a\\x", "C:x", "x\n", "ä", "-x", "x."],
)
def test_listed_paths_stay_inside(name: str, tmp_path: Path, out: Path) -> None:
    files = records({name: b"x"})
    value = {"format": FORMAT, "sha256": content_digest(files), "files": files}
    listing = (json.dumps(value, indent=2) + "\n").encode()
    place = tmp_path / "evil.tar.gz"
    place.write_bytes(sealed(packed([(f"bundle/{LISTING}", listing, {})])))
    with pytest.raises(ContractError, match="stays in the folder"):
        extract_archive(place, out)
    with pytest.raises(InputError, match="cannot bundle"):
        listing_bytes(files)
    assert contents(out) == {}


@pytest.mark.parametrize("names", [("a", "A"), ("a", "a/b"), (LISTING,)])
def test_names_that_get_into_each_others_way_are_refused(
    names: tuple[str, ...], tmp_path: Path, out: Path
) -> None:
    files = dict(sorted(records(dict.fromkeys(names, b"")).items()))
    value = {"format": FORMAT, "sha256": content_digest(files), "files": files}
    listing = (json.dumps(value, indent=2) + "\n").encode()
    place = tmp_path / "evil.tar.gz"
    place.write_bytes(sealed(packed([(f"bundle/{LISTING}", listing, {})])))
    with pytest.raises(ContractError, match="lists a"):
        extract_archive(place, out)
    assert contents(out) == {}


def test_more_than_the_limits_is_refused_before_anything_is_written(
    archive: Path, out: Path
) -> None:
    total = sum(map(len, FILES.values()))
    for limits in (Limits(files=len(FILES) - 1), Limits(bytes=total - 1)):
        with pytest.raises(ContractError, match="at most"):
            extract_archive(archive, out, limits)
    assert contents(out) == {}
    extract_archive(archive, out, Limits(files=len(FILES), bytes=total))


def test_a_list_that_promises_terabytes_is_refused(tmp_path: Path, out: Path) -> None:
    files = records(FILES)
    files["config.json"]["bytes"] = 1 << 50
    place = tmp_path / "bomb.tar.gz"
    place.write_bytes(sealed(packed(honest(FILES, listing_bytes(files)))))
    with pytest.raises(ContractError, match="at most"):
        extract_archive(place, out)
    assert contents(out) == {}


def test_a_list_that_is_a_bomb_itself_is_refused(tmp_path: Path, out: Path) -> None:
    place = tmp_path / "bomb.tar.gz"
    place.write_bytes(sealed(packed([(f"bundle/{LISTING}", bytes(32 << 20), {})])))
    tracemalloc.start()
    try:
        with pytest.raises(ContractError, match="too many"):
            extract_archive(place, out)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_full_disk_is_seen_before_anything_is_written(
    archive: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        bundle_archive.shutil, "disk_usage", lambda _: usage(total=9, used=0, free=9)
    )
    with pytest.raises(MachineError, match="has not the room"):
        extract_archive(archive, out)
    assert contents(out) == {}


def test_a_large_file_is_never_whole_in_memory(tmp_path: Path, out: Path) -> None:
    folder = write_folder(tmp_path / "large", {"zeros": bytes(48 << 20)})
    tracemalloc.start()
    try:
        write_archive(folder, tmp_path / "large.tar.gz", epoch=0)
        extract_archive(tmp_path / "large.tar.gz", out)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x1f\x8b", gzip.compress(b"something else", mtime=0)]
)
def test_another_file_is_no_archive_of_a_bundle(data: bytes, tmp_path: Path, out: Path) -> None:
    place = tmp_path / "other.tar.gz"
    place.write_bytes(data)
    with pytest.raises(InputError, match="is not an archive of a bundle"):
        extract_archive(place, out)
    with pytest.raises(InputError, match="left alone"):
        check_archive_name(place)


def test_an_archive_needs_its_name_and_may_replace_another(archive: Path, tmp_path: Path) -> None:
    check_archive_name(archive)
    (tmp_path / "dir.tar.gz").mkdir()
    for name in ("model.zip", ".tar.gz", "dir.tar.gz"):
        with pytest.raises(InputError):
            check_archive_name(tmp_path / name)
