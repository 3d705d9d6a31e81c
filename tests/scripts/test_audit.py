"""The audit fails on what is known to be vulnerable, and never calls sound what it did not see."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import ContractError, MachineError
from albert_deploy.scripts import audit as module
from albert_deploy.scripts.audit import IGNORED, SERVICES, Ignored, audit, main
from albert_deploy.scripts.cli import main as cli

TODAY = datetime.date(2026, 1, 15)
SOUND: dict[str, Any] = {"name": "numpy", "version": "2.0.0", "vulns": []}
SKIPPED = {"name": "albert-deploy", "skip_reason": "distribution marked as editable"}
UNKNOWN = {"name": "numpy", "skip_reason": "Dependency not found on PyPI and could not be audited"}
BAD: dict[str, Any] = {
    "name": "leftpad",
    "version": "1.0",
    "vulns": [
        {"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": ["CVE-2026-9", "GHSA-x"]},
        {"id": "PYSEC-2026-2", "fix_versions": [], "aliases": []},
    ],
}
AWAY = "requests.exceptions.ConnectionError: Max retries exceeded (Failed to resolve 'host')"

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A ``pip-audit`` on the path that gives for each service an exit status and its output."""

    def make(**told: tuple[int, str, str]) -> Path:
        program, calls = tmp_path / "pip-audit", tmp_path / "calls"
        program.write_text(
            f"#!{sys.executable}\n"
            "import json, os, sys\n"
            "call = [sys.argv[1:], os.environ['PIPAPI_PYTHON_LOCATION']]\n"
            f"open({str(calls)!r}, 'a').write(json.dumps(call) + '\\n')\n"
            f"told = {told!r}\n"
            "code, out, err = told[sys.argv[sys.argv.index('--vulnerability-service') + 1]]\n"
            "print(out); print(err, file=sys.stderr); sys.exit(code)\n",
            encoding="utf-8",
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return calls

    return make


def run(monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command as ``python -m`` does, without leaving it among those of the others."""
    monkeypatch.setattr(sys, "argv", ["audit"])
    monkeypatch.setattr(cli.cli, "commands", dict(cli.cli.commands))
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_sound_packages_pass_and_are_counted(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake(pypi=(0, report(SOUND, SKIPPED), "No known vulnerabilities found"))
    assert run(monkeypatch) == 0
    out = capsys.readouterr().out
    assert "1 packages have no known vulnerability (pypi)" in out
    assert "1 could not be looked up: albert-deploy" in out
    ((given, python),) = map(json.loads, calls.read_text().splitlines())
    assert python == sys.executable
    assert "--skip-editable" in given


def test_a_vulnerability_fails_with_what_to_do(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(pypi=(1, report(SOUND, BAD), "Found 2 known vulnerabilities in 1 package"))
    assert run(monkeypatch) == ContractError.exit_code
    told = capsys.readouterr().err
    assert "2 known vulnerabilities: leftpad 1.0: PYSEC-2026-1, fixed in 1.1" in told
    assert "PYSEC-2026-2, fixed in no version" in told


def test_what_is_ignored_passes_until_its_day_by_id_or_alias(fake: Fake) -> None:
    fake(pypi=(1, report(SOUND, BAD), ""))
    listed = [
        Ignored(id=name, reason="not used", until=TODAY) for name in ("GHSA-x", "PYSEC-2026-2")
    ]
    found = audit(listed, today=TODAY)
    assert found is not None
    assert found.ignored == ("GHSA-x", "PYSEC-2026-2")
    with pytest.raises(ContractError, match=r"1 known vulnerabilities: .*PYSEC-2026-2"):
        audit(listed[:1], today=TODAY)
    with pytest.raises(
        ContractError, match=r"GHSA-x was to be ignored until 2026-01-15 \(not used"
    ):
        audit(listed, today=TODAY + datetime.timedelta(days=1))


@pytest.mark.parametrize(
    "pypi",
    [(1, "", AWAY), (0, report(UNKNOWN, SKIPPED), "No known vulnerabilities found")],
    ids=["away", "finds nothing at all"],
)
def test_without_a_service_nothing_is_called_sound(
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pypi: tuple[int, str, str],
) -> None:
    calls = fake(pypi=pypi, osv=(1, "", AWAY))
    assert run(monkeypatch) == 0
    told = capsys.readouterr().out
    assert told == "not audited: no vulnerability service can be reached\n"
    assert len(calls.read_text().splitlines()) == len(SERVICES)


def test_the_second_service_is_asked_where_the_first_is_away(fake: Fake) -> None:
    fake(pypi=(1, "", AWAY), osv=(1, report(BAD), ""))
    with pytest.raises(ContractError, match="leftpad"):
        audit(())


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ((1, "", "TypeError: an error of its own"), "TypeError: an error of its own"),
        ((0, "no JSON", ""), "no message"),
        ((0, '{"dependencies": [{"name": "x", "version": "1"}]}', "odd"), "odd"),
        ((0, '{"dependencies": [{"name": "x", "vulns": null}]}', ""), "without a result"),
    ],
)
def test_an_audit_that_broke_is_no_pass(
    fake: Fake, told: tuple[int, str, str], reason: str
) -> None:
    fake(pypi=told, osv=told)
    with pytest.raises(MachineError, match=f"pip-audit ended with {told[0]}.*{reason}"):
        audit(())


def test_a_missing_program_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MachineError, match="pip install pip-audit"):
        audit(())


def test_each_entry_has_a_reason_and_half_a_year_at_most() -> None:
    soon = datetime.datetime.now(tz=datetime.UTC).date() + datetime.timedelta(days=183)
    for one in IGNORED:
        assert len(one.reason.split()) >= 4
        assert one.until <= soon
