"""What a full and a cached step cost, and the times of the settings that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

from rfc_compile.io.schema import made_of
from rfc_compile.tools.measure.target import Target
from rfc_compile.tools.measure.trial import TimedModel
from rfc_compile.tools.tuning.climb import even_mask
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.space import Setting


@dataclass(frozen=True)
class StepCost:
    """The cost of a step, as a share of an uncached one.

    Attributes:
        full: of a step that computes everything.
        cached: of one that predicts.

    """

    full: float
    cached: float

    def speedup(self, nfc: float, steps: int) -> float:
        """Of a run with that many full steps."""
        return steps / (nfc * self.full + (steps - nfc) * self.cached)

    def most_nfc(self, speedup: float, steps: int) -> float:
        """Full steps that a run may have to be so fast; below 0 if none may be."""
        return steps * (1 / speedup - self.cached) / (self.full - self.cached)


def step_cost(
    target: Target,
    graph: Setting,
    steps: int,
    seeds: Sequence[int],
    repeats: int,
    inner: str,
    journal: Journal,
) -> StepCost:
    """The cost of steps with these graphs: from runs with many and with few full ones.

    Args:
        target: the model and sampler.
        graph: the options that the graphs are compiled with.
        steps: of a run.
        seeds: to draw.
        repeats: pairs of runs with and without caching, of either kind.
        inner: the inner backend, which also compiles the uncached model.
        journal: where the result is kept.
    """
    key = {"cost": dict(graph), "seeds": list(seeds), "inner": inner}
    known = journal.get(key, partial(made_of, StepCost))
    if known is not None:
        return known
    many, few = max(2, steps // 2), max(1, steps // 8)
    settings = [
        {**graph, "schedule": "mask", "full_steps": [*even_mask(steps, count)]}
        for count in (many, few)
    ]
    timed = TimedModel(target, settings[0], seeds, inner)
    shares = []
    for setting in settings:
        timed.decide_by(setting)
        shares.append(1 / timed.times(repeats)["speedup"])
    slope = (shares[0] - shares[1]) * steps / (many - few)
    cached = max(0.0, shares[1] - slope * few / steps)
    found = StepCost(cached + max(slope, 1e-3), cached)
    journal.add(key, asdict(found))
    return found
