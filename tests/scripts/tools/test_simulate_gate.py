"""The simulation of the gate: seeded, plausible, and what the document shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.scripts.tools.simulate_gate import (
    PICTURE,
    ROWS,
    VARIANTS,
    SimulateConfig,
    planted_table,
    simulate,
    table,
    write_document,
)

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "gate.md"
CONFIG = SimulateConfig(trials=300)


def test_shares_add_up_and_a_seed_gives_the_same() -> None:
    cell = simulate("int8", 872, 1.0, 2.0, CONFIG)
    assert sum(cell.values()) == pytest.approx(1.0)
    assert cell == simulate("int8", 872, 1.0, 2.0, CONFIG)
    assert cell != simulate("int8", 872, 1.0, 2.0, SimulateConfig(trials=300, seed=1))


def test_more_rows_and_larger_drops_are_told_apart_better() -> None:
    good = [simulate("int8", rows, 0.0, 2.0, CONFIG)["pass"] for rows in ROWS]
    bad = [simulate("int8", rows, 2.0, 2.0, CONFIG)["pass"] for rows in ROWS]
    assert good == sorted(good)
    assert good[-1] == 1.0
    # Of drops as large as the margin, at most 2.5% pass, and the error of 300 trials.
    assert max(bad) < 0.06
    assert simulate("fp16", 10570, 2.0, 2.0, CONFIG)["fail"] == 1.0


def test_the_document_has_the_tables_of_today() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    config = SimulateConfig()
    assert planted_table(config) in text
    stated = re.search(r"([\d,]+) validations per cell, seed (\d+)", text)
    assert stated is not None
    assert (int(stated[1].replace(",", "")), int(stated[2])) == (config.trials, config.seed)
    assert f"]({PICTURE})" in text
    assert (DOCUMENT.parent / PICTURE).read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.medium
def test_the_document_has_the_rates_of_today() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for variant in VARIANTS:
        assert table(variant, SimulateConfig()) in text


def test_a_document_without_a_place_for_tables_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.md"
    with pytest.raises(InputError, match="cannot read"):
        write_document(path, CONFIG)
    path.write_text("no place\n")
    with pytest.raises(InputError, match="has no lines <!-- simulated rates -->"):
        write_document(path, CONFIG)
    assert list(tmp_path.iterdir()) == [path]


def test_a_config_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="got trials 0"):
        SimulateConfig(trials=0)
