"""The bytes of a bundle's archive: tar entries in one form, one gzip member, and its seal."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from albert_deploy.runtime.errors import ContractError, InputError

FOLDER = "bundle"
BLOCK = 512
CHUNK = 1 << 20
REFUSED = "do not use it; get it again from where it was made"
# A number in a header, and what is too much for it.
_OCTAL, _MOST = re.compile(rb"[0-7]{11}\0"), 8**11
# Of gzip: magic, deflate, flags, no time, slowest, system not told.
_HEAD = b"\x1f\x8b\x08\x00\0\0\0\0\x02\xff"
# The seal is such a member without contents, its comment the digest of all before it.
MARK = b"\x1f\x8b\x08\x10\0\0\0\0\x02\xffalbert-deploy sha256="
_TAIL = b"\0\x03\0" + bytes(8)  # End of the comment, an empty deflate stream, its CRC and length.
SEAL_BYTES = len(MARK) + 64 + len(_TAIL)
# What tar may say of an entry, for messages.
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
}


class Unpacked:
    """Reads what one gzip member holds, never more at a time than is asked for."""

    def __init__(self, file: IO[bytes], size: int, archive: Path) -> None:
        self._file, self._left, self._archive = file, size, archive
        self._inflate = zlib.decompressobj(31)

    def pieces(self, size: int) -> Iterator[bytes]:
        """Give the next ``size`` bytes in pieces of at most 1 MiB."""
        while size:
            piece = self._some(min(size, CHUNK))
            if not piece:
                raise ContractError(f"{self._archive} ends in the middle of a file; {REFUSED}")
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        return b"".join(self.pieces(size))

    def check_header(self, head: bytes, name: str, size: int, epoch: int) -> None:
        """Fail where an entry is not the one that a bundle has at this place."""
        if head == header(name, size, epoch):
            return
        what = _KINDS.get(head[156:157], "an entry")
        told = head[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
        raise ContractError(
            f"{self._archive} has {what} named {told!r} where the file {FOLDER}/{name} of "
            f"{size:,} bytes belongs; {REFUSED}"
        )

    def check_padding(self, size: int) -> None:
        """Fail where a file is not followed by zeros up to the next block."""
        if any(self.read(-size % BLOCK)):
            raise ContractError(f"{self._archive} has data between its files; {REFUSED}")

    def check_end(self) -> None:
        """Fail where anything follows."""
        if self._some(1) or not self._inflate.eof or self._inflate.unused_data or self._left:
            raise ContractError(f"{self._archive} goes on after its end; {REFUSED}")

    def _some(self, most: int) -> bytes:
        while not self._inflate.eof:
            data = self._inflate.unconsumed_tail
            if not data and self._left:
                data = self._file.read(min(self._left, CHUNK))
                self._left -= len(data)
            try:
                piece = self._inflate.decompress(data, most)
            except zlib.error as error:
                raise ContractError(f"{self._archive} is damaged: {error}; {REFUSED}") from error
            if piece or not data:
                return piece
        return b""


def tar_pieces(directory: Path, names: Iterable[str], epoch: int) -> Iterator[bytes]:
    """Give a tar file of these files of a folder, piece by piece."""
    for name in names:
        place = directory / name
        size = place.stat().st_size
        yield header(name, size, epoch)
        with place.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece
        yield bytes(-size % BLOCK)
    yield bytes(2 * BLOCK)


def header(name: str, size: int, epoch: int) -> bytes:
    """Return the block that announces a file in tar's POSIX form of 1988, without extensions.

    Fields: name 100, mode 8, user 8, group 8, size 12, time 12, checksum 8, kind 1, link 100,
    magic and version 8, names of user and group 64, device 16, what goes before the name 155.
    """
    path, before = f"{FOLDER}/{name}", ""
    if len(path) > 100:
        cut = path.find("/", len(path) - 101)
        before, path = path[: max(cut, 0)], path[cut + 1 :]
    if len(path) > 100 or len(before) > 155 or not 0 <= size < _MOST or not 0 <= epoch < _MOST:
        raise InputError(
            f"{name} of {size:,} bytes and time {epoch} does not fit into a tar file; "
            "bundle it with --format plain"
        )
    values = (path, "0000644", "0000000", "0000000", f"{size:011o}", f"{epoch:011o}", " " * 8)
    head = struct.pack(
        "100s8s8s8s12s12s8sc100s8s64s16s155s12x",
        *(value.encode("ascii") for value in values),
        b"0",
        b"",
        b"ustar\x0000",
        b"",
        b"",
        before.encode("ascii"),
    )
    return head[:148] + f"{sum(head):06o}\0 ".encode() + head[156:]


def number_at(head: bytes, start: int, archive: Path) -> int:
    """Return a number of a tar header, eleven octal digits and a zero."""
    digits = head[start : start + 12]
    if _OCTAL.fullmatch(digits) is None:
        raise ContractError(f"{archive} has a damaged header; {REFUSED}")
    return int(digits[:11], 8)


def gzip_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give the one gzip member that holds what is given, without name, time or system."""
    deflate, crc, size = zlib.compressobj(6, zlib.DEFLATED, -15), 0, 0
    yield _HEAD
    for piece in pieces:
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        yield deflate.compress(piece)
    yield deflate.flush() + struct.pack("<II", crc, size & 0xFFFFFFFF)


def seal_of(digest: str) -> bytes:
    """Return the empty gzip member that carries a hexadecimal SHA-256 as its comment."""
    return MARK + digest.encode() + _TAIL
