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
from albert_deploy.validation.data.table import DATASETS

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("runtime", "export", "quantize", "validation", "scripts")
DOCUMENTS = [p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / "docs").rglob("*.md")]
# Options of scripts that documents mention beside those of the command line.
OF_SCRIPTS = {"--check", "--checkpoint", "--document", "--help", "--longest", "--seeds"}


def test_the_tree_has_every_room_with_its_sentence() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.partition("<!-- rooms -->")[2].partition("<!-- end of rooms -->")[0]
    listed = dict(re.findall(r"^ *([a-z_/]+/) {2,}(\S.*)$", tree, flags=re.MULTILINE))
    found = {}
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).rglob("__init__.py"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            sentence = re.split(r"[.;](?:\s|$)", docstring, maxsplit=1)[0]
            found[path.parent.relative_to(REPOSITORY).as_posix() + "/"] = sentence
    assert listed == {name: text.replace("``", "") for name, text in found.items()}


def test_the_readme_has_every_exit_code_task_and_variant() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning}" in text
    for name in (*TASKS, *VARIANTS):
        assert name in text
    assert len(text.splitlines()) <= 150
    assert f"{len(DATASETS)} data sets" in text


def test_every_data_set_is_listed_with_its_task_file_and_scores() -> None:
    text = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    for name, dataset in DATASETS.items():
        (row,) = re.findall(rf"^\| `{name}` \| (.+) \|$", text, flags=re.MULTILINE)
        task, file, scores = row.split(" | ")
        assert {dataset.task, *dataset.also} == set(task.split(", one")[0].split(", "))
        assert dataset.files["dev"] in file
        assert tuple(re.findall(r"`([^`]+)`", scores)) == dataset.metrics


@pytest.mark.parametrize(
    "name",
    ["README.md", *(f"docs/{page}.md" for page in ("gate", "ci", "engines", "release", "data"))],
)
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
