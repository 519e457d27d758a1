"""When to compute in full: every schedule returns a limit on the step's error.

A step is full iff the error that its signal reports exceeds the limit, so ``-inf``
means full and ``inf`` means cached whatever the input is. A static schedule returns
only those two and needs no signal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from rfc_compile.graph_report import GraphReport
from rfc_compile.schedules.decision import Decision
from rfc_compile.schedules.promise import psnr_from_debt

FULL, CACHED = -math.inf, math.inf

LARGEST_INPUT_ERROR = 0.5
"""Of the prediction of a graph's input: error control caches no more where the sampler
is not seen. Smooth samplers leave 0.02 to 0.4, fresh noise 0.6 and more."""

SAME_LATENT = "same_latent"
"""The reason of full steps where a latent is called at several timesteps."""

Intervals = tuple[tuple[float, int], ...]
"""(timestep, one full step in so many once it has passed), in the order of a run."""


class Curvature(NamedTuple):
    """How far a branch's outputs are from a line, measured at its last full step.

    Each weight is that of the row of the batch where it is largest.

    Attributes:
        weight: the sampler's weight of an output times the divided difference of the
            last full outputs in time, over the norm of the latent.
        output_weight: that divided difference over the norm of the output.
        nodes: the times of the last full steps, newest first: predictions go through
            them. Empty where fresh noise makes them err alike at any distance.
        unpaid: whether full steps repay nothing: outputs are mixed part by part (masks,
            overlapping windows), or the solver takes more of them than a fit tells.

    """

    weight: float
    output_weight: float
    nodes: tuple[float, ...]
    unpaid: bool = False

    def joined(self, other: Curvature | None) -> Curvature:
        """The worse of two guidance branches, if they are predicted alike."""
        if other is None or other.nodes != self.nodes:
            return self
        weight = max(self.weight, other.weight)
        output_weight = max(self.output_weight, other.output_weight)
        unpaid = self.unpaid or other.unpaid
        return Curvature(weight, output_weight, self.nodes, unpaid)

    def debt(self, times: Sequence[float]) -> float:
        """What cached steps at these times add to the latent's relative error."""
        nodes, weight = self.nodes, self.weight
        return sum(
            [weight * abs(math.prod([time - node for node in nodes])) for time in times]
        )

    def output_error(self, time: float) -> float:
        """Relative error of the output that is predicted at this time."""
        return self.output_weight * abs(math.prod([time - x for x in self.nodes]))


@dataclass(frozen=True)
class Position:
    """The position of a branch before a step.

    Attributes:
        step: index of the step in its run.
        own_step: steps that the branch has had since it began.
        last_full: index of its last full step, None before one.
        recorded: full steps whose values are kept and may be used.
        since_full: cached steps since the last full one.
        error: sum of the errors of those cached steps, of the worst guidance branch.
        steps: of the whole run, None if unknown.
        times: the timestep of every step so far, this one's last.
        last_interval: steps between its last two full steps; None before two.
        curvature: measured at the last full step; None where it could not be.
        first: the decision about this step where another guidance branch has run it.
        computed: full steps of the run so far.
        process: how its latents mix image and noise; None where that is not known.
        skips: whether a guidance branch that skips steps is called at this one, or may
            be, by the distances of its calls so far; or one has begun a step before.
        same_latent: whether this latent, or the one before, is called at several
            timesteps.
        noisy: whether fresh noise or an edit has lately moved its latent; False where
            nobody has looked.
        unseen: whether the graph sees no latent with its output.

    """

    step: int
    own_step: int
    last_full: int | None
    recorded: int
    since_full: int
    error: float
    steps: int | None
    times: Sequence[float]
    last_interval: int | None = None
    curvature: Curvature | None = None
    first: Decision | None = None
    computed: int = 0
    process: Process | None = None
    skips: bool = False
    same_latent: bool = False
    noisy: bool = False
    unseen: bool = False

    @property
    def noise_level(self) -> Callable[[float], float] | None:
        """To spread full steps over; errors of noise predicted grow with it instead."""
        process = self.process
        return None if process is None or process.by_steps else process.level

    @property
    def places(self) -> Sequence[float]:
        """The times on the axis that predictions go by."""
        process = self.process
        if process is None or not process.by_level:
            return self.times
        return [process.level(time) for time in self.times]


class Process(NamedTuple):
    """A way to mix image and noise, and what the model predicts of it.

    Attributes:
        level: noise level at a timestep, from 1 (noise alone) to 0 (the image).
        factors: (from, to) -> factor of the latent, size of that of the output.
        rounding: by which the second may be off besides.
        by_steps: whether full steps lie best at equal numbers of steps: noise is
            predicted of a latent that is scaled down.
        by_level: whether predictions go by the noise level, not by the timestep.
        largest: its largest timestep.
    """

    level: Callable[[float], float]
    factors: Callable[[float, float], tuple[float, float]]
    rounding: float = 0.0
    by_steps: bool = False
    by_level: bool = False
    largest: float = math.inf


ScheduleOptions: TypeAlias = Any
"""``rfc_compile.Options``, which schedules may not import."""


class Schedule(ABC):
    """Decides between full and cached.

    Attributes:
        name: the value of the option ``schedule`` and the reason it gives.
        static: whether every limit is ``FULL`` or ``CACHED``.
        measures: whether it uses the curvature of full steps.
        by_noise: whether it goes by the noise level, where that is known.

    """

    name: str
    static: bool
    measures: bool = False
    by_noise: bool = False

    def __init__(
        self, options: ScheduleOptions, report: GraphReport | None = None
    ) -> None:
        self.options = options
        self.report = report

    @property
    def untimed(self) -> bool:
        """Whether the times of a run are the numbers of its steps."""
        return self.report is not None and self.report.timestep is None

    @property
    def reason_to_cache(self) -> str:
        """Why a step is cached, for the record."""
        return "scheduled" if self.static else "within_limit"

    def expected_psnr(self, debts: Sequence[float]) -> float | None:
        """The average PSNR of its runs with cached steps, in dB.

        ``debts`` are those measured at the full steps of a run. None without any.
        """
        return psnr_from_debt(max(debts)) if debts else None

    @abstractmethod
    def decide(self, position: Position) -> tuple[float, str]:
        """The largest error with which a step may be cached, and the rule's name."""


def guarded_limit(schedule: Schedule, position: Position) -> tuple[float, str]:
    """The schedule's limit after the checks common to all schedules, and the reason.

    All guidance branches of a step are decided alike: guidance multiplies their
    difference, in which the errors of alike predictions cancel.
    """
    options = schedule.options
    if position.recorded == 0 or position.own_step < options.warmup:
        return FULL, "warmup"
    if position.same_latent:  # the calls of two runs, or of two steps of one
        return FULL, SAME_LATENT
    steps = position.steps
    if steps is not None and steps - options.final_full <= position.step < steps:
        return FULL, "final"
    cap = options.max_cached_run
    if cap is not None and position.since_full >= cap:
        return FULL, "cap"
    first = position.first
    if first is not None:
        return (FULL, first.reason) if first.full else (CACHED, schedule.name)
    limit, reason = schedule.decide(position)
    if position.unseen and schedule.measures and limit > LARGEST_INPUT_ERROR:
        return LARGEST_INPUT_ERROR, "threshold"
    return limit, reason
