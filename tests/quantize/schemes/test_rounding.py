"""Rounding that compensates: better in the product than nearest, and equal to the textbook."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from albert_deploy.quantize.schemes.rounding import round_compensated

Matrix = npt.NDArray[np.float64]
SEEDS = st.integers(0, 100_000)


def correlated(seed: int, count: int, inputs: int, rank: int) -> Matrix:
    """Inputs that mostly lie in a space of ``rank`` directions, as real activations do."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, rank)) @ generator.normal(size=(rank, inputs))
    return mixed + 0.1 * generator.normal(size=(count, inputs))


def round_nearest(
    weight: npt.NDArray[Any], scale: npt.NDArray[Any], levels: int = 127
) -> npt.NDArray[np.int8]:
    return np.asarray(np.rint(weight / scale).clip(-levels, levels), np.int8)


def weight_and_scale(
    seed: int, inputs: int, outputs: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    weight = np.random.default_rng(seed + 1).normal(size=(inputs, outputs)).astype(np.float32)
    return weight, np.abs(weight).max(axis=0) / np.float32(127)


def product_error(
    x: Matrix, weight: npt.NDArray[np.float32], values: npt.NDArray[np.int8], scale: Matrix
) -> float:
    exact = weight.astype(np.float64)
    return float(np.linalg.norm(x @ (exact - values * scale.astype(np.float64))))


def textbook(weight: Matrix, scale: Matrix, moments: Matrix, levels: int) -> npt.NDArray[np.int8]:
    """Row by row, eliminating each from the inverse: no blocks and no Cholesky factor.

    Frantar and Alistarh 2022, "Optimal Brain Compression", eq. 3 and 4, in fixed order; the
    damping is 1% of the mean diagonal.
    """
    moments = moments + 0.01 * np.diag(moments).mean() * np.eye(len(moments))
    inverse = np.linalg.inv(moments)
    rest = np.array(weight, np.float64)
    values = np.empty(rest.shape, np.int8)
    for row in range(len(rest)):
        values[row] = np.rint(rest[row] / scale).clip(-levels, levels)
        error = (rest[row] - values[row] * scale) / inverse[row, row]
        rest[row + 1 :] -= np.outer(inverse[row + 1 :, row], error)
        inverse -= np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
    return values


@given(seed=SEEDS, inputs=st.integers(16, 64), rank=st.integers(2, 8))
def test_compensated_is_better_in_the_product_than_nearest(
    seed: int, inputs: int, rank: int
) -> None:
    x = correlated(seed, 4 * inputs, inputs, rank)
    weight, scale = weight_and_scale(seed, inputs, 24)
    values = round_compensated(weight, scale, x.T @ x)
    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max() <= 127
    nearest = product_error(x, weight, round_nearest(weight, scale), scale)
    assert product_error(x, weight, values, scale) <= 0.9 * nearest


@given(seed=SEEDS, levels=st.sampled_from([1, 7, 127]))
def test_compensated_is_not_worse_where_inputs_hardly_depend_on_each_other(
    seed: int, levels: int
) -> None:
    x = np.random.default_rng(seed).normal(size=(400, 40))
    weight, scale = weight_and_scale(seed, 40, 24)
    scale = scale * np.float32(127 / levels)
    values = round_compensated(weight, scale, x.T @ x, levels)
    assert np.abs(values.astype(int)).max() <= levels
    nearest = product_error(x, weight, round_nearest(weight, scale, levels), scale)
    assert product_error(x, weight, values, scale) <= 1.02 * nearest


@given(seed=SEEDS, inputs=st.integers(1, 200))
def test_independent_inputs_are_rounded_to_nearest(seed: int, inputs: int) -> None:
    weight, scale = weight_and_scale(seed, inputs, 6)
    moments = np.diag(np.random.default_rng(seed).uniform(0, 100, inputs))
    # Wide numbers: a quotient next to a half may round another way in float32.
    wide, step = weight.astype(np.float64), scale.astype(np.float64)
    np.testing.assert_array_equal(
        round_compensated(weight, scale, moments), round_nearest(wide, step)
    )


@pytest.mark.parametrize("inputs", [1, 2, 127, 128, 129, 256, 257, 300])
def test_blocks_change_nothing(inputs: int) -> None:
    x = correlated(inputs, 2 * inputs, inputs, 5)
    weight, scale = weight_and_scale(inputs, inputs, 12)
    moments = x.T @ x
    wanted = textbook(weight, scale, moments, 127)
    np.testing.assert_array_equal(round_compensated(weight, scale, moments), wanted)
    assert inputs < 16 or (wanted != round_nearest(weight, scale)).any()


def test_inputs_of_zeros_alone_are_rounded_to_nearest() -> None:
    weight, scale = weight_and_scale(3, 20, 8)
    wanted = round_nearest(weight.astype(np.float64), scale.astype(np.float64))
    np.testing.assert_array_equal(round_compensated(weight, scale, np.zeros((20, 20))), wanted)


def test_an_input_that_is_always_zero_has_no_say() -> None:
    x = correlated(5, 200, 30, 4)
    x[:, [0, 7, 29]] = 0
    weight, scale = weight_and_scale(5, 30, 8)
    values = round_compensated(weight, scale, x.T @ x)
    nearest = round_nearest(weight.astype(np.float64), scale.astype(np.float64))
    np.testing.assert_array_equal(values[[0, 7, 29]], nearest[[0, 7, 29]])
    others = weight.copy()
    others[[0, 7, 29]] *= -0.3
    rest = np.delete(values, [0, 7, 29], axis=0)
    again = np.delete(round_compensated(others, scale, x.T @ x), [0, 7, 29], axis=0)
    np.testing.assert_array_equal(again, rest)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1e20])
def test_the_magnitude_of_the_inputs_does_not_matter(magnitude: float) -> None:
    x = correlated(2, 100, 24, 3)
    weight, scale = weight_and_scale(2, 24, 8)
    wanted = round_compensated(weight, scale, x.T @ x)
    np.testing.assert_array_equal(round_compensated(weight, scale, x.T @ x * magnitude), wanted)


def test_float32_moments_of_fewer_texts_than_inputs_will_do() -> None:
    x = correlated(9, 10, 160, 3).astype(np.float32) * 1e3
    x[:, 5] *= 1e3
    weight, scale = weight_and_scale(9, 160, 8)
    values = round_compensated(weight, scale, x.T @ x)
    nearest = product_error(x, weight, round_nearest(weight, scale), scale)
    assert product_error(x, weight, values, scale) <= nearest


def test_a_channel_of_zeros_stays_zero() -> None:
    x = correlated(1, 100, 24, 3)
    weight, scale = weight_and_scale(1, 24, 8)
    weight[:, 3], scale[3] = 0, 1
    assert not round_compensated(weight, scale, x.T @ x)[:, 3].any()


def test_the_arguments_are_not_changed() -> None:
    x = correlated(1, 100, 24, 3)
    weight, scale = weight_and_scale(1, 24, 8)
    moments = x.T @ x
    before = [array.copy() for array in (weight, scale, moments)]
    round_compensated(weight, scale, moments)
    for array, copy in zip((weight, scale, moments), before, strict=True):
        np.testing.assert_array_equal(array, copy)
