"""Bundles: what makes a folder one, and the check that every byte of it is what was bundled.

``bundle.json`` lists the SHA-256 and the size of each other file and is written in one form only,
with a digest of its own, so that a bit that flips anywhere, in the list too, is seen. That tells
damage; whoever can rewrite the list can rewrite the files, and against that stands a signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from albert_deploy.runtime.engines.external_data import external_files
from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError
from albert_deploy.runtime.manifest import MANIFEST_NAME, read_manifest, sha256_of

LISTING = "bundle.json"
SIGNATURE = "bundle.sig"
BOM = "bom.cdx.json"
CARD = "README.md"
FORMAT = "albert-deploy/bundle/1"
# What the manifest does not vouch for: it is one of them, and the others tell of it.
BESIDE = frozenset({MANIFEST_NAME, BOM, CARD, SIGNATURE})
# What hub and version control lay beside files that they keep; nothing here ever reads them.
IGNORED = (".gitattributes", ".git", ".cache/huggingface")
# Limits before anything is parsed: a list is some hundred bytes a file, a BOM little more.
MAX_FILES = 10_000
MAX_DEPTH = 8
MAX_JSON_BYTES = 64 << 20
MAX_LISTING_BYTES = 4 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_REMEDY = "copy it again from where it was made"
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files are those that were bundled.

    Attributes:
        directory: Where it is.
        sha256: Of its list of files; two bundles with the same one hold the same.
        files: Name to ``sha256`` and ``bytes``, without ``bundle.json``.
        signed: It carries a signature, which only ``verify`` with a key looks into.
    """

    directory: Path
    sha256: str
    files: Mapping[str, Mapping[str, Any]]
    signed: bool


def is_bundle(directory: Path) -> bool:
    """Tell whether a folder has a ``bundle.json``, be it a good one or not."""
    return os.path.lexists(directory / LISTING)


def check_bundle(directory: Path) -> Bundle:
    """Return a bundle after comparing every file of it with what was bundled.

    Files are hashed, never loaded. A signature is hashed like any other file.

    Args:
        directory: Folder of the bundle; it may be named by a link, but holds none.

    Raises:
        InputError: There is no bundle, or one of a later version.
        ContractError: A file is missing, changed, of another size, a link, or not in the list;
            the list is damaged; list, manifest and BOM do not say the same; or an ONNX file has
            weights outside its folder.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is no folder; wanted a bundle, see albert-deploy bundle")
    place = directory / LISTING
    if not is_bundle(directory):
        raise InputError(
            f"{directory} is not a bundle: it has no {LISTING}; make one with: "
            "albert-deploy bundle DIR --out BUNDLE"
        )
    try:
        found = dict(_plain_files(directory))
        if found.get(LISTING, MAX_LISTING_BYTES + 1) > MAX_LISTING_BYTES:
            raise ContractError(f"{place} is no file, or too large for a list; {_REMEDY}")
        sha256, files = read_listing(place.read_bytes(), str(place))
        _compare(directory, files, found)
    except OSError as error:
        raise ContractError(f"cannot read {error.filename or directory}: {error}") from error
    _check_manifest(directory, files)
    _check_bom(directory, files)
    return Bundle(directory=directory, sha256=sha256, files=files, signed=SIGNATURE in files)


def listing_bytes(files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return ``bundle.json`` for files, each with ``sha256`` and ``bytes``, in its only form.

    Raises:
        InputError: A name that not every system can hold, or that differs from another one in
            case alone.
    """
    for name in files:
        if why := _bad_name(name):
            raise InputError(f"cannot bundle {name!r}: {why}; rename it and export again")
    if len({name.casefold() for name in files}) != len(files):
        raise InputError("cannot bundle names that differ in case alone; rename one of them")
    return _written(FORMAT, files)


def content_digest(files: Mapping[str, Mapping[str, Any]], form: str = FORMAT) -> str:
    """Return the SHA-256 that stands for files: of the format and of each one's line."""
    lines = [f"{files[name]['sha256']} {files[name]['bytes']} {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join([f"{form}\n", *lines]).encode()).hexdigest()


def read_listing(data: bytes, place: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the digest and the files of a ``bundle.json`` that is as it was written.

    Raises:
        InputError: It is of another version.
        ContractError: It was changed, or names what no bundle may hold.
    """
    changed = ContractError(f"{place} is damaged: it is not as it was written; {_REMEDY}")
    try:
        value = json.loads(data)
        form, files = value["format"], value["files"]
        if set(value) != {"format", "sha256", "files"} or len(files) > MAX_FILES:
            raise changed
        for name, record in files.items():
            if set(record) != {"sha256", "bytes"} or not _is_record(record):
                raise changed
            if why := _bad_name(name):
                raise ContractError(f"{place} lists {name!r}: {why}; do not use this bundle")
        intact = value["sha256"] == content_digest(files, form) and data == _written(form, files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise changed from None
    if not intact:
        raise changed
    if form != FORMAT:
        raise InputError(
            f"{place} has format {form}, this version reads {FORMAT}; update albert-deploy"
        )
    if len({name.casefold() for name in files}) != len(files) or LISTING in files:
        raise ContractError(f"{place} lists a name twice or itself; do not use this bundle")
    if any(str(folder) in files for name in files for folder in PurePosixPath(name).parents):
        raise ContractError(f"{place} lists a file as a folder; do not use this bundle")
    return value["sha256"], files


def _written(form: object, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    records = {n: {k: files[n][k] for k in ("sha256", "bytes")} for n in sorted(files)}
    value = {"format": form, "sha256": content_digest(files, str(form)), "files": records}
    return (json.dumps(value, indent=2) + "\n").encode()


def _is_record(record: Mapping[str, Any]) -> bool:
    sha256, size = record["sha256"], record["bytes"]
    return _DIGEST.fullmatch(sha256) is not None and type(size) is int and size >= 0


def _bad_name(name: str) -> str | None:
    parts = name.split("/")
    if len(name) > 200 or len(parts) > MAX_DEPTH:
        return "a path of more than 200 characters or 8 folders"
    if not all(_PART.fullmatch(part) for part in parts) or name.endswith("."):
        return "a path of letters, digits and . _ + - that stays in the folder was wanted"
    return None


def _plain_files(root: Path) -> Iterator[tuple[str, int]]:
    """Give name and size of every file below ``root``; what is no plain file is refused."""
    waiting, count = [("", root)], 0
    while waiting:
        prefix, folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name, count = prefix + entry.name, count + 1
                if name in IGNORED:
                    continue
                if count > 2 * MAX_FILES or name.count("/") >= MAX_DEPTH:
                    raise ContractError(f"{root} holds more files or folders than a bundle may")
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append((f"{name}/", Path(entry.path)))
                elif not stat.S_ISREG(status.st_mode):
                    raise ContractError(
                        f"{entry.path} is a link or a special file; a bundle holds plain files "
                        f"alone; {_REMEDY}, and where a download cache links files, into a folder"
                    )
                elif status.st_nlink > 1:
                    raise ContractError(
                        f"{entry.path} is a hard link: it changes when its other name is written "
                        f"to; {_REMEDY}, without links"
                    )
                else:
                    yield name, status.st_size


def _compare(
    directory: Path, files: Mapping[str, Mapping[str, Any]], found: Mapping[str, int]
) -> None:
    problems = [f"{name} is missing" for name in files if name not in found]
    problems += [f"{n} does not belong to it" for n in found if n not in files and n != LISTING]
    for name in (name for name in files if name in found):
        wanted = files[name]
        if found[name] != wanted["bytes"]:
            problems.append(f"{name} has {found[name]:,} bytes instead of {wanted['bytes']:,}")
        elif sha256_of(directory / name) != wanted["sha256"]:
            problems.append(f"{name} was changed")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ContractError(
            f"{directory} is not as it was bundled: {'; '.join(problems[:_SHOWN])}{more}; {_REMEDY}"
        )


def _check_manifest(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    place = _small(directory, files, MANIFEST_NAME)
    try:
        manifest = read_manifest(directory)
        recorded: dict[str, Any] = dict(manifest["files"])
        own = {name: {k: recorded[name][k] for k in ("sha256", "bytes")} for name in recorded}
        needed = [entry["file"] for entry in manifest["variants"].values()]
        for entry in manifest.get("engines", {}).values():
            needed += [entry["file"], entry["record"]]
    except (AlbertDeployError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContractError(f"{place} is no manifest ({error}); bundle again") from error
    listed = {name: dict(record) for name, record in files.items() if name not in BESIDE}
    _check_same(place, own, listed)
    for name in (name for name in own if name.endswith(".onnx")):
        folder = PurePosixPath(name).parent
        needed += [str(folder / file) for file in external_files(directory / name)]
    if gone := [name for name in needed if not isinstance(name, str) or name not in own]:
        raise ContractError(
            f"{directory} needs {gone[0]}, which is not in the bundle; bundle again"
        )


def _check_bom(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    place = _small(directory, files, BOM)
    try:
        bom = json.loads(place.read_bytes())
        if bom["bomFormat"] != "CycloneDX":
            raise ValueError(f"bomFormat is {bom['bomFormat']}")
        described = {
            str(part["name"]): part["hashes"][0]["content"]
            for part in bom["metadata"]["component"]["components"]
            if part["type"] == "file"
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ContractError(f"{place} is no bill of materials ({error!r}); bundle again") from error
    wanted = {name: record["sha256"] for name, record in files.items() if name not in BESIDE}
    _check_same(place, described, wanted)


def _small(directory: Path, files: Mapping[str, Mapping[str, Any]], name: str) -> Path:
    """Return the path of a listed file that is not too large to be parsed."""
    if files.get(name, {}).get("bytes", MAX_JSON_BYTES + 1) > MAX_JSON_BYTES:
        raise ContractError(
            f"{directory / name} is missing from the bundle or too large; bundle again"
        )
    return directory / name


def _check_same(place: Path, found: Mapping[str, Any], listed: Mapping[str, Any]) -> None:
    """Fail where a file that describes the bundle and the list of files differ."""
    if odd := sorted(n for n in {*found, *listed} if found.get(n) != listed.get(n)):
        raise ContractError(
            f"{place} and {LISTING} disagree on {', '.join(odd[:_SHOWN])}; bundle again"
        )
