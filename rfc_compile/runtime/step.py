"""One call of a graph that leads, placed in a run."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.estimators.step_weights import mean_time
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.corrector import Debt
from rfc_compile.runtime.guidance_branch import FARTHEST_GAP, GuidanceBranch
from rfc_compile.runtime.latent_pair import LatentPair
from rfc_compile.runtime.noise_level import find_process, on_axis
from rfc_compile.runtime.repayment import Repayment
from rfc_compile.runtime.run_fits import settle
from rfc_compile.runtime.sampler_fit import Fit
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import MOST_UNFITTED, Time, Trajectory
from rfc_compile.schedules.base import Position
from rfc_compile.schedules.decision import Decision
from rfc_compile.schedules.even import distance

EVERY_STEP = frozenset({1})
"""The gaps of a branch that skips no step."""

FIRST_INTERVAL = 2.0
"""Of the part of a run up to the second full step, as a weight of its error."""


@dataclass(eq=False)
class PlacedStep:
    """One call that leads, placed in a run.

    Attributes:
        context: who calls.
        session: whose state it uses.
        arguments: what Dynamo passes.
        trajectory: the run it belongs to.
        branch: the guidance branch it belongs to.
        step: its index.
        time: its timesteps.
        refused: why it did not continue an earlier branch, for a fresh branch.
        fit: how the latent follows from those of the run, its branch's own output
            first; None if not evaluated.
        leaves: whether its branch continues as a run of its own.
        joins: the run that a branch which leaves joins.
        latents: the arguments that the sampler may move, likeliest first.
        pair: which of them it does, and what is returned for it; None if not known.
        put_off: whether its fit is evaluated only when it is needed.
        follows: whether it is the step right after its branch's newest.
    """

    context: CallContext
    session: Session
    arguments: Sequence[Any]
    trajectory: Trajectory
    branch: GuidanceBranch
    step: int
    time: Time
    refused: str | None = None
    fit: Fit | None = None
    leaves: bool = False
    joins: Trajectory | None = None
    latents: Sequence[Any] = ()
    pair: LatentPair | None = None
    put_off: bool = False
    follows: bool = field(init=False)

    def __post_init__(self) -> None:
        """Compare it with its branch, which is at the step before."""
        self.follows = self.step == self.branch.step + 1

    @functools.cached_property
    def positions(self) -> tuple[float, ...] | None:
        """This step and the kept full ones, on the axis of predictions, newest first.

        None where rows have timesteps that do not move in proportion.
        """
        known, process = self.trajectory.times, self.trajectory.process
        times = [self.time, *[known[step] for step in self.branch.state.full_steps]]
        by_level = process is not None and process.by_level
        if max(map(len, times)) == 1 and not by_level:  # most are
            return tuple([time[0] for time in times])
        return on_axis(process, times)

    def learn_process(self) -> None:
        """The second step of a run shows how its latents mix image and noise."""
        run = self.trajectory
        first = [*run.times[0], *self.time]
        if run.process is None and len(first) == 2:  # one noise level for all of it
            if run.unfitted:
                self._settle()
            find_process(run, self.fit if self.follows else None, *first)

    @functools.cached_property
    def debt(self) -> Debt:
        """What its branch owes before it, with the fit of the step before."""
        if self.trajectory.unfitted:
            self._settle()
        return self.branch.debt.carried_on(self.fit if self.follows else None)

    def _settle(self) -> None:
        """Look at the fits of its run that were put off, its own among them."""
        run = self.trajectory
        seen = self.put_off and self.pair is not None
        settle(run, self.latent if seen else None)
        if self.put_off:
            self.fit, self.put_off = run.fits.get(self.branch.index), False

    @property
    def latent(self) -> Tensor:
        """Its latent, (R, N)."""
        assert self.pair is not None
        return self.pair.latent(self.latents)

    def weight_of_error(self, history: Sequence[int]) -> float:
        """How much the error of a full step's prediction says of the change before it.

        After one full step the prediction was that nothing changes: over a long part
        of the run the change will have turned before the next one. How long it is, the
        noise level alone tells; declared steps may be those of several images.
        """
        run, process = self.trajectory, self.trajectory.process
        if len(history) > 1:
            return 1.0
        if process is None:
            return 0.0
        times = run.timesteps[history[0]], mean_time(self.time)
        return FIRST_INTERVAL * distance(process.level, *times)

    @property
    def is_replaced(self) -> bool:
        """Whether a callback has given a named run another latent."""
        unexplained = self.pair is None or self.debt.fit is None
        return self.context.run_is_known and unexplained

    @property
    def position(self) -> Position:
        """Where its branch stands, for the schedule."""
        run, branch = self.trajectory, self.branch
        known, computed = run.timesteps[: self.step], run.computed
        measures = run.schedule is not None and run.schedule.measures
        kept, curvature = branch.state.full_steps, branch.curvature
        lately = self.step - run.same_latent <= MOST_UNFITTED
        if self.put_off and (len(kept) == 1 or lately):
            self._settle()  # tells whether the latent has moved, and by noise
        first, beside = None, [b for b in run.branches if b is not branch]
        if run.linked:
            known, computed = self._with_linked()
            newer = self.step - FARTHEST_GAP
            beside = [b for b in run.beside(branch) if b.step >= newer]
        skips = 0 <= branch.step < self.step - 1 or not branch.gaps <= EVERY_STEP
        for other in beside:
            due = self.step - other.step in other.gaps
            skips |= due and not other.gaps <= EVERY_STEP
        if beside:
            skips |= self._second_of_a_late_one([branch, *beside])
            first = run.decided(self.step, kept)
        if curvature is not None:
            for other in beside:
                curvature = curvature.joined(other.curvature)
        return Position(
            step=self.step,
            own_step=self.step - branch.first_step,
            last_full=kept[0] if kept else None,
            recorded=len(kept),
            since_full=branch.since_full,
            error=max([branch.error, *[other.error for other in beside]]),
            steps=run.steps,
            times=[*known, mean_time(self.time)],
            last_interval=kept[0] - kept[1] if len(kept) > 1 else None,
            curvature=curvature,
            first=first,
            computed=computed,
            process=run.process,
            skips=skips and not run.in_parts,
            same_latent=run.same_latent >= self.step - 1,
            noisy=measures and not run.unfitted and self.debt.noisy > 0,
            unseen=self.pair is None,
        )

    def _with_linked(self) -> tuple[list[float], int]:
        """The timesteps of all steps before, and how many were full.

        Linked runs have had those that its run lacks.
        """
        run, step = self.trajectory, self.step
        known = run.timesteps[:step]
        for linked in run.linked:
            known.extend(linked.timesteps[len(known) : step])
        known.extend([mean_time(self.time)] * (step - len(known)))
        before = [linked.computed for linked in run.linked if linked.step < step]
        return known, max([run.computed, *before])

    def _second_of_a_late_one(self, branches: Sequence[GuidanceBranch]) -> bool:
        """Whether a branch has begun at the step before, beside all that there were.

        It is predicted from fewer outputs than the others. One that takes another's
        place (a prompt that changes) is not late: no more calls are made than before.
        """
        if not any(0 < branch.first_step == self.step - 1 for branch in branches):
            return False
        runs = self.trajectory, *self.trajectory.linked
        calls = Counter(made.step for run in runs for made in run.decisions)
        return calls[self.step - 1] > calls[self.step - 2] > 0

    def decided(
        self,
        run: Trajectory,
        signal: Signal,
        reason: str,
        repayment: Repayment | None,
        *,
        full: bool,
    ) -> Decision:
        """The record of it, as a step of this run."""
        seen = signal if self.branch.step >= 0 and signal.finite else None
        return Decision(
            step=self.step,
            branch=self.branch.index,
            timestep=run.timesteps[self.step],
            full=full,
            reason=reason if signal.finite else "non_finite",
            statistic=None if seen is None else seen.error,
            change=None if seen is None else seen.change,
            true_error=None if repayment is None else repayment.true_error,
            debt=None if repayment is None else repayment.debt,
            repaid=None if repayment is None else repayment.repaid,
        )

    @property
    def place(self) -> tuple[Hashable, ...]:
        """What the decision depends on besides the signal: equal on all ranks."""
        run, branch = self.trajectory, self.branch
        return (
            self.step,
            branch.index,
            branch in run.branches,
            len(run.branches),
            len(run.times),
            len(run.decisions),
            run.steps,
            tuple(branch.state.full_steps),
            branch.since_full,
            len(run.changes),
            run.same_latent,
            *sorted(run.varying),
        )

    def run(self, signal: Signal) -> Trajectory:
        """Its run, or a new one where it is another image.

        A branch that leaves its run continues in its own, or joins one. A first step
        once more, with the conditioning, name and weights of a branch that has had it,
        is that of another image: of one that has begun with the same latent and lacks
        it, or of a new one. A run that the caller has named is one whatever it repeats.
        """
        run, branch = self.trajectory, self.branch
        if self.leaves:
            own = run.split_off(branch)
            if self.joins is None:
                return self.session.add(own)
            self.joins.take_over(own)
            return self.joins
        if branch in run.branches or not run.branches or run.in_parts:
            return run
        if not self._is_repeated(run, signal):
            return run
        if self.context.run_is_known:
            run.in_parts |= self.step == 0
            return run
        for other in self.session.live:
            if self._begins(other) and not self._is_repeated(other, signal):
                branch.index = other.free_index
                return other
        branch.index = branch.first_step = 0
        begun = self.session.begin(self.context)
        self.step = 0
        return begun

    def _is_repeated(self, run: Trajectory, signal: Signal) -> bool:
        """Whether a branch of the run has had this call."""
        return any(
            other.step == self.step
            and other.conditioning == signal.conditioning
            and other.name == self.context.branch
            and other.state.computed_with == self.branch.state.computed_with
            for other in run.branches
        )

    def _begins(self, run: Trajectory) -> bool:
        """Whether another run has begun with this latent and made no step more."""
        if self.step > 0 or run.run != self.trajectory.run or run.times != [self.time]:
            return False
        known = [one.returned[0].latent for one in run.branches[:1] if one.returned]
        own = None if self.pair is None else self.latent
        return own is not None and any(torch.equal(own, latent) for latent in known)
