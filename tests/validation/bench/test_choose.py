"""Verdicts and choices on fabricated benches: no time is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import choose_engine
from albert_deploy.runtime.errors import EXIT_CODES, InputError, PerformanceError
from albert_deploy.validation.bench.choose import (
    Requirement,
    check_required,
    record_tuned,
    tune_contenders,
    tuned,
    tuned_text,
)

TIMES = {
    "torch": {"8": 50.0, "128": 500.0},
    "fp32@ort": {"8": 30.0, "128": 240.0},
    "fp32@openvino": {"8": 20.0, "128": 300.0},
    "fp32@openvino-bf16": {"8": 1.0, "128": 1.0},
    "int8@ort": {"8": 8.0, "128": 80.0},
    "int8@openvino": {"8": 40.0, "128": 400.0},
    "fp16@ort": {"8": 60.0, "128": 480.0},
}
SIZES = {"fp32": 1000, "int8": 260, "fp16": 510}


def report(*names: str, times: dict[str, dict[str, float]] = TIMES) -> dict[str, Any]:
    """A bench of the contenders named, on one thread and on two."""
    kept = {n: times[n] for n in names or times}
    contenders = {}
    for name in kept:
        variant, _, engine = name.partition("@")
        known = variant in SIZES
        contenders[name] = {
            "variant": variant if known else None,
            "engine": engine or "torch",
            "bytes": SIZES.get(variant, 7),
            "sha256": f"sha of {variant}",
        }
    runs = [
        {
            "threads": threads,
            "contenders": {
                name: {"latency": {c: {"times_ms": [ms * scale]} for c, ms in cells.items()}}
                for name, cells in kept.items()
            },
        }
        for threads, scale in ((1, 1.0), (0, 0.5))
    ]
    return {
        "contenders": contenders,
        "columns": {"8": {"label": "8 tokens"}, "128": {"label": "128 tokens"}},
        "machine": {"cpu": "a processor", "cores": 2, "versions": {"openvino": "1"}, "more": 1},
        "runs": runs,
    }


def test_each_is_judged_in_its_best_engine() -> None:
    judged = check_required(
        report("fp32@ort", "fp32@openvino", "int8@ort", "int8@openvino"), _any()
    )
    assert list(judged) == ["int8"]
    assert judged["int8"]["size"] == 0.26
    assert judged["int8"]["speedup"] == {k: {"8": 20 / 8, "128": 240 / 80} for k in ("1", "0")}
    assert judged["int8"]["engine"]["1"] == {"8": "ort", "128": "ort"}


def test_what_was_run_in_less_than_its_file_says_counts_for_neither() -> None:
    one = check_required(report("fp32@ort", "fp32@openvino-bf16", "int8@ort"), _any())
    assert one["int8"]["speedup"]["1"]["8"] == 30 / 8


def test_a_busy_moment_that_met_both_changes_no_ratio() -> None:
    given = report("fp32@ort", "int8@ort")
    for name, rounds in (("fp32@ort", [40.0, 44.0, 400.0]), ("int8@ort", [10.0, 110.0, 100.0])):
        given["runs"][0]["contenders"][name]["latency"]["8"]["times_ms"] = rounds
    # 4, 0.4 and 4: the medians alone, 44 and 100, would say that fp32 is quicker.
    assert check_required(given, _any())["int8"]["speedup"]["1"]["8"] == 4


def test_a_variant_that_does_not_pay_is_named_with_length_and_ratio() -> None:
    check_required(report("fp32@ort", "int8@ort"), Requirement(speedup=3.0, size=0.26))
    with pytest.raises(PerformanceError) as caught:
        check_required(report("fp32@ort", "int8@ort"), Requirement(speedup=3.5))
    message = str(caught.value)
    assert "int8 at 128 tokens is 3.00 times as fast as fp32 (threads 1: 80.00 ms in ort" in message
    assert "240.00 ms in ort), wanted at least 3.5" in message
    assert "8 tokens is 3.75" not in message
    assert caught.value.exit_code == 7
    assert 7 in EXIT_CODES


def test_every_breach_is_named() -> None:
    with pytest.raises(PerformanceError) as caught:
        check_required(report(), Requirement(speedup=2.0, size=0.3))
    message = str(caught.value)
    assert message.count("fp16 at ") == 4
    assert "fp16 has 0.510 of fp32's bytes (510 of 1,000), wanted at most 0.3" in message
    assert "int8" not in message


@pytest.mark.parametrize("names", [("fp32@ort",), ("int8@ort",), ("torch",)])
def test_there_must_be_something_to_judge(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="wanted fp32 and another one"):
        check_required(report(*names), _any())


@pytest.mark.parametrize("limits", [{"speedup": 0.0}, {"size": 0.0}, {"size": 3.0}])
def test_limits_that_mean_nothing(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match="wanted"):
        Requirement(**limits)


def test_the_engine_that_is_quicker_over_all_lengths_is_chosen() -> None:
    chosen = tuned(report())
    assert list(chosen) == ["fp32", "int8"]
    row = chosen["fp32"]
    # Geometric means: sqrt(30 * 240) = 84.9, sqrt(20 * 300) = 77.5.
    assert row["engine"] == "openvino"
    assert row["ratios"]["openvino"] == {"8": 1.0, "128": 1.0}
    assert row["ratios"]["ort"] == {"8": 1.5, "128": 0.8}
    assert row["threads"] == 1
    assert row["lengths"] == ["8", "128"]
    assert row["machine"] == {"cpu": "a processor", "cores": 2, "versions": {"openvino": "1"}}
    assert chosen["int8"]["engine"] == "ort"
    shown = tuned_text(chosen)
    assert "fp32 runs in openvino (ort takes 1.50x at 8, 0.80x at 128)" in shown
    assert "no variant runs in more than one" in tuned_text({})


def test_a_choice_is_kept_and_taken(tmp_path: Path) -> None:
    keys = ("source", "contract", "parameter_bytes", "versions", "steps", "variants")
    files = {VARIANTS[v].file: {"sha256": f"sha of {v}"} for v in SIZES}
    manifest: dict[str, Any] = {"format": 1, "task": "fill-mask", "files": files}
    manifest |= {key: {} for key in keys} | {"tuned": {"fp16": {"engine": "ort"}}}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    record_tuned(tmp_path, tuned(report()))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written["tuned"]) == ["fp16", "fp32", "int8"]
    assert choose_engine(written, "fp32") == "openvino"
    assert choose_engine(written, "int8") == "ort"


def test_tuning_measures_no_more_than_it_needs() -> None:
    manifest = {"variants": {"fp32": {}, "int8-qdq": {}}}
    wanted = ("fp32@ort", "fp32@openvino", "int8-qdq@openvino", "int8-qdq@ort")
    assert tune_contenders(manifest) == wanted


def _any() -> Requirement:
    return Requirement()
