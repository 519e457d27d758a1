"""Optimum masks: dynamic programming against every mask there is."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rfc_compile.tools.tuning.masks import best_masks, even_mask, mask_cost

Table = list[dict[int, float]]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Costs of up to 7 steps, some distances left out; no cost for the next step."""
    steps = draw(st.integers(1, 7))
    costs: Table = []
    for step in range(steps):
        distances = draw(st.sets(st.integers(2, max(2, steps - step))))
        taken = [g for g in distances if step + g <= steps]
        costs.append({1: 0.0, **{g: float(draw(st.integers(0, 9))) for g in taken}})
    return costs


def every_mask(steps: int, count: int, warmup: int) -> list[tuple[int, ...]]:
    start = tuple(range(warmup))
    others = itertools.combinations(range(warmup, steps), count - warmup)
    return [(*start, *rest) for rest in others]


@settings(max_examples=200, deadline=None)
@given(costs=tables(), warmup=st.integers(1, 3))
def test_no_mask_is_better(costs: Table, warmup: int) -> None:
    steps = len(costs)
    warmup = min(warmup, steps)
    found = best_masks(costs, steps, warmup)
    for count in range(warmup, steps + 1):
        masks = every_mask(steps, count, warmup)
        least = min(mask_cost(costs, mask) for mask in masks)
        assert (count in found) == (least < math.inf)
        if count in found:
            assert found[count] in masks
            assert mask_cost(costs, found[count]) == least


def test_full_steps_go_where_errors_are_large() -> None:
    steps = 12
    error = [1.0] * 6 + [10.0] * 6  # of a cached step, whatever was before it
    costs = [
        {g: sum(error[s + 1 : s + g]) for g in range(1, steps - s + 1)}
        for s in range(steps)
    ]
    mask = best_masks(costs, 7)[7]
    assert set(mask) >= {0, 6, 7, 8, 9, 10, 11}


def test_a_mask_costs_what_lies_between_its_steps() -> None:
    costs = [{1: 0.0, 2: 5.0}, {1: 0.0, 3: 7.0}, {1: 0.0, 2: 1.0}, {1: 0.0}]
    assert mask_cost(costs, (0, 2)) == 6
    assert mask_cost(costs, (0, 1)) == 7
    assert mask_cost(costs, (0,)) == math.inf
    assert best_masks(costs, 4) == {2: (0, 2), 3: (0, 1, 2), 4: (0, 1, 2, 3)}


@given(steps=st.integers(1, 60), data=st.data())
def test_an_even_mask_has_the_wanted_number(steps: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, steps))
    mask = even_mask(steps, count)
    assert len(mask) == count
    assert mask[0] == 0
    gaps = {b - a for a, b in itertools.pairwise([*mask, steps])}
    assert max(gaps) - min(gaps) <= 1
