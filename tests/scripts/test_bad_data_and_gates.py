"""Bad data, bad gates and bad usage are refused; a breached gate has its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import AccuracyError, InputError, ParityError
from albert_deploy.runtime.manifest import sha256_of

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

BAD_INPUT = InputError.exit_code
PARITY, ACCURACY = ParityError.exit_code, AccuracyError.exit_code
MODEL = VARIANTS["fp32"].file


ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no label": ("the film was long\t\n", ("line 2: label is ''", "correct or remove the row")),
    "no label column": ("the film was long\n", ("line 2: 1 columns, wanted 2",)),
    "an unknown label": ("the film\t7\n", ("line 2: label is '7', wanted 0 or 1",)),
    "an empty text": (" \t1\n", ("line 2: sentence is empty", "correct or remove the row")),
    "no rows": ("", ("has a header and no rows",)),
    "a text that is too long": (
        "film " * 70 + "\t1\n",
        ("row 0 has 72 tokens, the limit is 16; shorten it or pass --truncate",),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_named(cli: Cli, deployed: Path, reviews: Path, name: str) -> None:
    rows, hints = ROWS[name]
    (reviews / "dev.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    arguments = ("validate", deployed, "--dataset", f"sst2={reviews}")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=deployed)


def test_an_over_long_text_is_cut_where_asked(cli: Cli, deployed: Path, reviews: Path) -> None:
    (reviews / "dev.tsv").write_text(f"sentence\tlabel\n{'film ' * 70}\t1\n", encoding="utf-8")
    result = cli("validate", deployed, "--dataset", f"sst2={reviews}", "--truncate")
    assert result.code == 0, result.err


DATASETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "imdb=here": ("imdb=here", ("unknown data set 'imdb'; use one of: ", "sst2", "squad")),
    "sst2": ("sst2", ("--dataset sst2 needs the place of the data: --dataset sst2=PATH",)),
    "sst2=": ("sst2=", ("write sst2=PATH",)),
    "sst2=missing": ("sst2=/no/such/folder", ("does not exist; give sst2=PATH", "dev.tsv")),
    "squad": ("squad=/no/such", ("squad is data for question-answering, the checkpoint is for",)),
}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("verb", ["validate", "release"])
def test_an_unusable_data_set_is_refused_before_the_work(
    cli: Cli, first: Path, deployed: Path, name: str, verb: str
) -> None:
    option, hints = DATASETS[name]
    arguments = (deployed,) if verb == "validate" else (first, "--out", deployed)
    cli.refuses(BAD_INPUT, verb, *arguments, "--dataset", option, hints=hints, out=deployed)


GATES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "missing": (None, ("cannot read the gate", "give a TOML file with a table per variant")),
    "no TOML": ("fp32 = {", ("cannot read the gate", "give a TOML file")),
    "unknown variant": ("[int7]\nmax_drop = 1", ("'int7' is no variant; use", *VARIANTS)),
    "unknown key": (
        "[int8]\nmax_loss = 1",
        ("unknown key 'max_loss'; use", "max_drop", "min_sqnr_db", "min_score_share"),
    ),
    "text": ('[int8]\nmax_drop = "1"', ("int8.max_drop is '1', wanted a number",)),
    "NaN": ("[int8]\nmax_drop = nan", ("int8.max_drop is nan, wanted a number",)),
    "no table": ("int8 = 1", ("'int8' is no variant; use",)),
    "unknown statistics": (
        "[statistics]\nmethod = 1",
        ("unknown key 'method'; use", "confidence", "resamples", "undecided"),
    ),
    "another data set's metric": (
        "[int8.sst2.f1]\nmargin = 1",
        ("int8.sst2.f1 is no metric of sst2; use one of: accuracy",),
    ),
}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("verb", ["validate", "release"])
def test_an_unusable_gate_is_refused_before_the_work(
    cli: Cli, first: Path, deployed: Path, tmp_path: Path, name: str, verb: str
) -> None:
    content, hints = GATES[name]
    gate = tmp_path / "gate.toml"
    if content is not None:
        gate.write_text(content, encoding="utf-8")
    arguments = (deployed,) if verb == "validate" else (first, "--out", deployed)
    cli.refuses(BAD_INPUT, verb, *arguments, "--gate", gate, hints=hints, out=deployed)


def report_of(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "reports" / "validation.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("limit", "code", "kind", "hint"),
    [
        ("max_relative_error = -1.0", PARITY, "parity", "of its scale, the limit is -1e+00"),
        ("max_changed_predictions = -1", ACCURACY, "accuracy", "0 predictions changed, the limit"),
    ],
)
def test_a_breach_has_its_code_and_its_report(
    cli: Cli, deployed: Path, reviews: Path, limit: str, code: int, kind: str, hint: str
) -> None:
    gate = deployed.parent / "gate.toml"
    gate.write_text(f"[fp32]\n{limit}\n", encoding="utf-8")
    result = cli("validate", deployed, "--dataset", f"sst2={reviews}", "--gate", gate)
    result.check_refusal(code, ("fp32: ", hint))
    assert "verdict: fail" in result.out
    report = report_of(deployed)
    assert report["verdict"] == report["variants"]["fp32"]["verdict"] == "fail"
    assert {breach["kind"] for breach in report["variants"]["fp32"]["breaches"]} == {kind}
    assert report["variants"]["fp32"]["sha256"] == sha256_of(deployed / MODEL)


def test_a_release_that_fails_does_not_replace_one_that_passed(
    cli: Cli, second: Path, deployed: Path, reviews: Path
) -> None:
    gate = deployed.parent / "gate.toml"
    gate.write_text("[fp32]\nmax_relative_error = -1.0\n", encoding="utf-8")
    before = cli.state(deployed)
    arguments = ("release", second, "--out", deployed, "--force", "--variants", "fp32")
    result = cli(*arguments, "--dataset", f"sst2={reviews}", "--gate", gate)
    result.check_refusal(PARITY, ("fp32: ", "the limit is -1e+00"))
    failed = deployed.with_name("deployed.failed")
    assert str(failed) in result.out
    assert cli.state(deployed) == before
    report = report_of(failed)
    assert report["verdict"] == "fail"
    assert report["source"]["sha256"] == sha256_of(second / "model.safetensors")
    assert cli.strays(deployed) == cli.strays(failed) == []


def test_a_foreign_folder_in_the_place_of_a_failure_is_left_alone(
    cli: Cli, second: Path, deployed: Path
) -> None:
    failed = deployed.with_name("deployed.failed")
    failed.mkdir()
    (failed / "notes").write_text("why it failed", encoding="utf-8")
    arguments = ("release", second, "--out", deployed, "--force")
    hints = ("deployed.failed exists and is not a deployment directory", "left alone")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=failed)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("export",), "Missing argument 'SOURCE'"),
        (("export", "somewhere"), "Missing option '--out'"),
        (("export", "a", "--out", "b", "--fast"), "No such option"),
        (("exprot",), "No such command 'exprot'"),
        (("quantize",), "Missing argument 'DIR'"),
        (("validate", "a", "b"), "unexpected extra argument"),
    ],
)
def test_a_usage_error_has_code_2(cli: Cli, arguments: tuple[str, ...], hint: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert hint in result.err
    assert "Usage: albert-deploy" in result.err
    assert "Traceback" not in result.err
