"""What tests of several rooms ask of folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from albert_deploy.runtime.bundle import LISTING, listing_bytes
from albert_deploy.runtime.manifest import file_record


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return bytes, time and mode of all that a folder holds, and of itself."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in [folder, *folder.rglob("*")]
    }


def relist(bundle: Path, *skipped: str) -> Path:
    """Write ``bundle.json`` anew, as whoever changed the files would."""
    files = {
        str(path.relative_to(bundle)): file_record(path)
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != LISTING and path.name not in skipped
    }
    (bundle / LISTING).write_bytes(listing_bytes(files))
    return bundle


def flip(file: Path, offset: int | None = None) -> None:
    """Change one bit, in the middle where nothing else is asked."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if offset is None else offset] ^= 1
    file.write_bytes(data)


def write_sst2(file: Path, texts: Iterable[str]) -> Path:
    """Write texts in the layout of SST-2, every other one positive."""
    rows = [f"{text}\t{number % 2}" for number, text in enumerate(texts)]
    file.write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return file
