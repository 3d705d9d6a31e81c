"""What may be bundled: the variants asked for, with a validation that lets them be shipped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError
from albert_deploy.runtime.manifest import check_file
from albert_deploy.validation.gate.baseline import read_report

REPORT = "reports/validation.json"
EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"
_PASS = "pass"


def chosen_variants(
    directory: Path, manifest: Mapping[str, Any], asked: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the variants to bundle, in the order of ``VARIANTS``; None asks for all.

    Raises:
        InputError: The directory has not one of them.
    """
    there = [name for name in VARIANTS if name in manifest["variants"]]
    wanted = there if asked is None else asked
    if missing := [name for name in wanted if name not in there]:
        raise InputError(
            f"{directory} has no {missing[0]}; it has {', '.join(there)}; make it with: "
            f"albert-deploy quantize {directory} --variants {missing[0]}"
        )
    return tuple(name for name in there if name in wanted)


def recommended(directory: Path, manifest: Mapping[str, Any]) -> str:
    """Return the variant to serve where none was named, whatever machine bundles it.

    It is the one with the least recorded latency of those that passed their gate, else ``fp32``.

    Raises:
        ContractError: The report is not the one that the manifest recorded.
    """
    from albert_deploy.runtime.recommend import passed

    recorded = {
        name: float(latency["median_ms"])
        for name in passed(directory, manifest)
        if (latency := manifest["variants"][name].get("latency"))
    }
    return min(recorded, key=lambda name: recorded[name], default="fp32")


def passing_report(
    directory: Path, manifest: dict[str, Any], variants: tuple[str, ...], *, allow_failed: bool
) -> dict[str, Any] | None:
    """Return the validation's report if it is of these very files and lets them be shipped.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variants: Those to be bundled.
        allow_failed: Let any verdict pass, and none.

    Returns:
        ``reports/validation.json``; None where there is none.

    Raises:
        InputError: There was no validation, or its report cannot be read.
        ContractError: The report is not the recorded one, or is of other files.
        AlbertDeployError: The verdict is not pass; the class is that of the check that failed.
    """
    allow = "or bundle it as it is with --allow-failed"
    if REPORT not in manifest["files"]:
        if allow_failed:
            return None
        raise InputError(
            f"{directory} was not validated, so that nothing is known of its answers; run: "
            f"albert-deploy validate {directory}, {allow}"
        )
    place = check_file(directory, manifest, REPORT)
    report = read_report(place)
    try:
        measured = {name: entry["sha256"] for name, entry in report["variants"].items()}
    except (KeyError, TypeError) as error:
        raise InputError(f"{place} is no report ({error!r}); validate {directory} again") from error
    for name in variants:
        if measured.get(name) != manifest["files"][VARIANTS[name].file]["sha256"]:
            raise ContractError(
                f"{place} is not of the {name} that is there: it was not validated, or made again "
                f"since; run: albert-deploy validate {directory}"
            )
    if report["verdict"] != _PASS and not allow_failed:
        from albert_deploy.validation.gate.gate import raise_for_verdict

        failed = f"{directory} did not pass its validation ({report['verdict']})"
        try:
            raise_for_verdict(report)
        except AlbertDeployError as error:
            kind = type(error) if type(error) is not AlbertDeployError else ContractError
            raise kind(f"{failed}: {error}; see {place}, {allow}") from error
        raise ContractError(f"{failed}; see {place}, {allow}")
    return report


def epoch_of(report: Mapping[str, Any] | None) -> int:
    """Return the time of a bundle in seconds since 1970: that which is set, else the report's.

    Raises:
        InputError: ``SOURCE_DATE_EPOCH`` is no such number.
    """
    text = os.environ.get(EPOCH_VARIABLE)
    if text is None:
        try:
            return max(0, int(datetime.fromisoformat((report or {})["time"]).timestamp()))
        except (KeyError, TypeError, ValueError):
            return 0
    if not text.isdecimal() or not text.isascii() or len(text) > 10:
        raise InputError(f"got {EPOCH_VARIABLE}={text[:40]!r}; wanted seconds since 1970")
    return int(text)
