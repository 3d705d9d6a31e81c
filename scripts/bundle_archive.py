"""Archives of bundles: a ``.tar.gz`` written the same every time, and taken apart with distrust.

An archive is a tar of plain files under ``bundle/``, ``bundle.json`` first and the others as it
lists them, in one gzip member. After it comes a second, empty member whose comment is the SHA-256
of the first: other tools pass over it, and here nothing is unpacked before it was compared.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from albert_deploy.runtime.bundle import LISTING, MAX_FILES, MAX_LISTING_BYTES, read_listing
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import os_failure, writing
from albert_deploy.scripts.bundle_tar import (
    BLOCK,
    CHUNK,
    FOLDER,
    MARK,
    REFUSED,
    SEAL_BYTES,
    Unpacked,
    gzip_pieces,
    number_at,
    seal_of,
    tar_pieces,
)

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
    digest = hashlib.sha256()
    with writing(out) as sink:
        for piece in gzip_pieces(tar_pieces(directory, (LISTING, *files), epoch)):
            digest.update(piece)
            sink.write(piece)
        sink.write(seal_of(digest.hexdigest()))


def extract_archive(archive: Path, out: Path, limits: Limits = Limits()) -> None:
    """Unpack an archive of a bundle into an empty folder, refusing all that is not just that.

    Nothing is written before the archive's own digest, the list of its files, their number and
    their sizes were found good, and each file is compared with the list while it is written.

    Args:
        archive: The file.
        out: Existing, empty folder.
        limits: What it may unpack to.

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
            _extract(Unpacked(file, size, archive), out, limits, archive)
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
            if not _starts_as_bundle(file.read(CHUNK)):
                raise InputError(f"{out} exists and is no archive of a bundle; it is left alone")


def _extract(packed: Unpacked, out: Path, limits: Limits, archive: Path) -> None:
    head = packed.read(BLOCK)
    size, epoch = number_at(head, 124, archive), number_at(head, 136, archive)
    packed.check_header(head, LISTING, size, epoch)
    if size > MAX_LISTING_BYTES:
        raise ContractError(f"{archive}: {LISTING} has {size:,} bytes, too many; {REFUSED}")
    data = packed.read(size)
    packed.check_padding(size)
    _, files = read_listing(data, f"{archive}: {LISTING}")
    total = sum(record["bytes"] for record in files.values())
    if len(files) > limits.files or total > limits.bytes:
        raise ContractError(
            f"{archive} unpacks to {len(files):,} files of {total:,} bytes, at most "
            f"{limits.files:,} of {limits.bytes:,} are taken; {REFUSED}"
        )
    if total > shutil.disk_usage(out).free:
        raise MachineError(f"{archive} unpacks to {total:,} bytes, {out} has not the room")
    (out / LISTING).write_bytes(data)
    for name, record in files.items():
        size = record["bytes"]
        packed.check_header(packed.read(BLOCK), name, size, epoch)
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with place.open("xb") as file:
            for piece in packed.pieces(size):
                digest.update(piece)
                file.write(piece)
        packed.check_padding(size)
        if digest.hexdigest() != record["sha256"]:
            raise ContractError(f"{archive}: {name} is not the file that was bundled; {REFUSED}")
    if any(packed.read(2 * BLOCK)):
        raise ContractError(f"{archive} holds more files than {LISTING} lists; {REFUSED}")
    packed.check_end()


def _check_seal(file: IO[bytes], archive: Path) -> int:
    """Return the bytes before the seal, after comparing their digest with it."""
    size = file.seek(0, 2) - SEAL_BYTES
    file.seek(max(size, 0))
    seal = file.read()
    sealed = size > 0 and seal.startswith(MARK)
    file.seek(0)
    if not sealed and not _starts_as_bundle(file.read(CHUNK)):
        raise InputError(
            f"{archive} is not an archive of a bundle; make one with: "
            f"albert-deploy bundle DIR --out NAME{SUFFIX} --format archive"
        )
    file.seek(0)
    digest, left = hashlib.sha256(), max(size, 0)
    while left and (piece := file.read(min(left, CHUNK))):
        digest.update(piece)
        left -= len(piece)
    if not sealed or seal != seal_of(digest.hexdigest()):
        raise ContractError(f"{archive} is truncated or was changed; {REFUSED}")
    return size


def _starts_as_bundle(data: bytes) -> bool:
    name = f"{FOLDER}/{LISTING}\0".encode()
    try:
        return zlib.decompressobj(31).decompress(data, BLOCK).startswith(name)
    except zlib.error:
        return False
