"""A folder that is no whole deployment directory is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from folders import flip

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

BAD_INPUT, CONTRACT = InputError.exit_code, ContractError.exit_code
MODEL = VARIANTS["fp32"].file


@pytest.mark.parametrize("verb", ["quantize", "validate"])
def test_a_folder_without_a_manifest_is_no_deployment_directory(
    cli: Cli, tmp_path: Path, verb: str
) -> None:
    hints = ("has no manifest.json; make one with: albert-deploy export",)
    cli.refuses(BAD_INPUT, verb, tmp_path / "none", hints=hints, out=tmp_path / "none")


@pytest.mark.parametrize("verb", ["quantize", "validate"])
@pytest.mark.parametrize("manifest", ["{", "[]", '{"format": 1}', '{"format": 99}'])
def test_an_unreadable_manifest_is_bad_input(
    cli: Cli, deployed: Path, verb: str, manifest: str
) -> None:
    (deployed / "manifest.json").write_text(manifest, encoding="utf-8")
    hints = ("manifest.json", "export the checkpoint again")
    cli.refuses(BAD_INPUT, verb, deployed, hints=hints, out=deployed)


CHANGES = [flip, Path.unlink, lambda file: file.write_bytes(b"")]
CHANGED = (MODEL, "is not the file that the manifest recorded", "export or quantize again")


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_made_from_a_model_changed_after_export(
    cli: Cli, deployed: Path, change: Callable[[Path], object]
) -> None:
    change(deployed / MODEL)
    cli.refuses(CONTRACT, "quantize", deployed, hints=CHANGED, out=deployed)


@pytest.mark.parametrize("change", CHANGES)
def test_validation_reports_a_model_changed_after_export(
    cli: Cli, deployed: Path, change: Callable[[Path], object]
) -> None:
    change(deployed / MODEL)
    before = cli.state(deployed)
    cli("validate", deployed).check_refusal(CONTRACT, ("fp32: ", *CHANGED))
    report = json.loads((deployed / "reports/validation.json").read_text(encoding="utf-8"))
    fp32 = report["variants"]["fp32"]
    assert report["verdict"] == fp32["verdict"] == "fail"
    assert [check["kind"] for check in fp32["checks"]] == ["contract"]
    assert all(hint in fp32["failure"] for hint in CHANGED)
    # Nothing is mended: the manifest still has the bytes that were exported.
    after = cli.state(deployed)
    assert before is not None
    assert after is not None
    changed = {name for name in after if before.get(name) != after[name]}
    assert {name for name in changed if not name.startswith("reports/")} == {"manifest.json"}
    cli("validate", deployed).check_refusal(CONTRACT, ("fp32: ", *CHANGED))
    assert cli.strays(deployed) == []


def test_validation_reads_no_changed_tokenizer(cli: Cli, deployed: Path) -> None:
    flip(deployed / "tokenizer.json")
    hints = ("tokenizer.json is missing or is not the file",)
    cli.refuses(CONTRACT, "validate", deployed, hints=hints, out=deployed)


def test_validation_needs_the_right_source(cli: Cli, second: Path, deployed: Path) -> None:
    hints = ("has weights", "the directory was made from", "pass --source with the right one")
    cli.refuses(BAD_INPUT, "validate", deployed, "--source", second, hints=hints, out=deployed)


def test_validation_needs_a_source_at_all(cli: Cli, deployed: Path, tmp_path: Path) -> None:
    hints = ("the fp32 source is needed to validate", "see --source")
    arguments = ("validate", deployed, "--source", tmp_path / "none")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=deployed)


@pytest.mark.parametrize("variants", ["int7", "fp32,int7", "INT8"])
def test_an_unknown_variant_lists_the_known_ones(cli: Cli, deployed: Path, variants: str) -> None:
    name = variants.rsplit(",", maxsplit=1)[-1]
    hints = (f"unknown variant {name!r}; use one of", *VARIANTS)
    arguments = ("quantize", deployed, "--variants", variants)
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=deployed)


def test_no_variant_at_all_lists_the_known_ones(cli: Cli, deployed: Path) -> None:
    hints = ("--variants names none; use some of", *VARIANTS)
    cli.refuses(BAD_INPUT, "quantize", deployed, "--variants", ",", hints=hints, out=deployed)
