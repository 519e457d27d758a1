"""Which steps to compute in full: the masks that a table of errors calls for.

    costs[s][g]    what the cached steps between two full ones, s and s + g, add up to

A mask with n full steps is a path of n hops through the steps, so the best one follows
by dynamic programming (a shortest path with a given number of edges).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Costs = Sequence[Mapping[int, float]]
"""By step, then by the distance to the next full step (the run's end counts as one)."""


def best_masks(costs: Costs, most: int, warmup: int = 1) -> dict[int, tuple[int, ...]]:
    """The mask with the least cost for every number of full steps that has one.

    Args:
        costs: one entry per step of the run; distances that are missing are not taken.
        most: full steps, at most.
        warmup: steps at the start that are full in any case.

    Returns:
        By the number of full steps, their indices.
    """
    steps = len(costs)
    start = warmup - 1
    reached = {start: (0.0, tuple(range(warmup)))}
    found = {}
    for count in range(warmup, most + 1):
        ends = [
            (cost + costs[s][steps - s], mask)
            for s, (cost, mask) in reached.items()
            if steps - s in costs[s]
        ]
        if ends:
            found[count] = min(ends)[1]
        reached = _one_more(costs, reached)
    return {n: mask for n, mask in found.items() if n <= steps}


Reached = Mapping[int, tuple[float, tuple[int, ...]]]


def _one_more(
    costs: Costs, reached: Reached
) -> dict[int, tuple[float, tuple[int, ...]]]:
    """By the newest full step, the best way there with one full step more."""
    steps = len(costs)
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    for s, (cost, mask) in reached.items():
        for distance, added in costs[s].items():
            end = s + distance
            if end < steps and cost + added < best.get(end, (math.inf,))[0]:
                best[end] = cost + added, (*mask, end)
    return best


def mask_cost(costs: Costs, mask: Sequence[int]) -> float:
    """What a mask's cached steps add up to; infinite if a distance is not taken."""
    ends = [*mask[1:], len(costs)]
    return sum(
        costs[s].get(end - s, math.inf) for s, end in zip(mask, ends, strict=True)
    )


def even_mask(steps: int, count: int) -> tuple[int, ...]:
    """Full steps that are spread evenly over a run, the first one among them."""
    return tuple(sorted({index * steps // count for index in range(count)}))
