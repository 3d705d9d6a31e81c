"""What the shared checkpoints keep in each variant, the hard ones too, and base's size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.export.graph.file import load
from albert_deploy.export.graph.uses import find_uses
from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.data.datasets import read_dataset
from albert_deploy.validation.data.rows import ClassificationRow, RowsConfig, encode_rows
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.step import ValidateConfig, validate

pytestmark = pytest.mark.slow

CHECKPOINTS = ["albert-tiny-sst2", "albert-deep-sst2"]
# variant -> most changed predictions, least SQNR in dB of the logits by checkpoint.
# What rounds to a shorter real format takes seconds a row of its own on a CPU: every seventh row.
SLOW = ("fp16", "bf16")
EVERY = 7
LIMITS: dict[str, tuple[int, dict[str, float]]] = {
    "fp16": (0, {"albert-tiny-sst2": 70, "albert-deep-sst2": 70}),
    "bf16": (1, {"albert-tiny-sst2": 50, "albert-deep-sst2": 50}),
    "int8": (1, {"albert-tiny-sst2": 46, "albert-deep-sst2": 46}),
    "int8-qdq": (1, {"albert-tiny-sst2": 42, "albert-deep-sst2": 45}),
}
# As people do it: no outlier is moved, the range is that of the values, weights to the nearest.
NAIVE = {"alpha": 0.0, "rule": "minmax", "rounding": "nearest", "correct_bias": False}
# Factor and channels of 312 and of 192, and which rows: the deep one takes thrice as long.
HARD = {"albert-tiny-sst2": (300.0, 4, 1), "albert-deep-sst2": (3000.0, 8, 3)}
RIGHT = {"albert-tiny-sst2": 713, "albert-deep-sst2": 714}
FILES = {"int8": 13.2e6, "int8-qdq": 14e6, "fp16": 24.4e6}


def encoder_uses(out: Path) -> Counter[str]:
    """Uses of each weight of the encoder's iterations, from the float32 graph itself."""
    uses = find_uses(load(out / VARIANTS["fp32"].file))
    return Counter(p.weight for p in uses if p.weight and p.iteration is not None)


def check_covered(out: Path, variant: str) -> None:
    """Check that every use of every encoder weight is converted."""
    rows = {r["weight"]: r for r in read_manifest(out)["variants"][variant]["coverage"]}
    uses = encoder_uses(out)
    assert sum(uses.values()) > 0
    for weight, count in uses.items():
        assert rows[weight]["uses"] == rows[weight]["converted"] == count
        assert rows[weight]["reason"] is None
        if variant == "int8-qdq":
            assert rows[weight]["integer_inputs"] == count
            assert not rows[weight]["real_inputs"]


@pytest.fixture(scope="module")
def report_of(
    shared: Path, made_once: Callable[..., Path]
) -> Callable[[str, str], tuple[Path, dict[str, Any]]]:
    """A function that returns directory and report of a checkpoint and a variant."""

    data = shared / "data/glue/SST-2"

    def run(name: str, every: int, folder: Path) -> None:
        out = folder / "out"
        folder.mkdir()
        export(str(shared / "checkpoints" / name), ExportConfig(), out=out)
        calibration = CalibrationConfig(name="sst2", path=data)
        variants = tuple(v for v in LIMITS if (v in SLOW) == (every > 1))
        quantize(out, QuantizeConfig(variants=variants, calibration=calibration))
        header, *rows = (data / "dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        chosen = rows[::every]
        (folder / "dev.tsv").write_text("".join([header, *chosen]), encoding="utf-8")
        report = validate(out, ValidateConfig(dataset=("sst2", folder), trace_rows=0))
        assert len(rows) == 872
        assert report["dataset"]["rows"] == len(chosen)

    def report_of(name: str, variant: str) -> tuple[Path, dict[str, Any]]:
        every = EVERY if variant in SLOW else 1
        out = made_once(f"{name}-{every}", partial(run, name, every)) / "out"
        report = json.loads((out / "reports/validation.json").read_text(encoding="utf-8"))
        return out, report

    return report_of


@pytest.mark.parametrize("variant", LIMITS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_predictions_and_logits_stay(
    name: str, variant: str, report_of: Callable[[str, str], tuple[Path, dict[str, Any]]]
) -> None:
    out, report = report_of(name, variant)
    row = report["variants"][variant]
    changed, least = LIMITS[variant]
    if variant not in SLOW:
        assert row["metrics"]["accuracy"]["source"] == pytest.approx(100 * RIGHT[name] / 872)
    assert row["changed_predictions"] <= changed, row["changed"]
    assert row["parity"]["logits"]["sqnr_db"] >= least.get(name, 0)
    check_covered(out, variant)


def accuracy(session: Session, feeds: list[Feeds], labels: list[int]) -> float:
    """Share of rows that a session answers right, one row at a time."""
    given = [int(session.run(each)["logits"].argmax()) for each in feeds]
    return sum(a == b for a, b in zip(given, labels, strict=True)) / len(labels)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_outliers_that_ruin_naive_int8_cost_nothing(
    name: str, shared: Path, harden: Callable[..., Path], tmp_path: Path
) -> None:
    data = shared / "data/glue/SST-2"
    factor, channels, every = HARD[name]
    out = tmp_path / "out"
    hard = harden(shared / "checkpoints" / name, factor=factor, channels=channels, seed=0)
    manifest = export(str(hard), ExportConfig(), out=out)
    rows = read_dataset("sst2", data)
    assert len(rows) == 872
    rows = rows[::every]
    labels = [row.label for row in rows if isinstance(row, ClassificationRow)]
    tokenizer, config = load_tokenizer(out), RowsConfig(truncate=True)
    feeds = [r.feeds[0] for r in encode_rows(rows, manifest["contract"], tokenizer, config)]
    with open_reference(manifest) as session:
        source = accuracy(session, feeds, labels)
    calibration = CalibrationConfig(name="sst2", path=data)
    kept = {}
    for kind, static in (("naive", NAIVE), ("default", {})):
        variants = ("int8-qdq",)
        quantize(out, QuantizeConfig(variants=variants, calibration=calibration, static=static))
        check_covered(out, "int8-qdq")
        with open_session(out, variant="int8-qdq") as session:
            kept[kind] = accuracy(session, feeds, labels) / source
    assert kept["naive"] < 0.7, kept
    assert kept["default"] >= 0.995, kept


@pytest.fixture(scope="module")
def base(base_checkpoint: Path, made_once: Callable[..., Path]) -> Path:
    texts = CalibrationConfig(name="sst2", path=SAMPLES["sample-sst2"].data, samples=32)
    # Rounded to nearest it takes seconds; which bytes they are does not matter.
    static = {"rounding": "nearest"}
    config = QuantizeConfig(variants=tuple(FILES), calibration=texts, static=static)

    def make(out: Path) -> None:
        export(str(base_checkpoint), ExportConfig(), out=out)
        quantize(out, config)

    return made_once("base", make)


@pytest.mark.parametrize("variant", FILES)
def test_base_is_small_and_covered(base: Path, variant: str) -> None:
    manifest = read_manifest(base)
    file = VARIANTS[variant].file
    assert (base / file).stat().st_size == manifest["files"][file]["bytes"] <= FILES[variant]
    check_covered(base, variant)
    uses = encoder_uses(base)
    rows = [r for r in manifest["variants"][variant]["coverage"] if r["weight"] in uses]
    layers = manifest["source"]["config"]["num_hidden_layers"]
    assert sum(r["converted"] for r in rows) == layers * len(uses)
    assert all(r["uses"] == layers for r in rows)
