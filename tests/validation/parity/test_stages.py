"""Errors by stage, against errors that are known because they were planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feeds import rows_of

from albert_deploy.export.graph.file import load, save
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import file_record, read_manifest
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.gate.faults import scale_weight
from albert_deploy.validation.parity.stages import attribute

ROWS = rows_of(5, 9, 17)


@pytest.fixture(scope="module")
def made(make_export: Callable[..., Path]) -> Path:
    out = make_export()
    quantize(out, QuantizeConfig(variants=("fp16", "bf16", "int8")))
    return out


def _stages(directory: Path, *variants: str) -> dict[str, dict[str, dict[str, Any]]]:
    manifest = read_manifest(directory)
    with open_reference(manifest) as source:
        found = attribute(directory, manifest, variants, ROWS, source)
    return {v: {row["stage"]: row for row in rows} for v, rows in found.items()}


def test_each_variant_has_its_stages(made: Path) -> None:
    found = _stages(made, "fp32", "fp16", "int8", "bf16")
    assert list(found["fp32"]) == ["export", "engine"]
    assert list(found["int8"]) == ["export", "quantize", "engine"]
    # ONNX Runtime does not run bfloat16: what OpenVINO adds cannot be told apart.
    assert list(found["bf16"]) == ["export", "quantize"]
    for stages in found.values():
        assert stages["export"]["sqnr_db"] > 100
        assert stages["export"] == found["fp32"]["export"]
    assert 50 < found["fp16"]["quantize"]["sqnr_db"] < 100
    assert 10 < found["int8"]["quantize"]["sqnr_db"] < 50
    assert found["int8"]["engine"]["max_abs"] == 0
    assert found["int8"]["engine"]["sqnr_db"] is None


def test_a_fault_of_the_conversion_is_not_blamed_on_another_stage(
    made: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    before = _stages(copy, "fp16")["fp16"]
    file = VARIANTS["fp16"].file
    model = load(copy / file)
    scale_weight(model)
    save(model, copy / file)
    manifest = read_manifest(copy)
    manifest["files"][file] = file_record(copy / file)
    with open_reference(manifest) as source:
        rows = attribute(copy, manifest, ["fp16"], ROWS, source)["fp16"]
    after = {row["stage"]: row for row in rows}
    assert after["quantize"]["sqnr_db"] < before["quantize"]["sqnr_db"] - 10
    assert after["export"] == before["export"]
    assert after["engine"] == before["engine"]


def test_what_it_refuses(made: Path, tmp_path: Path) -> None:
    manifest = read_manifest(made)
    with open_reference(manifest) as source:
        with pytest.raises(InputError, match="no rows"):
            attribute(made, manifest, ["fp32"], [], source)
        copy = Path(shutil.copytree(made, tmp_path / "copy"))
        (copy / VARIANTS["fp16"].file).write_bytes(b"other")
        with pytest.raises(ContractError, match="fp16"):
            attribute(copy, manifest, ["fp16"], ROWS, source)
