"""The shape of a manifest: what the runtime reads of it, and of which type that has to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import FAMILIES, task_named
from albert_deploy.runtime.errors import InputError

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
