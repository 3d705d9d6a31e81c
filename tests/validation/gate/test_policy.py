"""A policy file is read strictly, and what is set most closely holds."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.table import DATASETS
from albert_deploy.validation.gate.baseline import read_baseline
from albert_deploy.validation.gate.policy import (
    DEFAULT_LIMITS,
    METRIC_KEYS,
    PARTS,
    VARIANT_KEYS,
    Limits,
    Policy,
    Rules,
    Statistics,
    read_policy,
)


def _read(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "gate.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def test_the_defaults_name_every_variant() -> None:
    assert set(DEFAULT_LIMITS) == set(VARIANTS)
    policy = read_policy(None)
    assert policy == Policy()
    for variant in VARIANTS:
        rules = Rules(policy=policy, variant=variant)
        assert rules.limits.max_regression == 1.0
        assert rules.paired_config("accuracy").confidence == 0.95
        # Every variant but fp32, which is held to its predictions, states a margin.
        assert (rules.metric("accuracy").margin is None) == (variant == "fp32")


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    policy = _read(
        tmp_path,
        """
        [statistics]
        confidence = 0.9
        resamples = 500
        seed = 3
        undecided = "pass"
        [baseline]
        max_regression = 0.25
        [int8]
        margin = 1
        min_sqnr_db = "off"
        max_bytes = 12_000_000
        [int8.text-classification]
        margin = 1.5
        [int8.text-classification.accuracy]
        min_score = 80
        [int8.sst2.accuracy]
        margin = 0.5
        confidence = 0.99
        """,
    )
    assert policy.statistics == Statistics(confidence=0.9, resamples=500, seed=3, undecided="pass")
    rules = Rules(policy=policy, variant="int8", task="text-classification", dataset="sst2")
    assert rules.limits == Limits(
        min_score_share=0.99, margin=1, max_bytes=12_000_000, max_regression=0.25
    )
    accuracy = rules.metric("accuracy")
    assert (accuracy.margin, accuracy.min_score, accuracy.min_score_share) == (0.5, 80, 0.99)
    config = rules.paired_config("accuracy")
    assert (config.confidence, config.resamples, config.seed) == (0.99, 500, 3)
    assert rules.metric("f1").margin == 1.5
    other = Rules(policy=policy, variant="int8", task="text-classification", dataset="mrpc")
    assert other.metric("accuracy").margin == 1.5
    assert other.metric("accuracy").min_score == 80
    assert Rules(policy=policy, variant="int8").metric("accuracy").margin == 1
    fp16 = Rules(policy=policy, variant="fp16", dataset="sst2").metric("accuracy")
    assert fp16.margin == DEFAULT_LIMITS["fp16"].margin
    record = json.loads(json.dumps(policy.to_json()))
    assert record["overrides"]["int8.sst2.accuracy"] == {"margin": 0.5, "confidence": 0.99}
    assert record["overrides"]["int8"]["min_sqnr_db"] is None
    assert record["statistics"]["undecided"] == "pass"


def test_parts_are_judged_only_where_a_file_says_so(tmp_path: Path) -> None:
    known = {metric for data in DATASETS.values() for metric in data.metrics}
    assert set(PARTS) < known
    policy = _read(tmp_path, "[int8]\nmax_drop = 1\n[int8.squad_v2.NoAns_f1]\nmargin = 3\n")
    rules = Rules(policy=policy, variant="int8", dataset="squad_v2")
    assert rules.metric("f1").max_drop == 1
    assert rules.metric("HasAns_f1").max_drop is rules.metric("HasAns_f1").margin is None
    assert rules.metric("NoAns_f1").margin == 3
    perplexity = rules.metric("pseudo_perplexity")
    assert (perplexity.margin, perplexity.relative_margin) == (None, 0.04)
    matthews = [Rules(policy=Policy(), variant=v).metric("matthews").margin for v in VARIANTS]
    assert matthews[0] is None
    assert all(margin is not None and margin > 2 for margin in matthews[1:])


MISTAKES = {
    "a key of a variant": (
        "[int8]\nmax_dorp = 1",
        "unknown key 'max_dorp'; use confidence, margin, max_bytes",
    ),
    "a key of a metric": (
        "[int8.sst2.accuracy]\nmin_sqnr_db = 1",
        r"unknown key 'min_sqnr_db'; use .*margin.* in \[int8.sst2.accuracy\]",
    ),
    "a task": ("[int8.sst3]\nmargin = 1", "int8.sst3 is no task or data set; use one of: .*sst2"),
    "a metric": (
        "[int8.sst2.f1]\nmargin = 1",
        "sst2.f1 is no metric of sst2; use one of: accuracy",
    ),
    "a metric of nothing": ("[int8.feature-extraction.f1]\nmargin = 1", "none, no data set scores"),
    "a deeper table": ("[int8.sst2.accuracy.x]\nmargin = 1", "unknown key 'x'; use"),
    "a variant": ("[int7]\nmargin = 1", "'int7' is no variant; use fp32.*or a table statistics"),
    "infinity": ("[int8]\nmargin = inf", "int8.margin is inf, wanted a number or 'off'"),
    "NaN": ("[int8.sst2]\nmargin = nan", "int8.sst2.margin is nan, wanted a number"),
    "a list": ("[int8]\nmargin = [1]", r"int8.margin is \[1\], wanted a number"),
    "a date": ("[int8]\nmargin = 2020-01-01", "wanted a number"),
    "a margin below zero": ("[int8]\nmargin = -1", "int8.margin is -1, wanted 0 or more"),
    "percent for a share": ("[int8]\nmin_agreement = 99", "is 99, wanted a share from 0 to 1"),
    "a confidence of one": ("[int8]\nconfidence = 1", "int8.confidence is 1, wanted 0.5 to"),
    "statistics": ("statistics = 3", r"'statistics' is 3, wanted a table \[statistics\]"),
    "a key of statistics": ("[statistics]\nsamples = 3", "'samples'; use confidence, resamples"),
    "few resamples": ("[statistics]\nresamples = 3", "statistics.resamples is 3, wanted 200"),
    "half a resample": ("[statistics]\nresamples = 300.5", "300.5, wanted a whole number"),
    "a boolean seed": ("[statistics]\nseed = true", "seed is True, wanted a whole number"),
    "a NaN confidence": ("[statistics]\nconfidence = nan", "statistics.confidence is nan, wanted"),
    "a third way": (
        '[statistics]\nundecided = "maybe"',
        "statistics.undecided is 'maybe', wanted fail or pass",
    ),
    "a key of the baseline": ("[baseline]\nfile = 'x'", "unknown key 'file'; use max_regression"),
    "no TOML": ("[int8\n", "cannot read the gate"),
    "a key twice": ("[int8]\nmargin = 1\nmargin = 2\n", "cannot read the gate"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_file(name: str, tmp_path: Path) -> None:
    text, hint = MISTAKES[name]
    with pytest.raises(InputError, match=hint) as raised:
        _read(tmp_path, text)
    assert str(tmp_path / "gate.toml") in str(raised.value)


def test_a_policy_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the gate"):
        read_policy(tmp_path / "none.toml")
    path = tmp_path / "gate.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read the gate"):
        read_policy(path)


places = st.sampled_from(["", *TASKS, *DATASETS])


@given(
    variant=st.sampled_from(list(VARIANTS)),
    place=places,
    key=st.sampled_from(VARIANT_KEYS),
    value=st.one_of(st.floats(), st.integers(-(10**6), 10**6), st.booleans(), st.text(max_size=5)),
)
def test_a_value_is_kept_as_it_is_or_refused(
    tmp_path_factory: pytest.TempPathFactory, variant: str, place: str, key: str, value: Any
) -> None:
    written = json.dumps(value) if isinstance(value, (bool, str)) else repr(value)
    header = f"[{variant}.{place}]" if place else f"[{variant}]"
    path = tmp_path_factory.mktemp("policy")
    try:
        policy = _read(path, f"{header}\n{key} = {written}\n")
    except InputError:
        return  # What is refused is tested above; here what is accepted.
    assert not isinstance(value, bool)
    assert value == "off" or math.isfinite(value)
    assert not place or key in METRIC_KEYS
    rules = Rules(policy=policy, variant=variant, dataset=place or None)
    found = getattr(rules.metric("other") if place else rules.limits, key)
    assert found == (None if value == "off" else value)
    # No other variant and no other place has changed.
    for name in set(VARIANTS) - {variant}:
        assert (
            Rules(policy=policy, variant=name).limits == Rules(policy=Policy(), variant=name).limits
        )


@given(text=st.text(max_size=40))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("policy")
    written = text.encode("utf-8", "replace").decode()
    # Nothing but a policy or the error that this project raises on purpose.
    with contextlib.suppress(InputError):
        assert isinstance(_read(folder, written), Policy)


def _baseline(tmp_path: Path, **changes: Any) -> Path:
    report = {
        "schema": "albert-deploy/validation/2",
        "verdict": "pass",
        "task": "text-classification",
        "time": "2026-01-02T03:04:05+00:00",
        "source": {"path": "x", "sha256": "ab"},
        "dataset": {"name": "sst2", "rows": 872},
        "variants": {"int8": {"metrics": {"accuracy": {"source": 81.0, "variant": 80.5}}}},
    }
    path = tmp_path / "validation.json"
    path.write_text(json.dumps(report | changes), encoding="utf-8")
    return path


def test_a_baseline_is_read(tmp_path: Path) -> None:
    path = _baseline(tmp_path)
    baseline = read_baseline(path, task="text-classification", dataset="sst2", rows=872)
    assert baseline.scores == {"int8": {"accuracy": 80.5}}
    assert baseline.to_json() == {
        "file": str(path),
        "time": "2026-01-02T03:04:05+00:00",
        "source": "ab",
        "scores": {"int8": {"accuracy": 80.5}},
    }


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"task": "fill-mask"}, "is of fill-mask on sst2 .872 rows., this release is of text-c"),
        ({"dataset": {"name": "rte", "rows": 872}}, "on rte .*this release is of .* on sst2"),
        ({"dataset": {"name": None, "rows": 872}}, "on texts without labels"),
        ({"dataset": {"name": "sst2", "rows": 90}}, "90 rows.*same data"),
        ({"variants": []}, "is no report of a validation: it lacks variants"),
        ({"schema": None}, "its schema is None, wanted 'albert-deploy/validation/2'"),
        ({"variants": {"int8": {"metrics": {"f1": {"variant": None}}}}}, "is no report"),
        ({"variants": {"int8": {"metrics": {"f1": {"variant": math.nan}}}}}, "f1 of int8 is nan"),
        ({"source": None}, "is no report of a validation"),
    ],
)
def test_a_baseline_of_something_else_is_refused(
    changes: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    path = _baseline(tmp_path, **changes)
    with pytest.raises(InputError, match=hint) as raised:
        read_baseline(path, task="text-classification", dataset="sst2", rows=872)
    assert str(path) in str(raised.value)


def test_a_baseline_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    for content in (None, "{", "[1]"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(
            InputError, match=r"give reports/validation\.json of an earlier release"
        ):
            read_baseline(path, task="text-classification", dataset="sst2")
