"""Whole runs at DiT-B size, as shares of the possible speed-up of steps / full steps.

The settings are those that `rfc-compile bench` times: 14 full steps of 50, without and
with a probe at every step. After every few steps the uncached model is called once, so
that a machine that grows slower in the middle of a run slows both.
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import Any, Final

import torch
from torch import Tensor

import rfc_compile
from benchmarks.report import RESULTS, Grid, console, save, show
from benchmarks.speed import fresh_compiler
from rfc_compile.tools.bench.methods.base import INDUCTOR, compile_model, describe
from rfc_compile.tools.bench.methods.rfc import METHODS
from rfc_compile.tools.bench.workloads import (
    DIT_B,
    REPORT_SEED,
    STEPS,
    Denoise,
    Step,
    plain,
)
from rfc_compile.tools.measure.trial import elapsed

TARGETS: Final = {"module": 0.9, "stack": 0.95}
"""Smallest shares of the possible speed-up, by granularity."""

_IMAGES: Final = 2
_WARMUP: Final = 8
"""Untimed steps: full and cached ones, until everything is compiled."""
_EVERY: Final = 5
"""Steps from one uncached call to the next; odd, so that all kinds of steps precede."""


@dataclass(frozen=True)
class Run:
    """One run of `STEPS` steps.

    Attributes:
        full: seconds of its full steps.
        cached: seconds of its cached steps.
        uncached: seconds of the uncached calls in between.

    """

    full: list[float]
    cached: list[float]
    uncached: list[float]

    @property
    def share(self) -> float:
        """Of the possible speed-up, which is steps / full steps."""
        return (
            len(self.full)
            * statistics.mean(self.uncached)
            / (sum(self.full) + sum(self.cached))
        )


@dataclass(frozen=True)
class Cost:
    """The runs of one setting.

    Attributes:
        granularity: of the regions.
        setting: the options, in a line.
        runs: those that were timed.

    """

    granularity: str
    setting: str
    runs: list[Run] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The median of the runs."""
        return statistics.median(run.share for run in self.runs)

    def row(self) -> list[str]:
        """One line of the table."""
        uncached = self._median("uncached")
        full, cached = self._median("full"), self._median("cached")
        run, steps = self.runs[0], len(self.runs[0].full) + len(self.runs[0].cached)
        mixed = len(run.full) * full + len(run.cached) * cached
        shares = sorted(run.share for run in self.runs)
        return [
            self.setting,
            f"{len(run.full)} of {steps}",
            f"{uncached * 1e3:.0f}",
            f"{full / uncached:.3f}",
            f"{cached / uncached:.1%}",
            f"{self.share:.1%} [{shares[0]:.1%}, {shares[-1]:.1%}]",
            f"{len(run.full) * uncached / mixed:.1%}",
        ]

    def _median(self, kind: str) -> float:
        return statistics.median(s for run in self.runs for s in getattr(run, kind))


class _InTurn:
    """Calls one model, now and then another one with the same inputs; times both."""

    def __init__(self, ours: Denoise, other: Denoise) -> None:
        self._ours, self._other = ours, other
        self.seconds: list[float] = []
        self.others: list[float] = []

    def __call__(self, step: Step, x: Tensor, /, **inputs: Tensor) -> Tensor:
        """One step of ours."""
        results: list[Tensor] = []
        call = self._ours
        self.seconds.append(elapsed(lambda: results.append(call(step, x, **inputs))))
        if step.index % _EVERY == _EVERY // 2:
            self.others.append(elapsed(lambda: self._other(step, x, **inputs)))
        return results[0]


@torch.no_grad()
def measure(granularity: str, setting: dict[str, Any], rounds: int) -> Cost:
    """Time runs of one setting, each from an empty state."""
    cost = Cost(granularity, describe(setting))
    with fresh_compiler():
        model = DIT_B.make()
        ours = compile_model(model, "rfc", dynamic=False, options=setting)
        other = plain(compile_model(model, INDUCTOR))
        DIT_B.draw(_InTurn(plain(ours), other), _IMAGES, _WARMUP, REPORT_SEED)
        for _ in range(rounds):
            rfc_compile.reset(ours)
            turns = _InTurn(plain(ours), other)
            DIT_B.draw(turns, _IMAGES, STEPS, REPORT_SEED)
            decisions = rfc_compile.stats(ours).decisions
            full = list(compress(turns.seconds, [d.full for d in decisions]))
            cached = list(compress(turns.seconds, [not d.full for d in decisions]))
            cost.runs.append(Run(full, cached, turns.others))
    return cost


def _measured_before() -> Iterator[Cost]:
    path = RESULTS / "end_to_end.json"
    if path.exists():
        for item in json.loads(path.read_text())["costs"]:
            yield Cost(**{**item, "runs": [Run(**run) for run in item["runs"]]})


def run(*, quick: bool, only: str = "") -> None:
    """Measure, print and write `results/end_to_end.json` and `end_to_end.md`.

    With ``only``, measure that granularity; the other stays as the results have it.
    """
    kept = {cost.setting: cost for cost in _measured_before()} if only else {}
    costs = []
    for granularity in TARGETS:
        (method,) = (m for m in METHODS if m.name == f"rfc, {granularity}")
        for setting in method.on_shapes:
            if only in granularity:
                cost = measure(granularity, dict(setting), 2 if quick else 5)
            elif (line := describe(setting)) in kept:
                cost = kept[line]
            else:
                continue
            costs.append(cost)
            console.print(" | ".join(cost.row()), highlight=False)
    header = ["setting", "full steps", "uncached ms", "full", "cached"]
    header += ["of steps / full steps [least, most]", "by medians"]
    grid = Grid(
        f"{DIT_B.name}, {_IMAGES} images: a step over an uncached one, a whole run",
        header,
        [cost.row() for cost in costs],
    )
    show(grid)
    verdicts = [
        f"{cost.setting}: {cost.share:.1%} of the possible speed-up "
        f"(target {TARGETS[cost.granularity]:.0%}): "
        f"{'met' if cost.share >= TARGETS[cost.granularity] else 'missed'}"
        for cost in costs
    ]
    console.print("\n".join(verdicts), highlight=False)
    save(
        "end_to_end",
        "Whole runs at DiT-B size",
        {"costs": [asdict(cost) for cost in costs]},
        [grid.markdown(), *(f"- {line}" for line in verdicts)],
    )
