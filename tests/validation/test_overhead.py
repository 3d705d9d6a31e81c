"""The share of an evaluation's time that is spent inside the engine is measured."""

from __future__ import annotations

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.overhead import bench_harness, harness_text


@pytest.mark.medium
def test_the_model_takes_the_time_and_not_the_harness() -> None:
    found = bench_harness(rows=6)
    assert found["rows"] == 6
    assert 0 < found["engine_seconds"] < found["total_seconds"]
    assert found["share"] == pytest.approx(found["engine_seconds"] / found["total_seconds"])
    assert found["share"] > 0.9
    assert f"{found['share']:.1%}" in harness_text(found)


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        bench_harness(rows=0)
