"""Every limit of the gate can fail, and the verdict becomes the right error."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import (
    AccuracyError,
    AlbertDeployError,
    ContractError,
    InputError,
    MachineError,
    ParityError,
    PerformanceError,
    UndecidedError,
)
from albert_deploy.validation.gate.baseline import Baseline
from albert_deploy.validation.gate.checks import Check
from albert_deploy.validation.gate.gate import (
    KINDS,
    compare_scores,
    judge,
    metric_record,
    raise_for_verdict,
    verdict_of,
)
from albert_deploy.validation.gate.policy import DEFAULT_LIMITS, Limits, Policy, Rules, read_policy
from albert_deploy.validation.parity.difference import Difference
from albert_deploy.validation.scores.measured import from_values
from albert_deploy.validation.scores.paired import Paired, compare_counts


def _difference(noise: float) -> Difference:
    difference = Difference("argmax")
    source = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)
    difference.add(source, source + np.float32(noise))
    return difference


def _rules(limits: Limits) -> Rules:
    """These limits and no other, for a variant without defaults for single metrics."""
    overrides = {("fp32", None, None): dataclasses.asdict(limits)}
    return Rules(policy=Policy(overrides=overrides), variant="fp32")


def _judge(limits: Limits, noise: float = 0.0, drop: float = 0.0, changed: int = 0) -> list[str]:
    differences = {"rows": {"logits": _difference(0)}, "grid": {"logits": _difference(noise)}}
    same = _accuracy(0, 0, 500, 400)
    scores = {"accuracy": dataclasses.replace(same, variant=80.0 - drop, difference=-drop)}
    found = judge(_rules(limits), differences=differences, scores=scores, changed=changed, rows=500)
    return [check.kind for check in found if check.verdict == "fail"]


@pytest.mark.parametrize(
    ("limits", "good", "bad", "kind"),
    [
        (Limits(max_relative_error=1e-4), {"noise": 5e-5}, {"noise": 2e-4}, "parity"),
        (Limits(min_sqnr_db=40.0), {"noise": 1e-3}, {"noise": 0.1}, "parity"),
        (Limits(max_changed_predictions=1), {"changed": 1}, {"changed": 2}, "accuracy"),
        (Limits(min_agreement=0.998), {"changed": 1}, {"changed": 2}, "accuracy"),
        (Limits(max_drop=0.1), {"drop": 0.1}, {"drop": 0.11}, "accuracy"),
        (Limits(max_drop=0.1), {"drop": -5.0}, {"drop": 0.2}, "accuracy"),
        (Limits(min_score_share=0.99), {"drop": 0.8}, {"drop": 0.81}, "accuracy"),
        (Limits(max_relative_drop=0.01), {"drop": 0.8}, {"drop": 0.81}, "accuracy"),
        (Limits(min_score=79.0), {"drop": 1.0}, {"drop": 1.01}, "accuracy"),
        (Limits(), {"noise": 0.1}, {"noise": float("nan")}, "parity"),
    ],
)
def test_each_limit(
    limits: Limits, good: dict[str, float], bad: dict[str, float], kind: str
) -> None:
    assert _judge(limits, **good) == []  # type: ignore[arg-type]
    assert _judge(limits, **bad) == [kind]  # type: ignore[arg-type]


def _accuracy(better: int, worse: int, rows: int, right: int) -> Paired:
    return compare_counts(
        "accuracy", better=better, worse=worse, right=right, rows=rows, confidence=0.95
    )


def _margin(margin: float, paired: Paired) -> Check:
    (check,) = judge(_rules(Limits(margin=margin)), differences={}, scores={"accuracy": paired})
    return check


def test_the_margin_has_three_verdicts() -> None:
    paired = _accuracy(3, 12, 872, 713)
    assert (round(paired.low, 2), round(paired.high, 2)) == (-2.09, -0.19)
    passed, undecided, failed = (_margin(m, paired) for m in (2.1, 1.5, 0.1))
    assert (passed.verdict, undecided.verdict, failed.verdict) == ("pass", "undecided", "fail")
    assert passed.message == (
        "accuracy dropped 1.032 points [-2.09, -0.19] at 0.95 confidence over 872 rows; "
        "a loss of 2.1 points is ruled out"
    )
    assert "can be neither ruled out nor shown; about " in undecided.message
    assert "0.1 points or more is certain at this confidence" in failed.message
    assert (undecided.value, undecided.limit) == (paired.low, -1.5)
    beyond = _margin(1.0, paired)
    assert beyond.verdict == "undecided"
    assert "more rows will not pass what is measured" in beyond.message


def test_a_margin_of_a_hundred_points_asks_nothing() -> None:
    assert _margin(100.0, _accuracy(0, 4, 4, 4)).verdict == "pass"
    assert _margin(2.0, _accuracy(0, 0, 4, 4)).verdict == "undecided"


@pytest.mark.parametrize(("better", "worse"), [(0, 9), (3, 12), (10, 19)])
@pytest.mark.parametrize("margin", [0.5, 0.55, 2.0, 2.5])
def test_a_planted_drop_has_the_verdict_of_the_statistics(
    better: int, worse: int, margin: float
) -> None:
    """A drop of 9 of 872 rows. The statistics, independently: the probability of so few, and of
    so many, net losses if the true loss were the margin, over all shares of changes."""
    rows = 872
    paired = _accuracy(better, worse, rows, 713)
    verdict = _margin(margin, paired).verdict
    lost = worse - better

    def tails(changes: float) -> tuple[float, float]:
        """P(net loss <= lost) and P(net loss >= lost) under a loss of exactly the margin."""
        up, down = (changes - margin / 100) / 2, (changes + margin / 100) / 2
        gains = np.arange(0, 80)
        weight = stats.binom.pmf(gains, rows, up)
        # Given the rows that got better, the others get worse independently.
        share = down / (1 - up)
        few = stats.binom.cdf(gains + lost, rows - gains, share)
        many = stats.binom.sf(gains + lost - 1, rows - gains, share)
        return float(weight @ few), float(weight @ many)

    # The share of changes that fits best what was seen, with the loss held at the margin.
    shares = np.linspace(margin / 100, 0.1, 4000)[1:]
    likelihood = [
        stats.multinomial.logpmf(
            [better, worse, rows - better - worse],
            rows,
            [(s - margin / 100) / 2, (s + margin / 100) / 2, 1 - s],
        )
        for s in shares
    ]
    few, many = tails(float(shares[int(np.argmax(likelihood))]))
    # Ruled out: so small a loss would be a surprise. The interval is of two sides, 2.5% each;
    # between 1.5% and 4% the discrete and the asymptotic answer may differ.
    if few < 0.015:
        assert verdict == "pass"
    elif many < 0.015:
        assert verdict == "fail"
    elif min(few, many) > 0.04:
        assert verdict == "undecided"
    expected = {(0, 9, 2.0): "pass", (0, 9, 0.5): "fail", (10, 19, 2.0): "undecided"}
    if (better, worse, margin) in expected:
        assert verdict == expected[better, worse, margin]


def test_a_planted_drop_of_one_point_does_not_ship() -> None:
    """As shipped, 9 of 872 more wrong answers fail in every variant, by the limits as measured."""
    source = np.full(872, 100.0)
    source[713:] = 0.0
    variant = source.copy()
    variant[:12] = 0.0
    variant[-3:] = 100.0
    scores = {"accuracy": from_values("accuracy", source)}
    changed = {"accuracy": from_values("accuracy", variant)}
    for name in VARIANTS:
        rules = Rules(policy=Policy(), variant=name)
        paired = compare_scores(rules, scores, changed)
        found = judge(rules, differences={}, scores=paired, changed=15, rows=872)
        assert verdict_of(found) == "fail"
        report = {"verdict": "fail", "variants": {name: {"checks": [c.to_json() for c in found]}}}
        with pytest.raises(AccuracyError, match=name):
            raise_for_verdict(report)


@pytest.mark.parametrize(
    ("variant", "rows", "right", "better", "worse"),
    [
        ("fp32", 872, 713, 0, 0),
        ("fp32", 872, 713, 0, 1),
        ("fp16", 872, 713, 0, 0),
        ("fp16", 872, 713, 0, 1),
        ("fp16", 277, 190, 0, 0),
        ("int8", 872, 713, 0, 1),
        ("int8", 872, 714, 2, 3),
        ("int8", 800, 752, 0, 1),
        ("int8", 600, 484, 7, 4),
        ("int8", 600, 484, 5, 6),
    ],
)
def test_what_good_variants_do_passes(
    variant: str, rows: int, right: int, better: int, worse: int
) -> None:
    """What the shipped samples and trained checkpoints were seen to do, and a little worse."""
    rules = Rules(policy=Policy(), variant=variant)
    scores = {"accuracy": _accuracy(better, worse, rows, right)}
    found = judge(rules, differences={}, scores=scores, changed=better + worse, rows=rows)
    assert verdict_of(found) == "pass", [check.message for check in found]


def test_every_check_is_returned_with_its_kind() -> None:
    policy = Policy(
        overrides={
            ("int8", None, None): {"max_latency_ms": 5.0, "max_bytes": 100, "min_agreement": 0.9}
        }
    )
    rules = Rules(policy=policy, variant="int8", task="text-classification", dataset="sst2")
    metamorphic = {
        "check": "padding",
        "output": "logits",
        "error": 1e-6,
        "tolerance": 1e-4,
        "verdict": "pass",
    }
    baseline = Baseline(
        file="x", time=None, source=None, scores={"int8": {"accuracy": 100 * 714 / 872}}
    )
    found = judge(
        rules,
        differences={"rows": {"logits": _difference(1e-3)}},
        changed=1,
        rows=872,
        scores={"accuracy": _accuracy(0, 1, 872, 713)},
        metamorphic=[metamorphic],
        latency_ms=4.0,
        size_bytes=99,
        baseline=baseline,
    )
    assert [(check.kind, check.name) for check in found] == [
        ("parity", "logits on rows, finite"),
        ("parity", "logits on rows, SQNR"),
        ("accuracy", "agreement"),
        ("accuracy", "accuracy, share of the source"),
        ("accuracy", "accuracy, margin"),
        ("regression", "accuracy against the baseline"),
        ("metamorphic", "padding, logits"),
        ("performance", "latency"),
        ("performance", "size"),
    ]
    assert {check.kind for check in found} <= set(KINDS)
    assert verdict_of(found) == "pass"
    for check in found:
        assert check.message
        assert json.loads(json.dumps(check.to_json(), allow_nan=False))["verdict"] == "pass"
    bad = judge(rules, differences={}, latency_ms=6.0, size_bytes=101)
    assert [check.verdict for check in bad] == ["fail", "fail"]
    assert "latency is 6 ms, the limit is 5.0 ms" in bad[0].message
    unknown = judge(rules, differences={})
    assert [check.verdict for check in unknown] == ["undecided", "undecided"]
    assert "latency was not measured" in unknown[0].message


def test_a_regression_against_the_baseline() -> None:
    rules = Rules(policy=Policy(max_regression=0.5), variant="int8")
    scores = {"accuracy": _accuracy(0, 0, 872, 713)}

    def check(**earlier: dict[str, float]) -> Check:
        baseline = Baseline(file="x", time=None, source=None, scores=earlier)
        found = judge(rules, differences={}, scores=scores, baseline=baseline)
        return next(c for c in found if c.kind == "regression")

    assert check(int8={"accuracy": 82.26}).verdict == "pass"
    failed = check(int8={"accuracy": 82.27})
    assert failed.verdict == "fail"
    assert failed.message.startswith("accuracy dropped 0.504 points from the baseline's 82.270")
    assert "has no accuracy of this variant" in check(fp16={"accuracy": 99.0}).message
    free = Rules(policy=Policy(max_regression=None), variant="int8")
    baseline = Baseline(file="x", time=None, source=None, scores={"int8": {"accuracy": 99.0}})
    found = judge(free, differences={}, scores=scores, baseline=baseline)
    assert verdict_of(found) == "pass"


def _perplexity(source: float, variant: float) -> Paired:
    difference = variant - source
    return Paired(
        name="pseudo_perplexity",
        rows=500,
        source=source,
        variant=variant,
        difference=difference,
        low=difference - 0.1,
        high=difference + 0.1,
        variant_low=variant - 1,
        variant_high=variant + 1,
        confidence=0.95,
        unseen=0.01,
        higher_is_better=False,
        method="bca",
        test=None,
    )


@pytest.mark.parametrize(
    ("source", "variant", "verdict"),
    [(10, 10.1, "pass"), (10, 5, "pass"), (10, 10.21, "fail"), (4, 4.07, "undecided")],
)
def test_less_perplexity_is_better(source: float, variant: float, verdict: str) -> None:
    rules = Rules(policy=Policy(), variant="int8")
    found = judge(rules, differences={}, scores={"pseudo_perplexity": _perplexity(source, variant)})
    assert verdict_of(found) == verdict, [check.message for check in found]
    rules = Rules(
        policy=Policy(overrides={("int8", "mlm", "pseudo_perplexity"): {"min_score": 12.0}}),
        variant="int8",
        dataset="mlm",
    )
    found = judge(rules, differences={}, scores={"pseudo_perplexity": _perplexity(12.5, 12.4)})
    assert [c.message for c in found if c.verdict == "fail"] == [
        "pseudo_perplexity is 12.400, the largest allowed is 12.0"
    ]


def test_the_record_of_a_metric() -> None:
    rules = Rules(policy=Policy(), variant="int8")
    paired = _accuracy(4, 5, 277, 200)
    record = metric_record(rules, paired)
    assert record["interval"] == [paired.low, paired.high]
    assert record["variant_interval"] == [paired.variant_low, paired.variant_high]
    assert (record["margin"], record["confidence"], record["verdict"]) == (2.0, 0.95, "undecided")
    assert 277 < record["rows_needed"] < 1000
    assert record["test"] == {"name": "mcnemar", "better": 4, "worse": 5, "p_value": 1.0}
    assert json.loads(json.dumps(record)) == record
    passed = metric_record(rules, _accuracy(0, 0, 872, 713))
    assert (passed["verdict"], passed["rows_needed"]) == ("pass", None)
    # The limit as measured makes it a failure, whatever the interval says.
    failed = metric_record(rules, _accuracy(0, 9, 872, 713))
    assert (failed["verdict"], failed["rows_needed"]) == ("fail", None)
    free = metric_record(Rules(policy=Policy(), variant="fp32"), _accuracy(0, 9, 872, 713))
    assert (free["margin"], free["verdict"]) == (None, "pass")


@given(
    counts=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    rows=st.integers(120, 20_000),
    margins=st.tuples(st.floats(0, 20), st.floats(0, 20)),
)
def test_a_wider_margin_is_never_stricter(
    counts: tuple[int, int], rows: int, margins: tuple[float, float]
) -> None:
    paired = _accuracy(*counts, rows, rows - counts[0])
    narrow, wide = (_margin(m, paired).verdict for m in sorted(margins))
    order = ("fail", "undecided", "pass")
    assert order.index(narrow) <= order.index(wide)
    assert paired.low <= paired.difference <= paired.high


def _report(*kinds: str, verdict: str = "fail", **more: Any) -> dict[str, Any]:
    checks = [
        {"kind": kind.removesuffix("?"), "verdict": "undecided" if "?" in kind else "fail"}
        | {"message": f"{kind} is off"}
        for kind in kinds
    ]
    passed = {"kind": "parity", "verdict": "pass", "message": "fine"}
    return {
        "verdict": verdict,
        "variants": {"fp32": {"checks": [passed]}, "int8": {"checks": [passed, *checks]}},
    } | more


def test_a_verdict_becomes_its_error() -> None:
    raise_for_verdict(_report(verdict="pass"))
    order: list[tuple[str, type[AlbertDeployError]]] = [
        ("contract", ContractError),
        ("parity", ParityError),
        ("accuracy", AccuracyError),
        ("performance", PerformanceError),
        ("run", MachineError),
    ]
    for place, (kind, error) in enumerate(order):
        later = [k for k, _ in order[place:]]
        with pytest.raises(error, match=f"^int8: {kind} is off$"):
            raise_for_verdict(_report("accuracy?", *reversed(later)))
    with pytest.raises(ParityError, match="metamorphic is off"):
        raise_for_verdict(_report("accuracy", "metamorphic"))
    with pytest.raises(AccuracyError, match="accuracy is off; int8: regression is off"):
        raise_for_verdict(_report("regression", "accuracy"))
    with pytest.raises(PerformanceError, match="slow"):
        raise_for_verdict(_report(performance="slow"))
    with pytest.raises(UndecidedError, match=r"int8: accuracy\? is off"):
        raise_for_verdict(_report("accuracy?", verdict="undecided"))
    assert [error.exit_code for _, error in order] == [4, 5, 6, 7, 9]
    assert UndecidedError.exit_code == 8


def test_undecided_passes_where_the_policy_lets_it() -> None:
    checks = [Check(kind="accuracy", name="x", verdict="undecided", message="x")]
    assert verdict_of(checks) == "undecided"
    assert verdict_of(checks, undecided="pass") == "pass"
    raise_for_verdict(_report("accuracy?", verdict="pass"))


def test_a_verdict_without_a_reason_is_no_pass() -> None:
    with pytest.raises(AlbertDeployError, match="no check says why"):
        raise_for_verdict(_report())
    failed = _report()
    failed["variants"]["int8"]["failure"] = "no answer within 3 s"
    with pytest.raises(MachineError, match="int8: no answer within 3 s"):
        raise_for_verdict(failed)


def test_an_exact_output_has_an_infinite_ratio_that_json_can_hold() -> None:
    found = judge(_rules(Limits(min_sqnr_db=10)), differences={"rows": {"logits": _difference(0)}})
    assert [check.verdict for check in found] == ["pass", "pass"]
    assert found[1].value == math.inf
    assert found[1].to_json()["value"] is None
    assert "logits on rows is exact" in found[1].message


def test_a_gate_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("[int8]\nmin_score_share = 0.5\nmax_drop = 2\n")
    policy = read_policy(path)
    assert Rules(policy=policy, variant="int8").limits == Limits(
        min_sqnr_db=10.0, min_score_share=0.5, max_drop=2, margin=2.0, max_regression=1.0
    )
    fp32 = Rules(policy=policy, variant="fp32").limits
    assert fp32.max_relative_error == DEFAULT_LIMITS["fp32"].max_relative_error
    assert policy.file == str(path)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[int4]\nmax_drop = 1\n", "no variant"),
        ("[int8]\nmax_dorp = 1\n", "unknown key 'max_dorp'"),
        ("[int8]\nmax_drop = 'much'\n", "wanted a number"),
        ("[int8]\nmax_drop = true\n", "wanted a number"),
        ("int8 = 3\n", "no variant"),
        ("[int8\n", "cannot read"),
    ],
)
def test_a_gate_file_with_a_mistake_is_refused(text: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=hint):
        read_policy(path)
