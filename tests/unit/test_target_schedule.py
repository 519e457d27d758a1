"""The schedule of budgets on synthetic errors: met, within the guards, well spread."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import RATES, STEPS, full_steps, longest_run, simulate

from rfc_compile import Options
from rfc_compile.schedules.base import Position
from rfc_compile.schedules.decision import Decision
from rfc_compile.schedules.forecast import Forecast


@given(
    RATES,
    RATES,
    st.integers(8, 30),
    st.sampled_from(["sync", "lagged"]),
    st.integers(0, 3),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_run_after_any_other_meets_the_budget(
    before: list[float],
    rates: list[float],
    nfc: int,
    decision: str,
    final: int,
    warmup: int,
) -> None:
    options = {
        "target_nfc": nfc,
        "decision": decision,
        "final_full": final,
        "warmup": warmup,
    }
    earlier = simulate(before, **options)
    decisions = simulate(rates, earlier, STEPS, **options)
    steps = full_steps(decisions)
    assert len(steps) == nfc
    assert steps[:warmup] == list(range(warmup))
    assert steps[nfc - final :] == list(range(STEPS - final, STEPS))


@given(RATES, st.integers(8, 30))
@settings(max_examples=30, deadline=None)
def test_the_first_run_meets_it_if_its_length_is_told(
    rates: list[float], nfc: int
) -> None:
    assert len(full_steps(simulate(rates, (), STEPS, target_nfc=nfc))) == nfc


@given(RATES, st.integers(3, 30), st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_what_is_asked_of_all_schedules_comes_first(
    rates: list[float], nfc: int, cap: int, final: int
) -> None:
    """Nearest to the target that the guards allow."""
    options = {"max_cached_run": cap, "final_full": final, "target_nfc": nfc + final}
    options["warmup"] = 2
    earlier = simulate(rates, **options)
    decisions = simulate(rates, earlier, STEPS, **options)
    assert longest_run(decisions) <= cap
    fewest = 2 + (STEPS - 2 - final) // (cap + 1) + final
    assert len(full_steps(decisions)) == max(nfc + final, fewest)


@given(RATES, st.integers(8, 25), st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_no_run_errs_by_more_than_max_error(
    rates: list[float], nfc: int, bound: float
) -> None:
    decisions = simulate(rates, (), STEPS, target_nfc=nfc, max_error=bound)
    error = 0.0
    for decision in decisions:
        error = 0.0 if decision.full else error + (decision.statistic or 0.0)
        assert error <= bound + 1e-9
    assert len(full_steps(decisions)) >= nfc


def test_full_steps_go_where_the_errors_are() -> None:
    """At four times the rate a cached run is half as long."""
    rates = [0.02] * 25 + [0.08] * 25
    earlier = simulate(rates, target_nfc=14, warmup=2)
    decisions = simulate(rates, earlier, STEPS, target_nfc=14, warmup=2)
    steps = full_steps(decisions)[2:]
    assert len([s for s in steps if s >= 25]) == 8
    assert len([s for s in steps if s < 25]) == 4


@given(RATES, st.integers(8, 25), st.floats(0.3, 3))
@settings(max_examples=40, deadline=None)
def test_large_errors_at_first_do_not_bunch_the_full_steps(
    rates: list[float], nfc: int, first: float
) -> None:
    """Predictions between full steps close together reach less far."""
    rates = [first] * 10 + rates[10:]
    steps = full_steps(simulate(rates, (), STEPS, target_nfc=nfc))
    early = [b - a for a, b in pairwise(steps) if a < STEPS / 2]
    assert min(early) >= STEPS // nfc


def test_a_run_with_larger_errors_is_not_spent_at_once() -> None:
    earlier = simulate([0.02] * STEPS, target_nfc=14)
    same = full_steps(simulate([0.02] * STEPS, earlier, STEPS, target_nfc=14))
    larger = full_steps(simulate([0.06] * STEPS, earlier, STEPS, target_nfc=14))
    assert max(abs(a - b) for a, b in zip(same, larger, strict=True)) <= 3


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(0, 5), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_threshold_gives_the_full_steps_it_is_chosen_for(
    rates: list[float], since: int, wanted: int
) -> None:
    """Unless the count jumps past it, and then to a neighbour."""
    outlook = Forecast(rates, since, error=0.1 * since)
    threshold = outlook.threshold(wanted)
    if math.isinf(threshold):
        extreme = len(rates) if threshold < 0 else 0
        assert outlook.full_steps(threshold) == extreme
        return
    least = outlook.full_steps(threshold * 1.001 + 1e-6)
    most = outlook.full_steps(threshold * 0.999 - 1e-6)
    assert least <= wanted <= most


def test_twenty_steps_have_their_share_of_the_full_steps() -> None:
    """A branch of 10 of the 50 steps."""
    decisions = simulate([0.05] * 10, (), 10, target_nfc=10)
    assert all(d.full for d in decisions)
    options = Options(inner="eager", target_nfc=15, max_cached_run=8)
    schedule = options.make_schedule()
    half = [Decision(25 + i, 1, 0.0, i % 3 == 0, "", 0.1) for i in range(25)]
    position = Position(2, 2, 0, 0.0, 50, 1, half[:2], half)
    assert schedule.limit(position) < math.inf
