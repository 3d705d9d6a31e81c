"""The examples for continuous integration are whole, and call what there is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from albert_deploy.runtime.errors import EXIT_CODES, EXIT_INTERRUPTED
from albert_deploy.scripts.cli.main import cli

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def workflow() -> dict[str, Any]:
    text = (DOCS / "ci" / "github-workflow.yml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def _commands(script: str) -> list[list[str]]:
    """Return the calls of albert-deploy in a shell script, as words."""
    lines = script.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip().startswith("albert-deploy")]


def _check_call(words: list[str]) -> None:
    command = cli.commands[words[1]]
    options = {option for parameter in command.params for option in parameter.opts}
    given = {word for word in words if word.startswith("--")}
    assert given <= options, given - options


def test_the_workflow_gates_and_keeps_the_report(workflow: dict[str, Any]) -> None:
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow) == {"name", True, "permissions", "concurrency", "env", "jobs"}
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 60
    steps = {step.get("name", step.get("uses")): step for step in job["steps"]}
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        # Nothing turns a failed gate green.
        assert "continue-on-error" not in step
        assert "|| true" not in step.get("run", "")
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
    keep = steps["Keep the report"]
    assert keep["if"] == "always()"
    assert keep["with"]["path"].split() == [
        "${{", "env.OUT", "}}/reports/", "${{", "env.OUT", "}}.failed/reports/"
    ]  # fmt: skip
    calls = _commands(steps["Export, quantize, gate"]["run"])
    assert [words[1] for words in calls] == ["release"]
    _check_call(calls[0])


def test_every_variable_of_the_workflow_is_set_and_used(workflow: dict[str, Any]) -> None:
    text = (DOCS / "ci" / "github-workflow.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?([A-Z_]+)\b", text)) | set(re.findall(r"env\.([A-Z_]+)", text))
    assert used == set(workflow["env"])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_make_targets_call_what_there_is() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-f", str(DOCS / "ci" / "albert.mk"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    shown = run("-n", "albert", "ALBERT_OUT=out/x y")
    assert shown.returncode == 0
    (words,) = _commands(shown.stdout)
    assert words[words.index("--out") + 1] == "out/x y"
    _check_call(words)
    # A gate that fails is a make that fails.
    assert run("albert", "ALBERT_DEPLOY=false").returncode != 0
    missing = run("albert-compare")
    assert missing.returncode != 0
    assert "BEFORE=DIR" in missing.stdout
    (words,) = _commands(run("-n", "albert-compare", "BEFORE=old").stdout)
    assert words == ["albert-deploy", "compare", "old", "out/albert"]


def test_the_document_tells_every_exit_code() -> None:
    text = (DOCS / "ci.md").read_text(encoding="utf-8")
    told = {
        int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", text, re.M)
    }
    assert told == {code: m for code, m in EXIT_CODES.items() if code != EXIT_INTERRUPTED}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link != "gate.md":
            assert (DOCS / link).is_file(), link
