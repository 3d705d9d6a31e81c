"""The command that measures how far sound fp32 files are from float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from albert_deploy.scripts.tools.measure_rounding import PLACES, measure, table_row


def test_a_sound_file_is_as_near_to_float64_as_its_source(
    make_export: Callable[..., Path],
) -> None:
    found = measure(make_export(), longest=8)
    assert tuple(found) == PLACES
    for outputs in found.values():
        assert all(0 < rounding.ratio < 4 for rounding in outputs.values())
    model, files, own, *ratios, changed, refused = table_row("tiny", [found, found])
    assert (model, files, changed, refused) == ("tiny", "2", "0", "0")
    assert 0 < float(own) < 1e-5
    assert ratios[0] == ratios[1]
