"""Look the installed packages up among known vulnerabilities, with ``pip-audit``, where one can.

``python -m albert_deploy.scripts.audit`` says what it looked up, and fails where a package has a
vulnerability that ``IGNORED`` does not name. Without a network it says that nothing was audited.
``pip-audit`` itself calls an environment sound of which it found no package at all; this does not.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from albert_deploy.runtime.errors import ContractError, MachineError

# Asked in this order until one answers.
SERVICES = ("pypi", "osv")
_TIMEOUT_S = 900
_AWAY = re.compile(
    r"connect|resol|timed? ?out|retries|proxy|network|redirect|unreachable|\b(403|429|50\d)\b", re.I
)
_NOT_AUDITED = "not audited: no vulnerability service can be reached"


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A vulnerability that is known and harms nothing here.

    Args:
        id: As ``pip-audit`` prints it, or an alias: ``PYSEC-…``, ``GHSA-…``, ``CVE-…``.
        reason: Why it does not matter to this project.
        until: Last day on which it is ignored; after it somebody has to look again.
    """

    id: str
    reason: str
    until: datetime.date


IGNORED: tuple[Ignored, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a service told of the environment.

    Attributes:
        service: One of ``SERVICES``.
        audited: Packages that it knows.
        skipped: Packages that it does not know, or that are installed to be edited.
        ignored: Vulnerabilities that were found and are in ``IGNORED``.
    """

    service: str
    audited: tuple[str, ...]
    skipped: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        told = f"{len(self.audited)} packages have no known vulnerability ({self.service})"
        if self.ignored:
            told += f"; ignored: {', '.join(self.ignored)}"
        if self.skipped:
            told += f"; {len(self.skipped)} could not be looked up: {', '.join(self.skipped)}"
        return told


def audit(
    ignored: Sequence[Ignored] = IGNORED, *, today: datetime.date | None = None
) -> Audit | None:
    """Look up every package of this environment.

    Args:
        ignored: Vulnerabilities that do not count.
        today: Day by which they expire; None for today.

    Returns:
        What was looked up; None where no service can be reached.

    Raises:
        ContractError: A package has a known vulnerability, or an entry of ``ignored`` expired.
        MachineError: ``pip-audit`` is not installed, or failed for another reason than the network.
    """
    day = today or datetime.datetime.now(tz=datetime.UTC).date()
    if late := [one for one in ignored if one.until < day]:
        raise ContractError(
            f"{late[0].id} was to be ignored until {late[0].until} ({late[0].reason}); look at it "
            "again, and update the package or the entry"
        )
    for service in SERVICES:
        if (told := _ask(service)) is None:
            continue
        skipped = tuple(str(one["name"]) for one in told if "skip_reason" in one)
        if len(skipped) < len(told):
            return _judged(service, told, skipped, {one.id for one in ignored})
    return None


def _judged(
    service: str, told: list[dict[str, Any]], skipped: tuple[str, ...], ignored: set[str]
) -> Audit:
    known = [one for one in told if "skip_reason" not in one]
    passed, bad = [], []
    for package in known:
        for found in package["vulns"]:
            known_as = [found["id"], *found.get("aliases", ())]
            if hit := ignored.intersection(known_as):
                passed.append(min(hit))
                continue
            fixed = ", ".join(found.get("fix_versions", ())) or "no version"
            bad.append(f"{package['name']} {package['version']}: {known_as[0]}, fixed in {fixed}")
    if bad:
        raise ContractError(
            f"{len(bad)} known vulnerabilities: {'; '.join(bad)}; update, or name them in IGNORED "
            "of scripts/audit.py with a reason and a date"
        )
    names = tuple(str(one["name"]) for one in known)
    return Audit(service=service, audited=names, skipped=skipped, ignored=tuple(sorted(passed)))


def _ask(service: str) -> list[dict[str, Any]] | None:
    """Return what ``pip-audit`` tells of each package; None where the service is out of reach."""
    command = [
        _program(),
        *("--format", "json", "--skip-editable", "--progress-spinner", "off"),
        *("--desc", "off", "--vulnerability-service", service),
    ]
    # It may be installed elsewhere, with pipx for one; what counts is this environment.
    environment = os.environ | {"PIPAPI_PYTHON_LOCATION": sys.executable}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    try:
        # It ends with 1 both for what it finds and for what stops it: only its output tells.
        told: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        if all("skip_reason" in one or isinstance(one["vulns"], list) for one in told):
            return told
        reason = "a package without a result"
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode and _AWAY.search(reason):
        return None
    raise MachineError(
        f"pip-audit ended with {done.returncode}: {reason[:500]}; run it by hand: "
        f"{' '.join(command)}"
    )


def _program() -> str:
    beside = Path(sys.executable).with_name("pip-audit")
    found = shutil.which("pip-audit") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise MachineError("pip-audit is not installed; run: pip install pip-audit")
    return found


@click.command()
def command() -> None:
    """Look the installed packages up among known vulnerabilities."""
    click.echo(audit() or _NOT_AUDITED)


def main() -> None:
    """Run the command with the exit codes of ``albert-deploy``."""
    from albert_deploy.scripts.cli import main as cli

    cli.cli.add_command(command, "audit")
    cli.main(["audit", *sys.argv[1:]])


if __name__ == "__main__":
    main()
