"""Fields of a frozen class become options, and their texts values, before a command runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result

from albert_deploy.runtime.errors import EXIT_USAGE, InputError
from albert_deploy.scripts.cli.options import COUNT, NAMES, NUMBERS, opt, takes

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli


@dataclass(frozen=True, kw_only=True)
class Settings:
    out: Path = opt(None, "Where to.", "DIR", required=True)
    dry_run: bool = opt(False, "Write nothing.")
    seed: int = opt(3, "Of the draw.")
    most: int | None = opt(None, "Rows, at most.", "N", type=COUNT, flag=("--max-rows", "-m"))
    keep: tuple[str, ...] = opt((), "What stays.", "LABEL", multiple=True)
    lengths: tuple[int, ...] = opt((8, 32), "Tokens.", type=NUMBERS)
    variants: tuple[str, ...] | None = opt(None, "Which.", type=NAMES)


def _run(*arguments: str) -> tuple[Result, list[Any]]:
    found: list[Any] = []

    @click.command()
    @click.argument("place")
    @takes(Settings, "how")
    @click.option("--last", default="z")
    def command(place: str, how: Settings, last: str) -> None:
        found.extend((place, how, last))

    return CliRunner().invoke(command, arguments), found


def test_defaults_are_those_of_the_class() -> None:
    result, found = _run("here", "--out", "x")
    assert result.exit_code == 0, result.output
    assert found == ["here", Settings(out=Path("x")), "z"]


def test_texts_become_values_of_the_fields() -> None:
    arguments = ["--dry-run", "--seed", "5", "-m", "7", "--keep", "a,b", "--keep", "c"]
    lists = ["--lengths", "1,2", "--variants", "fp32, int8", "--last", "y"]
    result, found = _run("here", "--out", "x/y", *arguments, *lists)
    assert result.exit_code == 0, result.output
    wanted = Settings(
        out=Path("x/y"),
        dry_run=True,
        seed=5,
        most=7,
        keep=("a,b", "c"),
        lengths=(1, 2),
        variants=("fp32", "int8"),
    )
    assert found == ["here", wanted, "y"]


def test_help_shows_fields_in_order_with_their_defaults() -> None:
    text = _run("--help")[0].output
    flags = ["--out DIR", "--dry-run", "--seed INTEGER", "-m, --max-rows N", "--keep LABEL"]
    places = [text.index(flag) for flag in [*flags, "--lengths", "--variants TEXT", "--last"]]
    assert places == sorted(places)
    for shown in ("[required]", "[default: 3]", "[default: 8,32]", "[x>=1]"):
        assert shown in text


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "Missing option '--out'"),
        (["--out", "x", "--seed", "y"], "'y' is not a valid integer"),
        (["--out", "x", "-m", "0"], "0 is not in the range"),
        (["--out", "x", "--lengths", "8,y"], "got --lengths 8,y; wanted numbers such as 8,32"),
    ],
)
def test_wrong_values_are_wrong_usage(arguments: list[str], hint: str) -> None:
    result, found = _run("here", *arguments)
    assert result.exit_code == EXIT_USAGE
    assert hint in result.output
    assert found == []


def test_no_names_are_refused() -> None:
    result, found = _run("here", "--out", "x", "--variants", " ,")
    assert isinstance(result.exception, InputError)
    assert "--variants names none; use some of: fp32" in str(result.exception)
    assert found == []


def test_a_profile_needs_three_numbers_of_rows(cli: Cli, deployed: Path, reviews: Path) -> None:
    arguments = ("--profile", "auto", "--dataset", f"sst2={reviews}", "--batch", "1:8")
    hints = ("got --batch 1:8; wanted min:opt:max, such as 1:8:32",)
    cli.refuses(InputError.exit_code, "build", deployed, *arguments, hints=hints, out=deployed)
