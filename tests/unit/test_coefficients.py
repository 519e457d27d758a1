"""Weights of extrapolation in time, and the one time of rows that have several."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rfc_compile.estimators.step_weights import (
    common_position,
    mean_time,
    newton_coefficients,
    trend_after,
)


@given(
    st.lists(st.floats(0.1, 50), min_size=4, max_size=4, unique=True),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.sampled_from([1, 2, 3]),
)
def test_polynomials_in_time_are_continued_exactly(
    times: list[float], coefficients: list[float], width: int
) -> None:
    now, *kept = sorted(times)
    assume(min(np.diff(sorted(times))) >= 0.05)  # else the weights are large
    polynomial = np.polynomial.Polynomial(coefficients[: min(width, 2) + 1])
    values = polynomial(np.array(kept))
    weights = newton_coefficients(now, kept, width)
    assert weights is not None
    predicted = values[0]
    for weight, change in zip(weights, values[:-1] - values[1:], strict=False):
        predicted += weight * change
    assert predicted == pytest.approx(polynomial(now), rel=1e-6, abs=1e-6)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_larger_the_error_the_less_of_a_change_is_taken(
    error: float, other: float
) -> None:
    less, more = sorted([error, other])
    assert 1 >= trend_after(less) >= trend_after(more) >= 0
    assert trend_after(0.2) == trend_after(0.0) == 1
    assert trend_after(0.4) == 0.5


def test_equal_times_give_no_weights() -> None:
    assert newton_coefficients(1.0, [2.0, 2.0], 2) is None
    assert newton_coefficients(1.0, [2.0], 2) == [0.0, 0.0]


@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=4, unique=True),
    st.integers(1, 3),
)
def test_rows_that_share_their_times_have_them_in_common(
    times: list[float], rows: int
) -> None:
    assert common_position([(time,) * rows for time in times]) == tuple(times)


def test_the_mean_is_the_time_of_all_that_move_in_proportion() -> None:
    """The same mean by which the steps of a run are timed."""
    still = [(900.0, 0.0), (800.0, 0.0), (650.0, 0.0)]
    half = [(900.0, 450.0), (800.0, 400.0), (650.0, 325.0)]
    for times in (still, half):
        assert common_position(times) == tuple(map(mean_time, times))


@pytest.mark.parametrize(
    "times",
    [
        [(900.0, 100.0), (800.0, 90.0), (700.0, 40.0)],
        [(900.0, 100.0), (800.0, 90.0, 80.0)],
    ],
)
def test_rows_that_move_apart_have_no_time_in_common(
    times: list[tuple[float, ...]],
) -> None:
    assert common_position(times) is None
