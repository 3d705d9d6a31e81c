"""Two releases side by side from the command line: as a table, as JSON, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from folders import write_sst2

from albert_deploy.runtime.errors import InputError
from albert_deploy.scripts.cli.main import main

pytestmark = pytest.mark.medium

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

BAD_INPUT = InputError.exit_code


def _release(source: Path, out: Path, rows: int) -> Path:
    """Release on as many rows; the verdict of so few is not what is looked at."""
    words = ("long", "warm", "a river", "who", "what is the film", "zebra", "is", "where was it")
    texts = [f"the film was {word}" for word in words[:rows]]
    data = write_sst2(out.with_name(f"{out.name}.tsv"), texts)
    gate = out.with_name("gate.toml")
    gate.write_text('[statistics]\nundecided = "pass"\n', encoding="utf-8")
    arguments = ["--variants", "fp32", "--dataset", f"sst2={data}", "--gate", str(gate)]
    main(["release", str(source), "--out", str(out), *arguments])
    return out


@pytest.fixture(scope="module")
def releases(
    first: Path, second: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """One checkpoint, another, and the other on fewer rows."""
    folder = tmp_path_factory.mktemp("releases")
    a, b = _release(first, folder / "a", 8), _release(second, folder / "b", 8)
    return a, b, _release(second, folder / "c", 5)


def _report(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "reports/validation.json").read_text())
    return report


def test_two_releases_are_put_side_by_side(cli: Cli, releases: tuple[Path, Path, Path]) -> None:
    a, b, _ = releases
    result = cli("compare", a, b)
    assert result.code == 0, result.err
    assert result.out.startswith("# text-classification: ")
    assert f"`{a}`, pass" in result.out
    assert f"`{b}`, pass" in result.out
    assert "The sources differ." in result.out
    scores = [_report(d)["variants"]["fp32"]["metrics"]["accuracy"]["variant"] for d in (a, b)]
    line = next(line for line in result.out.splitlines() if "| accuracy" in line)
    assert all(f"{score:.2f}" in line for score in scores)
    assert "| differs" in result.out


def test_json_says_what_the_table_says(cli: Cli, releases: tuple[Path, Path, Path]) -> None:
    a, b, _ = releases
    result = cli("compare", a, b, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["schema"] == "albert-deploy/compare/1"
    assert [found[side]["directory"] for side in ("first", "second")] == [str(a), str(b)]
    assert found["same_source"] is False
    assert found["data_differs"] == []
    reports = [_report(directory)["variants"]["fp32"] for directory in (a, b)]
    changes = {change["quantity"]: change for change in found["variants"]["fp32"]["changes"]}
    accuracy = changes["accuracy"]
    assert [accuracy["first"], accuracy["second"]] == [
        report["metrics"]["accuracy"]["variant"] for report in reports
    ]
    assert changes["bytes"]["change"] == reports[1]["bytes"] - reports[0]["bytes"]


def test_a_release_equals_its_copy(
    cli: Cli, releases: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    copied = shutil.copytree(releases[0], tmp_path / "copied")
    found = json.loads(cli("compare", releases[0], copied, "--json").out)
    assert found["better"] == found["worse"] == []
    assert found["same_source"] is found["variants"]["fp32"]["same_file"] is True


def test_other_data_is_refused_unless_allowed(cli: Cli, releases: tuple[Path, Path, Path]) -> None:
    _, b, c = releases
    hints = ("were not validated on the same data", "data set's rows: 8 and 5", "data set's sha256")
    cli.refuses(BAD_INPUT, "compare", b, c, hints=hints, out=c)
    result = cli("compare", b, c, "--allow-different-data")
    assert result.code == 0, result.err
    assert "The data differs" in result.out
    assert "Same source." in result.out


def test_a_folder_that_was_never_validated_is_refused(
    cli: Cli, releases: tuple[Path, Path, Path], deployed: Path
) -> None:
    hints = ("has no reports/validation.json", "make it with: albert-deploy validate")
    cli.refuses(BAD_INPUT, "compare", releases[0], deployed, hints=hints, out=deployed)
