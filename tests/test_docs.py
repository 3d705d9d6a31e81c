"""Documents say what the code does."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import EXIT_CODES
from albert_deploy.validation.datasets import DATASETS

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("runtime", "export", "quantize", "validation", "scripts")


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
