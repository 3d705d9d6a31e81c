"""Paired comparisons equal those of scipy and statsmodels, and their intervals cover."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, stats

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.scores.measured import (
    Floats,
    Index,
    Measured,
    correlations,
    from_arrays,
    from_sums,
    from_values,
    matthews_of,
)
from albert_deploy.validation.scores.paired import (
    PairedConfig,
    compare_counts,
    compare_paired,
    mcnemar,
    rows_needed,
)
from albert_deploy.validation.scores.resampling import (
    bca_interval,
    mean_deleted,
    means,
    score_interval,
    wilson_interval,
)

CONFIG = PairedConfig()
Z = float(stats.norm.ppf(0.975))


def _accuracy(better: int, worse: int, rows: int) -> tuple[Measured, Measured]:
    source = np.zeros(rows)
    source[: rows - better] = 100.0
    variant = source.copy()
    variant[:worse] = 0.0
    variant[rows - better :] = 100.0
    return from_values("accuracy", source), from_values("accuracy", variant)


def _matthews(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> Measured:
    return from_sums("matthews", np.eye(4)[2 * labels + predicted], matthews_of)


def _pearson(wanted: Floats, got: Floats) -> Measured:
    def over(index: Index) -> Floats:
        return correlations(wanted[index], got[index])

    return from_arrays(
        "pearson", len(wanted), over, lambda: float(over(np.arange(len(wanted))[None])[0])
    )


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (0, 1), (0, 6), (5, 5), (3, 12), (40, 61), (7, 0)]
)
def test_mcnemar_is_that_of_statsmodels(better: int, worse: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    wanted = theirs([[100, worse], [better, 50]], exact=True).pvalue
    assert mcnemar(better, worse) == pytest.approx(1.0 if better == worse else wanted)
    paired = compare_paired(*_accuracy(better, worse, 300), CONFIG)
    assert paired.test == {
        "name": "mcnemar",
        "better": better,
        "worse": worse,
        "p_value": mcnemar(better, worse),
    }


@pytest.mark.parametrize("counts", [(0, 0, 40), (1, 0, 40), (0, 9, 872), (6, 15, 872), (2, 30, 99)])
def test_the_score_interval_solves_its_equation(counts: tuple[int, int, int]) -> None:
    better, worse, rows = counts

    def statistic(d: float) -> float:
        """Tango's statistic, with the restricted likelihood maximised numerically."""

        def loss(p: float) -> float:
            cells = ((better, p + d), (worse, p), (rows - better - worse, 1 - 2 * p - d))
            return -sum(n * math.log(max(share, 1e-300)) for n, share in cells if n)

        bounds = (max(0.0, -d), (1 - d) / 2)
        p = optimize.minimize_scalar(
            loss, bounds=bounds, method="bounded", options={"xatol": 1e-13}
        )
        return float((better - worse - rows * d) / math.sqrt(rows * (2 * p.x + d - d * d)))

    low, high = score_interval(better, worse, rows, 0.95)
    assert low < 100 * (better - worse) / rows < high
    assert statistic(low / 100) == pytest.approx(Z, rel=1e-3)
    assert statistic(high / 100) == pytest.approx(-Z, rel=1e-3)


def test_the_score_interval_turns_with_the_models() -> None:
    low, high = score_interval(np.arange(9), 3, 50, 0.9)
    other_low, other_high = score_interval(3, np.arange(9), 50, 0.9)
    np.testing.assert_allclose(low, -other_high, atol=1e-9)
    np.testing.assert_allclose(high, -other_low, atol=1e-9)
    assert np.all(np.diff(low) > 0)
    extreme = score_interval([20, 0], [0, 20], 20, 0.95)
    assert extreme[1][0] == pytest.approx(100)
    assert extreme[0][1] == pytest.approx(-100)


def test_the_wilson_interval_is_that_of_scipy() -> None:
    for right, rows in ((0, 10), (10, 10), (713, 872), (1, 3)):
        wanted = stats.binomtest(right, rows).proportion_ci(0.9, method="wilson")
        assert wilson_interval(right, rows, 0.9) == pytest.approx(
            (100 * wanted.low, 100 * wanted.high), abs=1e-9
        )


def _f1_rows(rng: np.random.Generator, rows: int, share: float) -> tuple[Floats, Floats]:
    source = rng.choice([0.0, 40.0, 66.7, 100.0], rows, p=[0.1, 0.1, 0.1, 0.7])
    variant = source.copy()
    moved = rng.random(rows) < share
    variant[moved] = rng.choice([0.0, 50.0, 100.0], int(moved.sum()), p=[0.4, 0.2, 0.4])
    return source, variant


def test_bca_of_a_mean_is_that_of_scipy() -> None:
    source, variant = _f1_rows(np.random.default_rng(4), 600, 0.15)
    gained = variant - source
    ours = bca_interval(
        gained.mean(), means(gained, resamples=20_000, seed=1), mean_deleted(gained), 0.95
    )
    wanted = stats.bootstrap(
        (source, variant),
        lambda s, v, axis=-1: v.mean(axis=axis) - s.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        batch=1000,
        method="BCa",
        rng=np.random.default_rng(2),
    ).confidence_interval
    # A quantile of 20,000 replicates has an error of sqrt(q (1 - q) / 20000) / density: 0.02
    # of a standard deviation at 2.5%.
    room = 4 * 0.02 * gained.std() / math.sqrt(600)
    assert ours == pytest.approx((wanted.low, wanted.high), abs=room)


def test_a_paired_correlation_is_that_of_scipy_but_for_the_unseen() -> None:
    rng = np.random.default_rng(5)
    wanted = rng.normal(size=300)
    source = wanted + 0.5 * rng.normal(size=300)
    variant = source + 0.3 * rng.normal(size=300)

    def difference(w: Floats, s: Floats, v: Floats) -> float:
        return float(100 * (np.corrcoef(w, v)[0, 1] - np.corrcoef(w, s)[0, 1]))

    theirs = stats.bootstrap(
        (wanted, source, variant),
        difference,
        paired=True,
        vectorized=False,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(2),
    )
    config = PairedConfig(resamples=4000)
    ours = compare_paired(_pearson(wanted, source), _pearson(wanted, variant), config)
    assert ours.difference == pytest.approx(difference(wanted, source, variant))
    interval = theirs.confidence_interval
    room = 4 * 0.045 * float(theirs.standard_error)
    low = ours.difference - math.hypot(ours.difference - interval.low, ours.unseen)
    high = ours.difference + math.hypot(interval.high - ours.difference, ours.unseen)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=room)
    # All rows differ a little: there is next to nothing that could have been missed.
    assert ours.unseen < 0.2 * (ours.high - ours.low)


@pytest.mark.parametrize(
    ("rows", "worse", "better"),
    [(277, 0.005, 0.005), (872, 0.002, 0.002), (872, 0.012, 0.004), (600, 0.04, 0.03)],
)
def test_the_interval_of_accuracy_covers(rows: int, worse: float, better: float) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(rows, (better, worse, 1 - better - worse), size=20_000)
    low, high = score_interval(drawn[:, 0], drawn[:, 1], rows, 0.95)
    truth = 100 * (better - worse)
    # 20,000 trials have a standard error of 0.15%; counts of few rows are coarse.
    assert np.mean((low <= truth) & (truth <= high)) >= 0.94
    # What the gate relies on: the lower bound is above the truth in at most 2.5%, and coarseness.
    assert np.mean(low > truth) <= 0.032


def test_the_plain_bootstrap_does_not_cover_where_few_rows_differ() -> None:
    rng = np.random.default_rng(0)
    truth, plain, ours, trials = -0.2, 0, 0, 400
    for trial in range(trials):
        gained = -100.0 * (rng.random(600) < 0.002)
        paired = compare_paired(
            from_values("f1", np.full(600, 99.5)),
            from_values("f1", 99.5 + gained * 0.99),
            PairedConfig(resamples=400, seed=trial),
        )
        replicates = means(gained, resamples=400, seed=trial)
        low, high = bca_interval(gained.mean(), replicates, mean_deleted(gained), 0.95)
        plain += low <= truth <= high
        ours += paired.low <= 0.99 * truth <= paired.high
    assert plain / trials < 0.85
    assert ours / trials > 0.94


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_the_interval_of_f1_covers(share: float) -> None:
    truth_source, truth_variant = _f1_rows(np.random.default_rng(1), 2_000_000, share)
    truth = truth_variant.mean() - truth_source.mean()
    rng = np.random.default_rng(2)
    held = 0
    for trial in range(400):
        source, variant = _f1_rows(rng, 400, share)
        paired = compare_paired(
            from_values("f1", source),
            from_values("f1", variant),
            PairedConfig(resamples=500, seed=trial),
        )
        held += paired.low <= truth <= paired.high
    # Four standard errors of 400 trials below the nominal 95%.
    assert held / 400 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400)


def test_the_interval_of_matthews_covers() -> None:
    """Truth by a large sample; labels, source and variant have the same law in each trial."""

    def draw(rng: np.random.Generator, rows: int) -> tuple[Measured, Measured]:
        labels = (rng.random(rows) < 0.7).astype(np.int64)
        source = np.where(rng.random(rows) < 0.8, labels, 1 - labels)
        return (
            _matthews(labels, source),
            _matthews(labels, np.where(rng.random(rows) < 0.03, 1 - source, source)),
        )

    large = draw(np.random.default_rng(1), 2_000_000)
    truth = large[1].score - large[0].score
    rng = np.random.default_rng(2)
    held = 0
    for trial in range(200):
        paired = compare_paired(*draw(rng, 300), PairedConfig(resamples=300, seed=trial))
        held += paired.low <= truth <= paired.high
    assert held / 200 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200)


def _same(name: str) -> Measured:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 200)
    made: dict[str, Callable[[], Measured]] = {
        "accuracy": lambda: from_values("accuracy", 100.0 * labels),
        "f1": lambda: from_values("f1", rng.choice([0, 50.0, 100], 200)),
        "f1, all right": lambda: from_values("f1", np.full(200, 99.0)),
        "matthews": lambda: _matthews(labels, np.where(rng.random(200) < 0.8, labels, 1 - labels)),
        "matthews, all right": lambda: _matthews(labels, labels),
        "pearson": lambda: _pearson(rng.normal(size=200), rng.normal(size=200)),
    }
    return made[name]()


@pytest.mark.parametrize(
    "name", ["accuracy", "f1", "f1, all right", "matthews", "matthews, all right", "pearson"]
)
def test_where_no_row_differs_the_interval_is_not_empty(name: str) -> None:
    measured = _same(name)
    paired = compare_paired(measured, measured, CONFIG)
    assert paired.difference == 0
    # No change in 200 rows leaves z^2 / (200 + z^2) = 1.9% of all rows that may change.
    least = 0.5 if name == "pearson" else 100 * Z**2 / (200 + Z**2)
    assert paired.low <= -least + 1e-6
    assert paired.high >= least - 1e-6
    assert paired.variant_low < paired.variant < paired.variant_high or paired.variant == 100
    assert paired.variant_low < paired.variant


def test_one_row_and_a_hundred_thousand() -> None:
    one = compare_paired(from_values("f1", np.ones(1)), from_values("f1", np.zeros(1)), CONFIG)
    assert one.low < -50 < one.high
    pair = _matthews(np.array([1]), np.array([1])), _matthews(np.array([1]), np.array([0]))
    assert math.isfinite(compare_paired(*pair, CONFIG).low)
    rng = np.random.default_rng(0)
    source = 100 * rng.random(100_000)
    variant = source + rng.normal(size=100_000)
    config = PairedConfig(resamples=300)
    paired = compare_paired(from_values("f1", source), from_values("f1", variant), config)
    arm = Z * np.std(variant - source) / math.sqrt(100_000)
    assert paired.high - paired.low == pytest.approx(2 * math.hypot(arm, paired.unseen), rel=0.15)


def test_one_seed_gives_one_interval() -> None:
    source, variant = _f1_rows(np.random.default_rng(4), 300, 0.1)
    pair = from_values("f1", source), from_values("f1", variant)
    first = compare_paired(*pair, PairedConfig(seed=1))
    assert first == compare_paired(*pair, PairedConfig(seed=1))
    assert first.low != compare_paired(*pair, PairedConfig(seed=2)).low
    wide = compare_paired(*pair, PairedConfig(seed=1, confidence=0.99))
    assert wide.low < first.low < first.high < wide.high


def test_a_metric_of_which_less_is_better_gains_by_falling() -> None:
    def measured(values: Floats) -> Measured:
        def finish(sums: Floats) -> Floats:
            return np.asarray(np.exp(sums[..., 0] / sums[..., 1]))

        terms = np.stack([values, np.ones_like(values)], axis=1)
        return from_sums("pseudo_perplexity", terms, finish, higher_is_better=False)

    losses = np.random.default_rng(0).gamma(2.0, size=400)
    paired = compare_paired(measured(losses), measured(losses - 0.1), CONFIG)
    low, gain, high = paired.gain
    assert paired.difference < 0 < low < gain < high
    assert (low, gain, high) == (-paired.high, -paired.difference, -paired.low)


@pytest.mark.parametrize(("better", "worse", "rows"), [(0, 0, 277), (2, 3, 277), (10, 10, 872)])
def test_so_many_rows_decide(better: int, worse: int, rows: int) -> None:
    paired = compare_counts(
        "accuracy", better=better, worse=worse, right=200, rows=rows, confidence=0.95
    )
    margin = 0.7
    assert paired.low < -margin
    wanted = rows_needed(paired, margin)
    assert wanted is not None
    assert wanted > rows

    def low(count: float) -> float:
        scale = count / rows
        return float(score_interval(better * scale, worse * scale, count, 0.95)[0])

    assert low(1.05 * wanted) >= -margin
    assert low(0.9 * wanted) < -margin


def test_no_number_of_rows_undoes_a_loss_beyond_the_margin() -> None:
    paired = compare_counts("accuracy", better=0, worse=9, right=700, rows=872, confidence=0.95)
    assert rows_needed(paired, 1.0) is None
    assert rows_needed(paired, 100 * 9 / 872) is None
    assert rows_needed(paired, 3.0) == 872


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"confidence": 1.0}, "confidence is 1.0, wanted 0.5 to less than 1"),
        ({"confidence": math.nan}, "confidence is nan"),
        ({"resamples": 10}, "resamples is 10, wanted 200 to"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_config_out_of_range_is_refused(values: dict[str, float], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        PairedConfig(**values)  # type: ignore[arg-type]


def test_what_cannot_be_compared_is_refused() -> None:
    four, five = np.ones(4), np.ones(5)
    with pytest.raises(InputError, match="f1 over 4 rows and f1 over 5"):
        compare_paired(from_values("f1", four), from_values("f1", five), CONFIG)
    with pytest.raises(InputError, match="f1 over 4 rows and em over 4"):
        compare_paired(from_values("f1", four), from_values("em", four), CONFIG)
    with pytest.raises(InputError, match="f1 is nan for the source"):
        compare_paired(from_values("f1", four * math.nan), from_values("f1", four), CONFIG)
