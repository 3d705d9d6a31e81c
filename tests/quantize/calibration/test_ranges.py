"""Ranges and scales: half a step, every rule within the peak, and what each rule is for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from albert_deploy.quantize.calibration.ranges import RULES, scale_of
from albert_deploy.quantize.calibration.statistics import HALF, Statistics, observe
from albert_deploy.quantize.schemes.dynamic import quantize_weight
from albert_deploy.quantize.schemes.formats import FORMATS
from albert_deploy.quantize.schemes.rounding import LARGEST_PAIR
from albert_deploy.runtime.errors import InputError

Array = npt.NDArray[np.float32]
TINY = float(np.finfo(np.float32).tiny)
LEVELS = 127
# Exponents of ten of a tensor's magnitude.
MAGNITUDES = st.integers(-40, 30)
SEEDS = st.integers(0, 10_000)


def normals(seed: int, shape: tuple[int, ...], exponent: int) -> Array:
    """Normal values times 10 ** exponent: denormals below 1e-38."""
    values = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(values * 10.0**exponent, np.float32)


@st.composite
def activations(draw: st.DrawFn) -> Array:
    """[rows, channels] with outliers, all alike, all zero, a single element, one-sided."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 12)))
    values = normals(draw(SEEDS), shape, draw(MAGNITUDES))
    kind = draw(st.sampled_from(["plain", "outlier", "alike", "zero", "positive", "sparse"]))
    if kind == "outlier":
        values[0] *= 300
    elif kind == "alike":
        values[:] = values[0, 0]
    elif kind == "zero":
        values[:] = 0
    elif kind == "positive":
        values = np.abs(values)
    elif kind == "sparse":
        values[:, 1:] = 0
    return values


def normal_scale(scale: npt.ArrayLike) -> None:
    """Positive, finite and no denormal once it is stored as float32."""
    stored = np.asarray(scale, np.float32)
    assert np.isfinite(stored).all()
    assert (stored >= TINY).all()


@pytest.mark.parametrize("rule", RULES)
@given(values=activations())
def test_activations_within_the_range_stay_within_half_a_step(rule: str, values: Array) -> None:
    statistics = observe(values, "x")
    scale = scale_of(statistics, rule)
    normal_scale(scale)
    step = np.float64(np.float32(scale))
    exact = values.astype(np.float64)
    rounded = np.clip(np.rint(exact / step), -LEVELS, LEVELS) * step
    inside = np.abs(exact) <= LEVELS * scale
    if rule == "minmax":
        assert inside.all()
    # The step was rounded to float32, by 6e-8, and there are up to 127 of it.
    assert (np.abs(rounded - exact)[inside] <= step * (0.5 + 1e-5)).all()
    assert (np.abs(rounded) <= np.abs(exact) + step * (0.5 + 1e-5)).all()


@pytest.mark.parametrize("levels", [1, 7, 127, 448])
@pytest.mark.parametrize("rule", RULES)
@given(values=activations())
def test_a_range_is_positive_and_no_larger_than_the_peak(
    rule: str, levels: int, values: Array
) -> None:
    statistics = observe(values, "x")
    found = RULES[rule](statistics, levels)
    assert found <= statistics.peak
    assert found > 0 or statistics.peak == 0
    normal_scale(scale_of(statistics, rule, levels))


@given(activations())
def test_minmax_is_the_peak(values: Array) -> None:
    assert RULES["minmax"](observe(values, "x"), LEVELS) == np.abs(values).max()


@pytest.mark.parametrize("rule", RULES)
def test_an_activation_of_zeros_has_a_scale(rule: str) -> None:
    statistics = observe(np.zeros((4, 8), np.float32), "dead")
    assert RULES[rule](statistics, LEVELS) == 0
    assert scale_of(statistics, rule) == TINY


def squared_error(statistics: Statistics, largest: float, levels: int) -> float:
    """Bin after bin, in plain arithmetic: what a range costs the values of the histogram."""
    step = largest / levels
    total = 0.0
    for index in np.flatnonzero(statistics.counts):
        center = (int(index) - HALF + 0.5) * statistics.width
        level = max(-levels, min(levels, round(center / step)))
        total += (level * step - center) ** 2 * int(statistics.counts[index])
    return total


@given(values=activations(), levels=st.sampled_from([7, 127]))
def test_mse_costs_no_more_than_minmax(values: Array, levels: int) -> None:
    statistics = observe(values, "x")
    assume(statistics.peak > 0)
    found = RULES["mse"](statistics, levels)
    limit = squared_error(statistics, statistics.peak, levels)
    assert squared_error(statistics, found, levels) <= limit * (1 + 1e-9)


def test_mse_costs_much_less_than_minmax_where_few_levels_meet_a_long_tail() -> None:
    statistics = observe(np.random.default_rng(0).laplace(size=(500, 64)).astype(np.float32), "x")
    found = RULES["mse"](statistics, 7)
    costs = [squared_error(statistics, largest, 7) for largest in (found, statistics.peak)]
    assert costs[0] < 0.5 * costs[1]


@given(values=activations(), levels=st.integers(8, 256))
def test_mse_costs_less_with_more_levels(values: Array, levels: int) -> None:
    statistics = observe(values, "x")
    assume(statistics.peak > 0)
    coarse, fine = (
        squared_error(statistics, RULES["mse"](statistics, n), n) for n in (levels, 8 * levels)
    )
    # One value may be met exactly by chance, by either.
    assert fine <= coarse * 1.01 + statistics.total * (statistics.peak / (16 * levels)) ** 2


@given(activations())
def test_percentile_keeps_its_share_of_the_values(values: Array) -> None:
    statistics = observe(values, "x")
    found = RULES["percentile"](statistics, LEVELS)
    assert (np.abs(values.astype(np.float64)) <= found).mean() >= 0.9999


@pytest.mark.parametrize(
    ("rule", "levels", "outlier"),
    # The squared error of one far outlier outweighs all others; few levels outweigh a near one.
    [("percentile", LEVELS, 500), ("entropy", LEVELS, 50), ("mse", 7, 20)],
)
def test_a_single_outlier_is_clipped(rule: str, levels: int, outlier: float) -> None:
    values = normals(0, (1000, 64), 0)
    values[0, 0] = outlier
    found = RULES[rule](observe(values, "x"), levels)
    assert 2 < found < outlier / 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [1.0, -1.0, 0.7, 3e-40, 1e30])
def test_values_of_one_magnitude_are_not_clipped(rule: str, value: float) -> None:
    """A range of less than the peak would make all of them wrong."""
    statistics = observe(np.full((64, 16), value, np.float32), "x")
    step = np.float64(np.float32(scale_of(statistics, rule)))
    rounded = min(round(statistics.peak / step), LEVELS) * step
    assert abs(rounded - statistics.peak) <= step * (0.5 + 1e-5)


@pytest.mark.parametrize("rule", RULES)
@example(seed=0, power=-60)
@given(seed=SEEDS, power=st.integers(-80, 90))
def test_a_range_grows_with_the_activation(rule: str, seed: int, power: int) -> None:
    """Twice the values, twice the range, exactly: no rule knows an absolute magnitude."""
    values = normals(seed, (20, 10), 0)
    ranges = [
        RULES[rule](observe(array, "x"), LEVELS)
        for array in (values, values * np.float32(2.0**power))
    ]
    assert ranges[1] == ranges[0] * 2.0**power


@given(first=activations(), second=activations())
def test_minmax_never_falls_when_more_is_seen(first: Array, second: Array) -> None:
    channels = min(first.shape[1], second.shape[1])
    statistics = observe(first[:, :channels], "x")
    before = RULES["minmax"](statistics, LEVELS)
    assert RULES["minmax"](observe(second[:, :channels], "x", statistics), LEVELS) >= before


@pytest.mark.parametrize("rule", ["minmax", "percentile"])
@given(values=activations(), levels=st.integers(1, 254))
def test_more_levels_make_a_finer_step(rule: str, values: Array, levels: int) -> None:
    statistics = observe(values, "x")
    assert scale_of(statistics, rule, levels + 1) <= scale_of(statistics, rule, levels)


@pytest.mark.parametrize("rule", RULES)
def test_a_sign_changes_nothing(rule: str) -> None:
    values = np.abs(normals(1, (200, 16), 0))
    assert scale_of(observe(values, "x"), rule) == scale_of(observe(-values, "x"), rule)


def test_an_unknown_rule_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="minmax, percentile, entropy, mse"):
        scale_of(observe(np.ones((1, 1), np.float32), "x"), "max")


def by_format(weight: Array, axis: int) -> tuple[npt.NDArray[np.generic], Array]:
    scales = FORMATS["int8"].scales(weight, axis)
    return FORMATS["int8"].cast(weight / np.expand_dims(scales, 1 - axis)), scales


@st.composite
def weights(draw: st.DrawFn) -> Array:
    """[rows, columns] whose channels differ by many magnitudes, are constant or zero."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 12)))
    generator = np.random.default_rng(draw(SEEDS))
    exponents = draw(st.lists(MAGNITUDES, min_size=shape[1], max_size=shape[1]))
    weight = np.asarray(generator.normal(size=shape) * 10.0 ** np.array(exponents), np.float32)
    weight[:, generator.random(shape[1]) < 0.2] = 0
    alike = generator.random(shape[1]) < 0.2
    weight[:, alike] = weight[0, alike]
    return weight


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("quantizer", [partial(quantize_weight, multiplied=False), by_format])
@example(weight=np.array([[1.9e-43]], np.float32))
@example(weight=np.array([[1e-40, 0.0, 1e30], [-1e-40, 0.0, -1e-30]], np.float32))
@example(weight=np.zeros((1, 1), np.float32))
@given(weight=weights())
def test_weights_stay_within_half_a_step_of_their_channel(
    quantizer: Callable[[Array, int], tuple[npt.NDArray[np.int8], Array]], axis: int, weight: Array
) -> None:
    if axis == 0:
        weight = np.ascontiguousarray(weight.T)
    values, scales = quantizer(weight, axis)
    assert values.dtype == np.int8
    assert values.shape == weight.shape
    assert scales.dtype == np.float32
    assert scales.shape == (weight.shape[axis],)
    normal_scale(scales)
    assert np.abs(values.astype(int)).max() <= LEVELS
    step = np.expand_dims(scales.astype(np.float64), 1 - axis)
    assert (np.abs(values * step - weight.astype(np.float64)) <= step * (0.5 + 1e-5)).all()
    # Every level is used: a coarser scale would also be within half of its own step.
    peaks = np.abs(values.astype(int)).max(axis=1 - axis)
    assert (peaks[scales > TINY * 2] % LEVELS == 0).all()


@pytest.mark.parametrize("axis", [0, 1])
@example(weight=np.array([[1e-40, 0.0, 1e30], [-1e-40, 0.0, -1e-30]], np.float32))
@example(weight=np.full((3, 2), 7.0, np.float32))
@given(weight=weights())
def test_bounded_pairs_alone_leave_their_half_step(axis: int, weight: Array) -> None:
    values, scales = quantize_weight(weight if axis == 1 else np.ascontiguousarray(weight.T), axis)
    normal_scale(scales)
    columns = values.astype(np.float64) if axis == 1 else values.T.astype(np.float64)
    exact = weight.astype(np.float64) / scales
    even = len(weight) // 2 * 2
    nearest = np.rint(exact).clip(-LEVELS, LEVELS)
    excess = np.maximum(np.abs(nearest[0:even:2] + nearest[1:even:2]) - LARGEST_PAIR, 0)
    room = np.zeros_like(exact)
    room[:even] = np.repeat(np.ceil(excess / 2), 2, axis=0)
    assert (np.abs(columns - exact) <= 0.5 + 1e-4 + room).all()
    assert (np.abs(columns[0:even:2] + columns[1:even:2]) <= LARGEST_PAIR).all()
