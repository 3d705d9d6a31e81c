"""What of an environment made for inference alone answering never loads; nothing is changed here.

Those are packages that only the hub's client and ONNX Runtime's own tools need, a second copy of
ONNX Runtime, numpy's tests, and byte code. What a kept package requires is kept, and so is what
was installed by name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from albert_deploy.runtime.errors import InputError

_SELF = "albert-deploy"
_TOOLS = ("coloredlogs", "flatbuffers", "packaging", "protobuf", "sympy")
# Package -> what it declares to require and an answer never imports.
UNUSED_REQUIREMENTS = {
    "tokenizers": ("huggingface-hub",),
    "onnxruntime": _TOOLS,
    "onnxruntime-gpu": _TOOLS,
}
# Where ONNX Runtime's Python module has all of it in itself, this is a second copy.
_C_LIBRARY = "libonnxruntime.so"
_TESTS = "numpy/**/tests"
# The check afterwards writes the byte code of what is loaded once more.
_BYTE_CODE = ("albert_deploy", "numpy", "onnxruntime")
INSTALLERS = ("pip", "setuptools")
# Extras that answer. Packages of any other one show that the environment is not for that alone.
_ANSWERING = ("cpu", "gpu", "openvino", "rtx", "serve", "sign")
_MAKING = {"torch", "transformers"}


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What of an environment is not needed; sizes in bytes.

    Attributes:
        prefix: The environment.
        packages: Name -> size of each package that goes as a whole.
        files: What else goes -> its size.
        paths: Everything to delete.
    """

    prefix: Path
    packages: dict[str, int]
    files: dict[str, int]
    paths: tuple[Path, ...]


def environment_bytes(prefix: Path) -> int:
    """Return the size of all files of an environment, in bytes; links count nothing."""
    return sum(_size(path) for path in prefix.rglob("*"))


def unneeded(prefix: Path, *, installers: bool = False) -> Removal:
    """Find what an environment for inference does not need; nothing is changed.

    Args:
        prefix: Folder of a virtual environment.
        installers: pip and setuptools are not needed either.

    Raises:
        InputError: It is no virtual environment, holds no albert-deploy or an editable one, or
            holds packages that make deployment directories.
    """
    # Not resolved: the environment's folder may be a link.
    prefix = Path(os.path.normpath(prefix.absolute()))
    sites = _site_packages(prefix)
    listed = [one for one in distributions(path=[str(site) for site in sites]) if one.name]
    found = {_normal(one.name): one for one in listed}
    _check_purpose(prefix, found)
    names = _unneeded_packages(found, INSTALLERS if installers else ())
    packages = {name: _files_of(found[name], prefix) for name in names}
    files = {kind: paths for site in sites for kind, paths in _unneeded_files(site) if paths}
    return Removal(
        prefix=prefix,
        packages={name: _total(paths) for name, paths in packages.items()},
        files={kind: _total(paths) for kind, paths in files.items()},
        paths=tuple(path for paths in (*packages.values(), *files.values()) for path in paths),
    )


def _site_packages(prefix: Path) -> list[Path]:
    if not (prefix / "pyvenv.cfg").is_file():
        raise InputError(
            f"{prefix} is no virtual environment; make one for inference alone with "
            "python -m venv, install 'albert-deploy[cpu]' into it, and give its folder"
        )
    found = [*prefix.glob("lib*/python*/site-packages"), *prefix.glob("Lib/site-packages")]
    return sorted({path.resolve(): path for path in sorted(found)}.values())


def _check_purpose(prefix: Path, found: dict[str, Distribution]) -> None:
    own = found.get(_SELF)
    remedy = "slim an environment that was made for inference alone"
    if own is None:
        raise InputError(f"{prefix} holds no {_SELF}; {remedy}")
    origin = json.loads(own.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        raise InputError(f"{prefix} holds an editable {_SELF}, to develop it; {remedy}")
    answering = {_SELF, *_reachable(found, _requirements(own))}
    making = _MAKING | (_requirements(own, of_answering=False) - answering)
    if wrong := sorted(making & found.keys()):
        raise InputError(
            f"{prefix} holds {', '.join(wrong[:5])}, which inference does not need; {remedy}"
        )


def _unneeded_packages(found: dict[str, Distribution], installers: tuple[str, ...]) -> list[str]:
    """Return what only requirements that are not used ask for, and installers nobody requires."""
    unused = {name for names in UNUSED_REQUIREMENTS.values() for name in names}
    suspects = _reachable(found, unused)
    asked = {name for name, one in found.items() if one.read_text("REQUESTED") is not None}
    roots = ((found.keys() - suspects) | asked) - {*INSTALLERS}
    kept = _reachable(found, roots, extras=True, without=UNUSED_REQUIREMENTS)
    tools = {*installers} & found.keys() - _reachable(found, roots, without=UNUSED_REQUIREMENTS)
    return sorted((suspects - kept) | tools)


def _reachable(
    found: dict[str, Distribution],
    roots: Iterable[str],
    *,
    extras: bool = False,
    without: dict[str, tuple[str, ...]] | None = None,
) -> set[str]:
    """Return those of the roots that are installed, and what of it they require."""
    seen: set[str] = set()
    waiting = [name for name in roots if name in found]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            required = _requirements(found[name], extras=extras) - {*(without or {}).get(name, ())}
            waiting += [one for one in required if one in found]
    return seen


def _requirements(
    one: Distribution, *, extras: bool = False, of_answering: bool = True
) -> set[str]:
    """Return the names that a package requires, whatever the platform.

    Metadata does not tell which extras were asked for: with ``extras`` all of them count. Of this
    project always those that answer, or with ``of_answering`` false the others alone.
    """
    names = set()
    own = _normal(one.name) == _SELF
    for line in one.requires or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if own:
            wanted = (extra is None or extra[1] in _ANSWERING) == of_answering
        else:
            wanted = extra is None or extras
        if wanted and (match := re.match(r"\s*([A-Za-z0-9._-]+)", requirement)):
            names.add(_normal(match[1]))
    return names


def _files_of(one: Distribution, prefix: Path) -> list[Path]:
    """Return the files of a package that lie in the environment, with their byte code."""
    inside = prefix.resolve()
    found = []
    for file in one.files or ():
        path = Path(os.path.normpath(str(file.locate())))
        if (path.is_file() or path.is_symlink()) and path.parent.resolve().is_relative_to(inside):
            found.append(path)
    caches = {path.parent / "__pycache__" for path in found if path.suffix == ".py"}
    stems = {(path.parent, path.stem) for path in found}
    for cache in caches:
        found += [
            path
            for path in cache.glob("*.pyc")
            if (cache.parent, path.name.split(".")[0]) in stems and path not in found
        ]
    return found


def _unneeded_files(site: Path) -> list[tuple[str, list[Path]]]:
    """Return what goes of packages that stay: what it is, and where."""
    folder = site / "onnxruntime" / "capi"
    copies = sorted(folder.glob(f"{_C_LIBRARY}*"))
    others = [path for path in folder.glob("*.so") if path not in copies]
    module = any(path.name.startswith("onnxruntime_pybind11_state") for path in others)
    # Of what links a library, or opens it by its name, the bytes hold that name.
    if not module or any(_C_LIBRARY.encode() in path.read_bytes() for path in others):
        copies = []
    # Tests hold tests: the outer folder goes with all that is in it.
    tests = [path for path in site.glob(_TESTS) if "tests" not in path.parent.parts]
    caches = [
        path
        for name in _BYTE_CODE
        for path in (site / name).rglob("__pycache__")
        if not any(path.is_relative_to(outer) for outer in tests)
    ]
    return [
        (f"onnxruntime/capi/{_C_LIBRARY}*", copies),
        (_TESTS, tests),
        ("byte code, written anew for what is loaded", caches),
    ]


def _total(paths: Iterable[Path]) -> int:
    return sum(environment_bytes(path) if path.is_dir() else _size(path) for path in paths)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() and not path.is_symlink() else 0


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
