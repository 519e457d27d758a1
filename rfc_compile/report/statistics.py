"""``stats``: the newest run of a compiled model in numbers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from rfc_compile.graph_report import (
    model_of,
    reports_of,
    tensor_ids,
    uncached_reasons,
)
from rfc_compile.report.drawing import drawing
from rfc_compile.report.numbers import counted, size
from rfc_compile.runtime.registry import Dispatcher, newest_run
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.decision import Decision

if TYPE_CHECKING:
    from matplotlib.figure import Figure


REASONS: Final = {
    "warmup": "first steps of a run",
    "error_control": "the error owed would be too large",
    "not_foretold": "min_psnr, and the error cannot be estimated",
    "even": "due by the even spread",
    "noise_level": "due by the spread over the noise level",
    "skipped": "a guidance branch is not called at every step, or has just begun",
    "threshold": "predicted too badly",
    "interval": "due by the interval",
    "mask": "listed in full_steps",
    "cap": "longest run of cached steps",
    "final": "last steps of a run",
    "conditioning": "another prompt or condition",
    "new_run": "a new run begins",
    "discontinuity": "a block's input does not go on from its last",
    "no_clock": "no input of a block tells one step from the next",
    "timesteps": "rows or tokens differ in how their timesteps move",
    "same_latent": "a latent is called at several timesteps",
    "weights": "the weights changed",
    "non_finite": "the prediction was NaN or Inf",
    "lost_state": "somebody freed the state",
    "no_history": "nothing to predict from yet",
    "within_limit": "predicted well enough",
    "scheduled": "by the schedule",
}
"""Why a step was full or cached, in words."""


@dataclass(frozen=True)
class Statistics:
    """A trajectory in numbers.

    Attributes:
        name: the owner: a thread, a task or the name given to ``trajectory``.
        nfc: full computations, over all CFG branches.
        steps: denoising steps so far.
        decisions: one record per call of the model.
        estimator: what predicts the regions at cached steps, all alike: ``taylor 2``.
        estimated_psnr: average PSNR of such runs against the uncached image, in dB (+-
            5): inf with every step full, None if no full step has measured the error
            of cached ones. Of several samples the least.
        cache_bytes: bytes of state held now, over all branches; 0 when finished.
        graph_seconds: time in each graph since it was compiled, in seconds.
        last: the trajectory before this one, None if there was none.
        uncached_reasons: why forwards, or steps of them, ran uncached.
        samples: with ``per_sample=True`` every sample's, in the order in which they
            joined, the last 64 of those that have left among them. The numbers above
            are then sums, ``steps`` the most, and ``branch`` of a decision is the index
            of its sample.
    """

    name: str = ""
    nfc: int = 0
    steps: int = 0
    decisions: tuple[Decision, ...] = ()
    estimator: str = ""
    estimated_psnr: float | None = None
    cache_bytes: int = 0
    graph_seconds: dict[str, float] = field(default_factory=dict)
    last: Statistics | None = None
    uncached_reasons: tuple[str, ...] = ()
    samples: tuple[Statistics, ...] = ()

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The name of ``uncached_reasons`` in 0.1."""
        return self.uncached_reasons

    def plot(self) -> Figure:
        """The prediction error and the decisions, with their reasons, step by step.

        Needs matplotlib, which the extra `demo` has.

        Raises:
            ModuleNotFoundError: there is no matplotlib.
        """
        figure: Figure = drawing("statistics_plot").statistics_figure(self)
        return figure

    def __str__(self) -> str:
        """Totals, the reasons of full and cached steps, and why calls ran uncached."""
        reasons = [f"uncached: {reason}" for reason in self.uncached_reasons]
        if not self.decisions:
            return "\n".join(["no step yet", *reasons])
        return "\n".join(
            [
                f"{self._counts()}; {self._state()}",
                *(f"  {kind}: {counts}" for kind, counts in self._reasons().items()),
                *reasons,
            ]
        )

    def _counts(self) -> str:
        calls = len(self.decisions)
        branches = len({decision.branch for decision in self.decisions})
        word = "samples" if self.samples else "guidance branches"
        of = f", {branches} {word}" if branches > 1 else ""
        fewer = f"{calls / self.nfc:.1f}x fewer" if self.nfc else "none full"
        return (
            f"{counted(self.steps, 'step')}{of}: {self.nfc} full, {calls - self.nfc} "
            f"cached ({fewer}){self._quality()}"
        )

    def _quality(self) -> str:
        known = self.estimated_psnr is not None and self.estimated_psnr < math.inf
        return f", about {self.estimated_psnr:.0f} dB on average" if known else ""

    def _state(self) -> str:
        if not self.cache_bytes:
            return "its state is freed"
        return f"{size(self.cache_bytes)} of state held"

    def _reasons(self) -> dict[str, str]:
        """For full and for cached steps, how often each reason decided."""
        counts = Counter((d.full, d.reason) for d in self.decisions)
        return {
            kind: ", ".join(
                f"{count} {reason} ({REASONS.get(reason, 'not explained')})"
                for (full, reason), count in counts.items()
                if full == is_full
            )
            for kind, is_full in (("full", True), ("cached", False))
            if any(full == is_full for full, _ in counts)
        }


def stats(model: Any = None) -> Statistics:
    """The current trajectory of a compiled model, the one before it in ``.last``.

    With several graphs, shapes or owners: the one that ran most recently. With
    ``per_sample=True`` it sums up the samples, each of which is in ``.samples``.
    Takes a module or a pipeline of diffusers; None for the newest run of all models.

    Raises:
        TypeError: the model is something else.
    """
    model = model_of(model)
    ids = tensor_ids(model)
    reports = reports_of(model, ids)
    return replace(_newest(model, ids), uncached_reasons=uncached_reasons(reports))


def _newest(model: nn.Module | None, ids: frozenset[int] | None) -> Statistics:
    newest = newest_run(model, ids)
    if newest is None:
        return Statistics()
    session, dispatcher = newest
    with session.lock:  # not in the midst of another thread's step
        if session.samples.joined:
            return _of_samples(session, dispatcher)
        last = None if session.last is None else _statistics(session.last, dispatcher)
        if session.current is None:
            return Statistics(last=last)
        held = sum(branch.bytes for run in session.running for branch in run.branches)
        current = _statistics(session.current, dispatcher)
        return replace(current, last=last, cache_bytes=held)


def _statistics(trajectory: Trajectory, dispatcher: Dispatcher) -> Statistics:
    graphs = dispatcher.graphs
    return Statistics(
        name=trajectory.name,
        nfc=trajectory.nfc,
        steps=len(trajectory.timesteps),
        decisions=tuple(trajectory.decisions),
        estimator=f"{dispatcher.options.estimator} {dispatcher.options.order}",
        estimated_psnr=_estimated_psnr(trajectory),
        cache_bytes=sum(branch.bytes for branch in trajectory.branches),
        graph_seconds={name: graph.seconds for name, graph in graphs.items()},
    )


def _estimated_psnr(run: Trajectory) -> float | None:
    decisions, schedule = run.decisions, run.schedule
    if all(made.full for made in decisions):
        return math.inf if decisions else None
    debts = [made.debt for made in decisions if made.debt is not None]
    return None if schedule is None else schedule.expected_psnr(debts)


def _of_samples(session: Session, dispatcher: Dispatcher) -> Statistics:
    samples = tuple([_statistics(x, dispatcher) for x in session.samples.trajectories])
    estimates = [sample.estimated_psnr for sample in samples]
    known = [estimate for estimate in estimates if estimate is not None]
    return replace(
        samples[-1],
        nfc=sum(sample.nfc for sample in samples),
        steps=max(sample.steps for sample in samples),
        estimated_psnr=min(known) if len(known) == len(samples) else None,
        decisions=tuple(
            replace(decision, branch=number)
            for number, sample in enumerate(samples)
            for decision in sample.decisions
        ),
        cache_bytes=sum(sample.cache_bytes for sample in samples),
        samples=samples,
    )
