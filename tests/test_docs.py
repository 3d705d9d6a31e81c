"""Documents say what the code does."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import EXIT_CODES
from albert_deploy.scripts.cli.main import cli
from albert_deploy.validation.datasets import DATASETS

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("runtime", "export", "quantize", "validation", "scripts")
DOCUMENTS = [p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / "docs").rglob("*.md")]
# Options of scripts that documents mention beside those of the command line.
OF_SCRIPTS = {"--check", "--document", "--help"}


def test_the_map_has_every_file_with_its_first_line() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([^`]+\.py)` \| (.+) \|$", text, flags=re.MULTILINE))
    found = {}
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).rglob("*.py"):
            name = path.relative_to(REPOSITORY).as_posix()
            if path.name == "__init__.py" and path.parent.name != "sample":
                continue
            if "node_modules" in name:
                continue
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[name] = docstring.split("\n")[0].replace("``", "`")
    assert listed == found


def test_the_readme_has_every_exit_code_task_and_variant() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning}" in text
    for name in (*TASKS, *VARIANTS, *DATASETS):
        assert name in text


def test_the_readme_has_every_data_set_with_its_task_file_and_scores() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name, dataset in DATASETS.items():
        (row,) = re.findall(rf"^\| `{name}` \| (.+) \|$", text, flags=re.MULTILINE)
        task, file, scores = row.split(" | ")
        assert {dataset.task, *dataset.also} == set(task.split(", one")[0].split(", "))
        assert dataset.files["dev"] in file
        assert tuple(re.findall(r"`([^`]+)`", scores)) == dataset.metrics


@pytest.mark.parametrize("name", ["README.md", "docs/gate.md", "docs/ci.md", "docs/engines.md"])
def test_every_option_that_is_mentioned_exists(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    known = {o for command in cli.commands.values() for p in command.params for o in p.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known | OF_SCRIPTS


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *sorted(DOCUMENTS)])
def test_every_link_to_a_file_leads_to_one(name: str) -> None:
    path = REPOSITORY / name
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [to for to in links if "://" not in to and not (path.parent / to).exists()] == []


def test_every_make_target_is_explained() -> None:
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    explained = set(re.findall(r"^([a-z-]+):.*## \S", text, flags=re.MULTILINE))
    wanted = {"help", "install", "export", "quantize", "validate", "bench", "test", "check"}
    assert wanted <= explained


def test_every_package_is_mapped_to_its_folder() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    tool = project["tool"]["setuptools"]
    assert set(tool["packages"]) == set(tool["package-dir"])
    for package, folder in tool["package-dir"].items():
        assert package == "albert_deploy." + folder.replace("/", ".")
        assert (REPOSITORY / folder / "__init__.py").is_file()
