"""Limits: what holds, what is missed, and what is no limit at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfc_compile.errors import OptionError
from rfc_compile.tools.checking.limits import (
    QUANTITIES,
    Limit,
    Quantity,
    judge,
    loosened,
    make_limits,
)

quantities = st.sampled_from(QUANTITIES)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
values = st.one_of(st.none(), st.floats())


def passes(quantity: Quantity, bound: float, value: float | None) -> bool:
    return judge(Limit(quantity, bound), value).passed


@given(quantities, numbers, st.floats(min_value=0, max_value=1e9), values)
def test_loosening_a_limit_never_turns_a_pass_into_a_miss(
    quantity: Quantity, bound: float, slack: float, value: float | None
) -> None:
    looser = bound - slack if quantity.at_least else bound + slack
    if passes(quantity, bound, value):
        assert passes(quantity, looser, value)


@given(quantities, numbers, numbers)
def test_a_limit_is_met_at_its_bound_and_on_its_better_side(
    quantity: Quantity, bound: float, value: float
) -> None:
    better = value >= bound if quantity.at_least else value <= bound
    assert passes(quantity, bound, value) is better
    assert passes(quantity, bound, bound)


@given(quantities, numbers)
def test_what_is_not_known_is_missed_with_a_reason(
    quantity: Quantity, bound: float
) -> None:
    for value in (None, math.nan):
        verdict = judge(Limit(quantity, bound), value)
        assert not verdict.passed
        assert verdict.reason
        assert verdict.measured is None
        assert verdict.reason in str(verdict)


@given(quantities, numbers, values)
def test_an_obstacle_is_a_miss_whatever_the_value(
    quantity: Quantity, bound: float, value: float | None
) -> None:
    verdict = judge(Limit(quantity, bound), value, "nothing was cached")
    assert (verdict.passed, verdict.reason) == (False, "nothing was cached")


shares = st.floats(min_value=0, max_value=0.99)


@given(quantities, numbers, shares, shares, values)
def test_a_larger_tolerance_never_turns_a_pass_into_a_miss(
    quantity: Quantity, base: float, one: float, other: float, value: float | None
) -> None:
    small, large = sorted((one, other))
    if passes(quantity, loosened(quantity, base, small), value):
        assert passes(quantity, loosened(quantity, base, large), value)


@given(quantities, st.floats(allow_nan=False), shares)
def test_an_unchanged_value_is_within_any_tolerance(
    quantity: Quantity, base: float, tolerance: float
) -> None:
    assert passes(quantity, loosened(quantity, base, tolerance), base)


def test_a_tolerance_is_a_share_of_the_earlier_value() -> None:
    found = {q.field: loosened(q, 40.0, 0.05) for q in QUANTITIES}
    assert found["psnr"] == pytest.approx(38)
    assert found["nfc"] == pytest.approx(42)
    assert found["graph_breaks"] == pytest.approx(42)
    (similarity,) = (q for q in QUANTITIES if q.field == "ssim")
    assert loosened(similarity, -0.4, 0.5) == pytest.approx(-0.6)


def test_limits_are_made_by_name_in_the_order_of_the_table() -> None:
    limits = make_limits({"max_memory": "2GiB", "max_nfc": "14", "min_psnr": 30})
    found = {limit.name: limit.bound for limit in limits}
    assert found == {"min_psnr": 30, "max_nfc": 14, "max_memory": 2 * 2**30}
    assert list(found) == ["min_psnr", "max_nfc", "max_memory"]
    assert make_limits({"max_memory": "1000"})[0].bound == 1000
    assert make_limits({"max_graph_breaks": 0})[0].bound == 0
    assert make_limits({}) == ()


def test_a_limit_says_what_was_measured_and_what_was_wanted() -> None:
    (limit,) = make_limits({"min_psnr": 30})
    assert str(judge(limit, 31)) == "PSNR, mean: 31.00 dB, at least 30.00 dB"
    missed = "PSNR, mean: 28.50 dB measured, at least 30.00 dB wanted"
    assert str(judge(limit, 28.5)) == missed
    assert judge(limit, math.inf).value == "identical"


BAD = {
    "min_psnr": ["high", "", "nan", math.nan, "inf", -1, True, None, "30 dB"],
    "min_ssim": [1.01, "1,0", "-1.5"],
    "min_speedup": ["2x", -0.1],
    "max_nfc": [0, "0.5", "fourteen"],
    "max_memory": [0, "-5", "2GB!", "GiB", 1.5, "0 MiB"],
    "max_graph_breaks": [-1, "0.5", "none"],
    "max_recompiles": [1.5, "inf", 10**400],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD for value in BAD[name]]
)
def test_a_bad_bound_is_named(name: str, value: object) -> None:
    with pytest.raises(OptionError) as caught:
        make_limits({name: value})
    message = str(caught.value)
    assert f"{name}={value!r} is not allowed" in message
    assert "allowed: a" in message


def test_an_unknown_limit_is_named_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="'min_psn'; did you mean 'min_psnr'"):
        make_limits({"min_psn": 30})
