"""What ``make audit`` makes of what pip-audit prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.scripts.tools import audit

SOUND = {"name": "numpy", "version": "2.4", "vulns": []}
UNKNOWN = {"name": "mine", "skip_reason": "not found on PyPI"}
BAD = {"name": "old", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}


def audited(folder: Path, stdout: str, *, code: int = 0, stderr: str = "") -> Path:
    program = folder / "pip-audit"
    (folder / "stdout").write_text(stdout)
    program.write_text(f"#!/bin/sh\ncat {folder}/stdout; echo '{stderr}' >&2; exit {code}\n")
    program.chmod(0o755)
    return program


def printed(packages: list[dict[str, Any]]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ([SOUND, UNKNOWN], "1 packages have no known vulnerability, 1 could not be looked up"),
        ([UNKNOWN], audit.NOT_AUDITED),
        ([], audit.NOT_AUDITED),
    ],
)
def test_a_sound_environment_and_one_nobody_knows(
    packages: list[dict[str, Any]], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.main(str(audited(tmp_path, printed(packages))))
    assert capsys.readouterr().out.strip() == said


def test_a_vulnerability_fails(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"old 1\.0: CVE-1, fixed in 1\.1"):
        audit.main(str(audited(tmp_path, printed([SOUND, BAD]), code=1)))


def test_a_service_out_of_reach_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit.main(str(audited(tmp_path, "", code=1, stderr="ConnectionError: no route to host")))
    assert capsys.readouterr().out == f"{audit.NOT_AUDITED}: ConnectionError: no route to host\n"
