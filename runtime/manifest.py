"""``manifest.json`` and the atomic writes that a deployment directory is made of."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from albert_deploy.runtime.contract import FAMILIES, task_named
from albert_deploy.runtime.errors import ContractError, InputError, MachineError

MANIFEST_NAME = "manifest.json"
# Folder of reports in a deployment directory.
REPORTS = "reports"
FORMAT_VERSION = 1
# What every manifest of this format has.
_KEYS = {"task", "source", "contract", "parameter_bytes", "files", "versions", "steps", "variants"}


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in 1 MiB blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for an atomic write: it appears whole when the block ends, or not at all.

    Raises:
        MachineError: The disk is full.
        InputError: The folder cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise os_failure(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with writing(path) as file:
        file.write(text.encode())


def os_failure(error: OSError, path: Path) -> InputError | MachineError:
    """Turn an operating system error on ``path`` into one that says what to do."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(f"cannot write {path}: {reason}; free some space and run again")
    return InputError(f"cannot write {path}: {reason}; choose an output that can be written")


def read_json(path: Path, remedy: str, *, missing: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What to do where it cannot be read.
        missing: The message where it is not there; None for the same as of other errors.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if missing is not None and isinstance(error, FileNotFoundError):
            raise InputError(missing) from None
        raise InputError(f"cannot read {path}: {error}; {remedy}") from error


def package_version(name: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def external_data(file: str) -> str:
    """Return the name of the file beside an ONNX file whose weights are too large for it."""
    return f"{file}_data"


def model_files(manifest: Mapping[str, Any], file: str) -> list[str]:
    """Return an ONNX file of a deployment directory, and that of its weights if there is one."""
    data = external_data(file)
    return [file, data] if data in manifest["files"] else [file]


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a deployment directory.

    Raises:
        InputError: No manifest there, or one that this version cannot read.
    """
    path = directory / MANIFEST_NAME
    manifest = read_json(
        path,
        "export the checkpoint again",
        missing=f"{directory} is not a deployment directory: it has no {MANIFEST_NAME}; "
        f"make one with: albert-deploy export SOURCE --out {directory}",
    )
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {manifest.get('format') if isinstance(manifest, dict) else '?'}, "
            f"this version reads {FORMAT_VERSION}; export the checkpoint again"
        )
    if missing := sorted(_KEYS - set(manifest)):
        raise InputError(f"{path} lacks {', '.join(missing)}; export the checkpoint again")
    return manifest


def is_deployment(directory: Path) -> bool:
    """Tell whether a folder is this project's: its manifest is one, of whatever format version."""
    try:
        manifest = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and "format" in manifest and "files" in manifest


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a deployment directory, atomically."""
    write_json(directory / MANIFEST_NAME, manifest)


def add_to_manifest(directory: Path, key: str, found: dict[str, Any]) -> None:
    """Enter what was found of some variants; what was entered before of others stays.

    The manifest is read now, as another step may have written it meanwhile.

    Raises:
        InputError: The directory cannot be written.
        MachineError: The disk is full.
    """
    manifest = read_manifest(directory)
    manifest[key] = manifest.get(key, {}) | found
    write_manifest(directory, manifest)


def file_record(path: Path) -> dict[str, Any]:
    """Return what the manifest keeps of a file: its SHA-256 and its size in bytes."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def is_intact(directory: Path, manifest: dict[str, Any], name: str) -> bool:
    """Tell whether file ``name`` is there with the bytes that the manifest recorded."""
    record = manifest["files"].get(name)
    path = directory / name
    return record is not None and path.is_file() and sha256_of(path) == record["sha256"]


def check_file(directory: Path, manifest: dict[str, Any], name: str) -> Path:
    """Return the path of a recorded file after comparing its SHA-256.

    Raises:
        InputError: The manifest has no such file.
        ContractError: The file is missing or its bytes are not those recorded.
    """
    if name not in manifest["files"]:
        raise InputError(f"{directory} holds no {name}; it holds: {', '.join(manifest['files'])}")
    if not is_intact(directory, manifest, name):
        raise ContractError(
            f"{directory / name} is missing or is not the file that the manifest recorded; "
            "export or quantize again"
        )
    return directory / name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Place -> type. ``[]`` stands for each of a list, ``{}`` for each of an object, and what has a
# ``?`` may be missing.
_SHAPE: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "source": dict,
    "source.config?": dict,
    "contract": dict,
    "contract.family": str,
    "contract.inputs": list,
    "contract.inputs.[]": dict,
    "contract.inputs.[].axes": list,
    "contract.outputs": list,
    "contract.outputs.[]": dict,
    "contract.outputs.[].name": str,
    "contract.outputs.[].axes": list,
    "contract.labels": list,
    "contract.labels.[]": str,
    "contract.max_length": int,
    "contract.pad_token_id": int,
    "files": dict,
    "files.{}": dict,
    "files.{}.sha256": str,
    "variants": dict,
    "variants.{}": dict,
    "variants.{}.latency?": dict,
    "variants.{}.latency?.median_ms": (int, float),
    "tuned?": dict,
    "tuned?.{}": dict,
    "engines?": dict,
    "engines?.{}": dict,
}
_MISSING = object()


def check_shape(manifest: Mapping[str, Any], path: Path) -> None:
    """Fail unless all that the runtime reads of a manifest is there and of its type.

    Args:
        manifest: What ``read_manifest`` returned.
        path: Of its file, for messages.

    Raises:
        InputError: Something is missing, of another type, or does not go with the task.
    """
    for place, kind in _SHAPE.items():
        for where, value in _at(manifest, place.split(".")):
            if not isinstance(value, kind) or isinstance(value, bool):
                got = "missing" if value is _MISSING else f"of type {type(value).__name__}"
                raise InputError(f"{path}: {where} is {got}; export the checkpoint again")
    contract = manifest["contract"]
    family, outputs = contract["family"], contract["outputs"]
    if family not in FAMILIES:
        raise InputError(
            f"{path}: unknown family {family[:80]!r}; use one of {', '.join(FAMILIES)}"
        )
    task = task_named(manifest["task"])
    wanted = [output.name_in(family) for output in task.outputs]
    width = outputs[0]["axes"][-1] if outputs and outputs[0]["axes"] else None
    labelled = manifest["task"] in ("text-classification", "token-classification")
    wrong = {
        "outputs": [one["name"] for one in outputs] != wanted or width is None,
        "inputs": [one["axes"] for one in contract["inputs"]] != 3 * [list(task.input_axes)],
        "labels": labelled and bool(contract["labels"]) and width != len(contract["labels"]),
        "max_length": contract["max_length"] < 1,
        "pad_token_id": contract["pad_token_id"] < 0,
    }
    if bad := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise InputError(
            f"{path}: {bad[0]} of the contract cannot be those of {manifest['task']}; export the "
            "checkpoint again"
        )


def _at(value: Any, steps: list[str], where: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value at a place, with its place; a value that is not there as ``_MISSING``."""
    if not steps:
        yield where, value
        return
    step, rest = steps[0], steps[1:]
    if step == "[]":
        for index, inner in enumerate(value):
            yield from _at(inner, rest, f"{where}[{index}]")
    elif step == "{}":
        for name, inner in value.items():
            yield from _at(inner, rest, f"{where}.{name[:80]}")
    else:
        name = step.removesuffix("?")
        inner = value.get(name, _MISSING)
        if inner is not _MISSING or not step.endswith("?"):
            yield from _at(inner, rest, f"{where}.{name}".lstrip("."))
