"""What a cached and a full step cost, as ratios over the uncached compiled forward.

Steps: DiT-B (width 768, 12 blocks) with the blocks as one region, which is the default,
and with every estimator of single modules; DiT-XL/2 (width 1152, 28 blocks) with the
default of either alone; both at 256 tokens,
batch 2, random weights, float32, on inputs that change smoothly. Each variant runs full
and cached steps in turn, between them the uncached model, all in one process; whether a
call was full comes from `stats`. End to end: whole 50-step runs of the bundled model.
"""

import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

import rfc_compile
from benchmarks.random_models import CALLS, moving_inputs
from benchmarks.report import Grid, console, publish, verdict
from rfc_compile.tools.bench.workloads import DIT_B, random_dit
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.trial import compile_model, elapsed

CACHED_TARGETS: Final = {"module": 0.04, "stack": 0.015}
FULL_TARGET: Final = 1.02
"""Largest shares of the uncached step; of a cached step by granularity."""

_WARMUP: Final = 8
"""Untimed calls: full and cached steps until everything is compiled and has history."""
_SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "interval": {"schedule": "interval", "interval": 2, "max_cached_run": None},
    "rcs": {"schedule": "rcs", "threshold": 1e9, "max_cached_run": 1},
}
"""Both alternate full and cached steps; `rcs` by its cap, so that the probe decides."""
_RUN_SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "interval 4": {"schedule": "interval", "interval": 4, "max_cached_run": None},
    "rcs, at most 3 cached": {"threshold": 1e9, "max_cached_run": 3},
}
_STEPS: Final = 50


@dataclass(frozen=True)
class Variant:
    """What is measured: an estimator with its order, a schedule, a granularity."""

    estimator: str
    order: int
    schedule: str
    granularity: str = "module"

    def __str__(self) -> str:
        """Short enough for a line."""
        name = f"{self.estimator} {self.order}" if self.order else self.estimator
        return f"{name}, {self.schedule}, {self.granularity}"

    def options(self) -> dict[str, Any]:
        """For `torch.compile`."""
        return {
            "estimator": self.estimator,
            "order": self.order,
            "granularity": self.granularity,
            "warmup": 2,
            **_SCHEDULES[self.schedule],
        }


_MODULES: Final = tuple(Variant("subspace", 2, name) for name in _SCHEDULES)
_DEFAULT: Final = tuple(Variant("taylor", 2, name, "stack") for name in _SCHEDULES)
_OTHERS: Final = tuple(
    Variant(estimator, order, schedule)
    for estimator, order in (("rfe", 1), ("taylor", 1), ("reuse", 0))
    for schedule in _SCHEDULES
)


@dataclass
class Times:
    """Seconds of each timed call of one kind."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """In seconds."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        """Median and quartiles in milliseconds."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return f"{self.median * 1e3:.1f} [{low * 1e3:.1f}, {high * 1e3:.1f}]"


@dataclass(frozen=True)
class StepCost:
    """The times of one variant, and of the uncached model next to it.

    Attributes:
        uncached: calls of the model compiled by the inner backend alone.
        probe: the probe inside both kinds of steps; empty for a static schedule.
        host: what a cached step spends outside its graphs.
    """

    model: str
    variant: Variant
    uncached: Times = field(default_factory=Times)
    full: Times = field(default_factory=Times)
    cached: Times = field(default_factory=Times)
    probe: Times = field(default_factory=Times)
    host: Times = field(default_factory=Times)

    def share(self, times: Times) -> float:
        """A median over that of the uncached model."""
        return times.median / self.uncached.median

    def fastest(self, times: Times) -> float:
        """The same of the fastest calls, which other processes disturb least."""
        return min(times.seconds) / min(self.uncached.seconds)

    def row(self) -> list[str]:
        """One line of the table."""
        probe = f"{self.share(self.probe):.2%}" if self.probe.seconds else "-"
        return [
            self.model,
            str(self.variant),
            str(self.uncached),
            str(self.full),
            str(self.cached),
            f"{self.share(self.full):.3f} ({self.fastest(self.full):.3f})",
            f"{self.share(self.cached):.1%} ({self.fastest(self.cached):.1%})",
            probe,
            f"{self.host.median * 1e6:.0f}",
        ]


@contextmanager
def fresh_compiler() -> Iterator[None]:
    """Forget every compiled model, before and after."""
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


@torch.no_grad()
def measure_steps(
    model: nn.Module, variant: Variant, rounds: int, *, batch: int = 2, name: str = ""
) -> StepCost:
    """Time one variant against the uncached model; two steps of it per round."""
    cost = StepCost(name, variant)
    with fresh_compiler(), rfc_compile.trajectory("run", num_steps=CALLS):
        plain = compile_model(model, "inductor")
        ours = compile_model(model, "inductor", variant.options())
        calls = moving_inputs(model, batch)
        for _ in range(_WARMUP):
            ours(**next(calls))
        plain(**next(calls))
        for _ in range(rounds):
            arguments = next(calls)
            cost.uncached.seconds.append(elapsed(lambda a=arguments: plain(**a)))
            for _ in range(2):
                _measure_step(ours, next(calls), cost)
    if len(cost.full.seconds) != len(cost.cached.seconds):
        raise RuntimeError(f"full and cached steps did not alternate: {cost}")
    return cost


def _measure_step(
    ours: nn.Module, arguments: dict[str, Tensor], cost: StepCost
) -> None:
    before = rfc_compile.stats(ours).graph_seconds
    seconds = elapsed(lambda: ours(**arguments))
    statistics_ = rfc_compile.stats(ours)
    decision = statistics_.decisions[-1]
    if decision.reason not in ("interval", "cap", "scheduled", "within_limit"):
        raise RuntimeError(f"a step was not as planned: {decision}")
    graphs = {
        name: statistics_.graph_seconds[name] - before[name]
        for name in statistics_.graph_seconds
    }
    if decision.full:
        cost.full.seconds.append(seconds)
        return
    cost.cached.seconds.append(seconds)
    cost.host.seconds.append(seconds - sum(graphs.values()))
    if "probe" in graphs:
        cost.probe.seconds.append(graphs["probe"])


@torch.no_grad()
def measure_runs(count: int, repeats: int) -> list[dict[str, Any]]:
    """Whole runs of the bundled model: uncached and with 14 full steps of 50."""
    settings: dict[str, dict[str, Any] | None] = {"uncached": None}
    for regions, granularity in (("modules", "module"), ("stack", "stack")):
        for name, schedule in _RUN_SCHEDULES.items():
            own = {"granularity": granularity, "warmup": 2, **schedule}
            settings[f"{regions}, {name}"] = own
    device = glyph_dit.default_device()
    labels = torch.arange(count, device=device) % glyph_dit.NUM_CLASSES

    def draw(model: nn.Module, seed: int) -> Tensor:
        return glyph_dit.sample(model, labels=labels, seed=seed, steps=_STEPS)

    with fresh_compiler():
        models = {
            name: compile_model(
                glyph_dit.load_glyph_dit().to(device), "inductor", options
            )
            for name, options in settings.items()
        }
        times = {name: Times() for name in settings}
        for model in models.values():
            draw(model, 0)
        for repeat in range(repeats):
            for name, model in models.items():
                seconds = elapsed(lambda m=model, r=repeat: draw(m, 16 * r))
                times[name].seconds.append(seconds)
        return [
            _run_record(name, times, rfc_compile.stats(models[name]).nfc or _STEPS)
            for name in settings
        ]


def _run_record(name: str, times: dict[str, Times], nfc: int) -> dict[str, Any]:
    speedup = times["uncached"].median / times[name].median
    return {
        "setting": name,
        "nfc": nfc,
        "seconds": times[name].seconds,
        "speedup": speedup,
        "share_of_ideal": speedup / (_STEPS / nfc),
    }


def _step_grid(costs: Sequence[StepCost]) -> Grid:
    header = ["model", "variant", "uncached ms", "full ms", "cached ms"]
    header += ["full", "cached", "probe", "host us"]
    title = "A step: median [quartiles]; ratios of medians (of fastest calls)"
    return Grid(title, header, [cost.row() for cost in costs])


def _run_grid(runs: Sequence[dict[str, Any]], count: int) -> Grid:
    header = ["setting", "NFC", "seconds", "speed-up", "of steps / NFC"]
    rows = [
        [
            run["setting"],
            str(run["nfc"]),
            f"{statistics.median(run['seconds']):.2f}",
            f"{run['speedup']:.2f}",
            f"{run['share_of_ideal']:.0%}",
        ]
        for run in runs
    ]
    title = f"{_STEPS} DDIM steps of glyph-dit, {count} images, guidance 2"
    return Grid(title, header, rows)


def _verdicts(costs: Sequence[StepCost]) -> list[str]:
    return [
        verdict(
            cost.share(times) <= target,
            f"{kind} steps, {cost.model}, {cost.variant}: {cost.share(times):.1%} of "
            f"uncached (target {target:.1%})",
        )
        for cost in costs
        for kind, times, target in (
            ("cached", cost.cached, CACHED_TARGETS[cost.variant.granularity]),
            ("full", cost.full, FULL_TARGET),
        )
    ]


def _measure_each(
    model: nn.Module, name: str, variants: Sequence[Variant], rounds: int
) -> list[StepCost]:
    costs = []
    for variant in variants:
        costs.append(measure_steps(model, variant, rounds, name=name))
        console.print(" | ".join(costs[-1].row()), highlight=False)
    return costs


def run(args: Namespace) -> None:
    """Steps of DiT-B, and whole runs of the bundled model."""
    repeats, count, rounds = (3, 4, 5) if args.quick else (5, 8, 15)
    variants = (*_MODULES, *_DEFAULT, *(() if args.quick else _OTHERS))
    costs = _measure_each(DIT_B.make(), DIT_B.name, variants, rounds)
    runs = measure_runs(count, repeats)
    data = {"steps": [asdict(cost) for cost in costs], "runs": runs}
    grids = [_step_grid(costs), _run_grid(runs, count)]
    publish("speed", "Cost of a step", data, grids, _verdicts(costs))


def run_xl(args: Namespace) -> None:
    """Steps of DiT-XL/2."""
    model = random_dit(heads=16, head_width=72, layers=28)
    variants = (*_MODULES, *_DEFAULT)
    costs = _measure_each(model, "DiT-XL/2", variants, 3 if args.quick else 7)
    data = {"steps": [asdict(cost) for cost in costs]}
    publish("speed_xl", "Cost of a step", data, [_step_grid(costs)], _verdicts(costs))
