"""Archives of bundles: a ``.tar.gz`` written the same every time, and taken apart with distrust.

An archive is a tar of plain files under ``bundle/``, ``bundle.json`` first and the others as it
lists them, in one gzip member. After it comes a second, empty member whose comment is the SHA-256
of the first: other tools pass over it, and here nothing is unpacked before it was compared.

``tarfile`` writes and parses single headers only: given a whole archive it would follow extension
headers and read what they claim into memory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from albert_deploy.runtime.bundle import LISTING, MAX_FILES, MAX_LISTING_BYTES, read_listing
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import os_failure, writing

FOLDER = "bundle"
BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_REFUSED = "do not use it; get it again from where it was made"
# An empty gzip member with a comment: magic, deflate, its flag, no time, slowest, system not told.
_MARK = b"\x1f\x8b\x08\x10\0\0\0\0\x02\xffalbert-deploy sha256="
_TAIL = b"\0\x03\0" + bytes(8)  # End of the comment, an empty deflate stream, its CRC and length.
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
}
SEAL_BYTES = len(_MARK) + 64 + len(_TAIL)
SUFFIX = ".tar.gz"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may unpack to, checked before anything is written.

    Attributes:
        files: Most files.
        bytes: Most bytes of all files together.
    """

    files: int = MAX_FILES
    bytes: int = 32 << 30


def write_archive(directory: Path, out: Path, *, epoch: int) -> None:
    """Write a bundle's folder as an archive, atomically; the same files give the same bytes.

    The compressed bytes are those of one zlib: another one may pack the same files otherwise.

    Args:
        directory: Folder of a bundle.
        out: File to write.
        epoch: Time of every file in it, in seconds since 1970.

    Raises:
        InputError: A file is too large for tar's plain form (8 GiB), or ``out`` cannot be written.
        MachineError: The disk is full.
    """
    _, files = read_listing((directory / LISTING).read_bytes(), str(directory / LISTING))
    with writing(out) as sink:
        packed: Any = _Digesting(sink)
        with gzip.GzipFile("", "wb", 6, packed, mtime=0) as tar:
            for name in (LISTING, *files):
                size = (directory / name).stat().st_size
                tar.write(_header(name, size, epoch))
                with (directory / name).open("rb") as file:
                    shutil.copyfileobj(file, tar, _CHUNK)
                tar.write(bytes(-size % BLOCK))
            tar.write(bytes(2 * BLOCK))
        sink.write(seal_of(packed.digest.hexdigest()))


def extract_archive(archive: Path, out: Path, limits: Limits = Limits()) -> None:
    """Unpack an archive of a bundle into an empty folder, refusing all that is not just that.

    Nothing is written before the archive's own digest, the list of its files, their number and
    their sizes were found good, and each file is compared with the list while it is written.

    Raises:
        InputError: It is no archive of a bundle, or cannot be read.
        ContractError: It was changed, or holds a link, a device, a path that leads elsewhere, or
            more than the limits allow.
        MachineError: The disk has not the room.
    """
    try:
        with archive.open("rb") as file:
            size = _check_seal(file, archive)
            file.seek(0)
            _extract(_Member(file, size), out, limits, archive)
    except zlib.error as error:
        raise ContractError(f"{archive} is damaged: {error}; {_REFUSED}") from error
    except OSError as error:
        if error.filename is not None and Path(error.filename) == archive:
            raise InputError(f"cannot read {archive}: {error.strerror}") from error
        raise os_failure(error, out) from error


def check_archive_name(out: Path) -> None:
    """Fail where an archive must not be written to ``out``.

    Raises:
        InputError: It has another name than an archive's, or is something else already.
    """
    if not out.name.endswith(SUFFIX) or out.name == SUFFIX:
        raise InputError(f"{out} is no name for an archive; wanted one such as model{SUFFIX}")
    if out.is_dir():
        raise InputError(f"{out} is a folder; choose another name, or --format plain")
    if out.exists():
        with out.open("rb") as file:
            if not _starts_as_bundle(file.read(_CHUNK)):
                raise InputError(f"{out} exists and is no archive of a bundle; it is left alone")


def _extract(tar: _Member, out: Path, limits: Limits, archive: Path) -> None:
    head = _read(tar, BLOCK, archive)
    entry = _parsed(head, archive)
    size, epoch = entry.size, int(entry.mtime)
    if not 0 <= size <= MAX_LISTING_BYTES:
        raise ContractError(f"{archive}: {entry.name!r} has {size:,} bytes, too many; {_REFUSED}")
    _check_header(head, LISTING, size, epoch, archive)
    data = b"".join(_contents(tar, size, archive))
    _, files = read_listing(data, f"{archive}: {LISTING}")
    total = sum(record["bytes"] for record in files.values())
    if len(files) > limits.files or total > limits.bytes:
        raise ContractError(
            f"{archive} unpacks to {len(files):,} files of {total:,} bytes, at most "
            f"{limits.files:,} of {limits.bytes:,} are taken; {_REFUSED}"
        )
    if total > shutil.disk_usage(out).free:
        raise MachineError(f"{archive} unpacks to {total:,} bytes, {out} has not the room")
    (out / LISTING).write_bytes(data)
    for name, record in files.items():
        size = record["bytes"]
        _check_header(_read(tar, BLOCK, archive), name, size, epoch, archive)
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with place.open("xb") as file:
            for piece in _contents(tar, size, archive):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != record["sha256"]:
            raise ContractError(f"{archive}: {name} is not the file that was bundled; {_REFUSED}")
    if any(_read(tar, 2 * BLOCK, archive)):
        raise ContractError(f"{archive} holds more files than {LISTING} lists; {_REFUSED}")
    if not tar.ended():
        raise ContractError(f"{archive} goes on after its end; {_REFUSED}")


class _Digesting:
    """Passes on what is written, and knows its SHA-256."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self.digest = sink, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._sink.write(data)

    def flush(self) -> None:
        self._sink.flush()


class _Member:
    """Reads what one gzip member holds, never more at a time than is asked for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size
        self._inflate = zlib.decompressobj(31)

    def read(self, most: int) -> bytes:
        """Return the next bytes; fewer than asked for at the end alone."""
        found = bytearray()
        while len(found) < most and not self._inflate.eof:
            data = self._inflate.unconsumed_tail
            if not data and self._left:
                data = self._file.read(min(self._left, _CHUNK))
                self._left -= len(data)
            piece = self._inflate.decompress(data, most - len(found))
            if not piece and not data:
                break
            found += piece
        return bytes(found)

    def ended(self) -> bool:
        """Whether nothing follows: no byte of it, no other member and no padding."""
        more = self.read(1) or self._inflate.unused_data or self._left
        return self._inflate.eof and not more


def _header(name: str, size: int, epoch: int) -> bytes:
    """Return the block that announces a file in tar's POSIX form of 1988, without extensions.

    Raises:
        InputError: Its name, size or time does not fit.
    """
    entry = tarfile.TarInfo(f"{FOLDER}/{name}")
    entry.size, entry.mtime = size, epoch
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise InputError(
            f"{name} of {size:,} bytes and time {epoch} does not fit into a tar file ({error}); "
            "bundle it with --format plain"
        ) from error


def _check_header(head: bytes, name: str, size: int, epoch: int, archive: Path) -> None:
    """Fail where an entry is not the one that a bundle has at this place, to the byte."""
    with contextlib.suppress(InputError):  # No header says what this tar cannot hold.
        if head == _header(name, size, epoch):
            return
    entry = _parsed(head, archive)
    raise ContractError(
        f"{archive} has {_KINDS.get(entry.type, 'an entry')} named {entry.name!r} where the file "
        f"{FOLDER}/{name} of {size:,} bytes belongs; {_REFUSED}"
    )


def _parsed(head: bytes, archive: Path) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(head, "ascii", "backslashreplace")
    except tarfile.HeaderError as error:
        raise ContractError(f"{archive} has a damaged header ({error}); {_REFUSED}") from error


def _contents(tar: _Member, size: int, archive: Path) -> Iterator[bytes]:
    """Give an entry's bytes in pieces of at most 1 MiB, and pass over the zeros behind them."""
    for start in range(0, size, _CHUNK):
        yield _read(tar, min(_CHUNK, size - start), archive)
    if any(_read(tar, -size % BLOCK, archive)):
        raise ContractError(f"{archive} has data between its files; {_REFUSED}")


def _read(tar: _Member, size: int, archive: Path) -> bytes:
    data = tar.read(size)
    if len(data) < size:
        raise ContractError(f"{archive} ends in the middle of a file; {_REFUSED}")
    return data


def seal_of(digest: str) -> bytes:
    """Return the empty gzip member that carries a hexadecimal SHA-256 as its comment."""
    return _MARK + digest.encode() + _TAIL


def _check_seal(file: IO[bytes], archive: Path) -> int:
    """Return the bytes before the seal, after comparing their digest with it."""
    size = file.seek(0, 2) - SEAL_BYTES
    file.seek(max(size, 0))
    seal = file.read()
    sealed = size > 0 and seal.startswith(_MARK)
    file.seek(0)
    if not sealed and not _starts_as_bundle(file.read(_CHUNK)):
        raise InputError(
            f"{archive} is not an archive of a bundle; make one with: "
            f"albert-deploy bundle DIR --out NAME{SUFFIX} --format archive"
        )
    file.seek(0)
    digest, left = hashlib.sha256(), max(size, 0)
    while left and (piece := file.read(min(left, _CHUNK))):
        digest.update(piece)
        left -= len(piece)
    if not sealed or seal != seal_of(digest.hexdigest()):
        raise ContractError(f"{archive} is truncated or was changed; {_REFUSED}")
    return size


def _starts_as_bundle(data: bytes) -> bool:
    name = f"{FOLDER}/{LISTING}\0".encode()
    try:
        return zlib.decompressobj(31).decompress(data, BLOCK).startswith(name)
    except zlib.error:
        return False
