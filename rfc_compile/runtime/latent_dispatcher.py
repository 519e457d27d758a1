"""A graph that is not given the timestep: a block compiled by itself.

Which step a call is, and of which CFG branch, shows in its other inputs:

    the latent stands still                        the same step, another branch
    the latent moves on, and the same inputs       the branch's next step
      change that changed at every step before
      (its clock: the timestep's embedding), or
      none of them (Heun's two calls)
    nothing is new, again and again                no step: full, and leads nobody
    no conditioning is new but the latent moves    so, too, if other graphs may lead
    the latent is about as near to the run's       a new trajectory: images take turns
      first as to its last
    anything else, or a clock that has shown       a new trajectory
      the same before

The graphs are ``probe`` (the signal and nothing else), ``full`` and ``cached`` (whole).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from rfc_compile.estimators.step_signal import Signal, farthest_move
from rfc_compile.runtime import model_forward
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.dispatcher import ALONE, Dispatcher
from rfc_compile.runtime.graph_inputs import GraphInputs
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.latent_pair import copies_of_tensors
from rfc_compile.runtime.parameter_versions import ParameterVersion
from rfc_compile.runtime.run_notes import is_short, note_short_runs
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import MAX_BRANCHES, Trajectory
from rfc_compile.schedules.base import FULL

CLEARLY_NEARER = 0.5
"""Of two branches that a call may continue, the second is taken for likelier if its
conditioning is nearer than this share of the first's distance: then neither is."""

FIRST_STEPS = 8
FARTHER = 1.2
"""From the third step on, for so many, a latent is farther from its run's first than
from its last by more than this: 2 times at the third, 1.4 by fresh noise alone. Images
that are drawn in turn are about as far from both."""

KEPT_READINGS = 3
"""Of the conditioning of the last calls: one for each guidance branch."""

CANNOT_LEAD = "one graph of the forward is computed at every step: its steps look alike"

NO_CLOCK = (
    "no input of this graph changes with the timestep, so its steps cannot be "
    "distinguished from those of other images"
)

UNLED = 3
"""Forwards in a row of such a graph in which no other one leads, before a warning."""


@dataclass(frozen=True)
class Placement:
    """Where a call belongs.

    Attributes:
        branch: the branch it continues, None for a fresh one.
        reason: why it continues no branch; None for the first call of all.
    """

    branch: GuidanceBranch | None
    step: int
    reason: str | None = None
    new: bool = False


def place(
    trajectory: Trajectory,
    signals: dict[GuidanceBranch, Signal],
    context: CallContext,
    weights: ParameterVersion,
    latents: Sequence[Tensor],
) -> Placement:
    """Find the branch that a call continues.

    ``signals`` holds the call's signal against every branch of the trajectory,
    ``context`` tells the name of its branch, where that is known; ``latents`` are those
    of the call.
    """
    newest, name = trajectory.newest, context.branch
    if newest is None:
        return Placement(None, 0, new=True)
    if not context.run_is_known and _takes_turns(trajectory, signals[newest], latents):
        return Placement(None, 0, "discontinuity", new=True)
    standing = signals[newest].change == 0
    if not standing and any(_shown_before(b, signals[b]) for b in signals):
        return Placement(None, 0, "discontinuity", new=True)
    step = trajectory.step if standing else trajectory.step + 1
    reasons = {b: _refusal(b, signals[b], weights, context) for b in signals}
    open_to = [
        b
        for b in signals
        if reasons[b] is None and b.step < step and b.name in (None, name)
    ]
    if open_to:
        likeliest = _likeliest(open_to, signals)
        if likeliest is not None:
            return Placement(likeliest, step)
        return Placement(None, 0, "conditioning", new=True)
    other_inputs = newest.differing(signals[newest])
    other_weights = newest.state.computed_with != weights
    another = other_inputs or other_weights or newest.name != name
    if standing and another and not trajectory.full_up:
        return Placement(None, step, "conditioning")
    return Placement(None, 0, reasons[newest] or "discontinuity", new=True)


def _refusal(
    branch: GuidanceBranch,
    signal: Signal,
    weights: ParameterVersion,
    context: CallContext,
) -> str | None:
    """Why a call is not the branch's next step; None if it may be."""
    if branch.state.computed_with != weights:
        return "weights"
    if not branch.state.full_steps:
        return "no_history"
    if not signal.finite:
        return "non_finite"
    if signal.change == 0 or (branch.jumps(signal.change) and not context.run_is_known):
        return "discontinuity"
    differing = branch.differing(signal)
    if not differing:  # another stage at this timestep (Heun), or another image
        stage = branch.clock is not None
        known = context.run_is_known or branch.has_stages
        return None if stage and known else "no_clock"
    if branch.clock is not None and differing != branch.clock:
        return "conditioning"
    if branch.clock_reading(signal.conditioning) in branch.clock_readings:
        return "discontinuity"
    return None


def _shown_before(branch: GuidanceBranch, signal: Signal) -> bool:
    """Whether the clock shows what it did at an earlier step than the branch's last."""
    if branch.clock is None or not signal.finite:
        return False
    shown = branch.clock_reading(signal.conditioning)
    last = branch.clock_reading(branch.conditioning)
    return shown != last and shown in branch.clock_readings


def _takes_turns(
    trajectory: Trajectory, signal: Signal, latents: Sequence[Tensor]
) -> bool:
    """Whether a latent is as near to that of the run's first step as to the last."""
    if trajectory.step == 0 or not trajectory.first or signal.change == 0:
        return False
    return float(farthest_move(latents, trajectory.first)) < FARTHER * signal.change


def _repeats(branch: GuidanceBranch, signal: Signal, weights: ParameterVersion) -> bool:
    """Whether a call is given what the branch's last one was."""
    same = signal.finite and signal.change == 0 and not branch.differing(signal)
    return same and branch.state.computed_with == weights


def _likeliest(
    branches: Sequence[GuidanceBranch], signals: dict[GuidanceBranch, Signal]
) -> GuidanceBranch | None:
    """The branch with the fewest changed inputs, then the one that waits longest.

    None if another one of as few is clearly nearer: in doubt, neither.
    """
    changed = {branch: branch.differing(signals[branch]) for branch in branches}
    fewest = min(map(len, changed.values()))
    alike = [branch for branch in branches if len(changed[branch]) == fewest]
    alike.sort(key=lambda branch: (branch.step, branch.index))

    def distance(branch: GuidanceBranch) -> float:
        now = signals[branch].conditioning
        return sum(abs(now[i] - branch.conditioning[i]) for i in changed[branch])

    nearest = min(map(distance, alike))
    return alike[0] if nearest >= CLEARLY_NEARER * distance(alike[0]) else None


class LatentDispatcher(Dispatcher):
    """Places calls by how the latent and the conditioning change."""

    timed = False
    follows = True

    def _lead(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        trajectory = _continued(session, context) or Trajectory(context.owner)
        kept = [branch.state for branch in trajectory.branches]
        lost = any(state.unusable(state.computed_with, self.report) for state in kept)
        if lost:
            trajectory = Trajectory(context.owner)
        expected = {
            branch: max(branch.step + 1, trajectory.step)
            for branch in trajectory.branches
        }
        make = partial(PlacedStep, context, session, arguments)
        signals = {
            branch: self._probe(make(trajectory, branch, step, (float(step),)), weights)
            for branch, step in expected.items()
        }
        repeated = any(_repeats(b, signals[b], weights) for b in signals)
        others_may_lead = self.report.fragment and self._led < ALONE
        self._note_reading(session, signals)
        if others_may_lead and session.repeats > MAX_BRANCHES:
            self._note_no_lead(session, context)
            trajectory.last_call = session.calls  # the next reading needs a run
            return self._run_for_itself(context, arguments, weights)
        if repeated and session.short_runs:  # the text's part of a forward
            return self._run_for_itself(context, arguments, weights)
        latents = [arguments[i] for i in self._latents]
        placement = place(trajectory, signals, context, weights, latents)
        branch, step = placement.branch, placement.step
        if placement.new:
            later = MAX_BRANCHES if others_may_lead else 0
            trajectory = self._begin(session, context, trajectory, later)
        if branch is None:
            state = self._new_state(arguments, weights)
            index = len(trajectory.branches)
            branch = GuidanceBranch(index, state, first_step=step, name=context.branch)
        if placement.reason == "no_clock" and not others_may_lead:
            self.report.fall_back(NO_CLOCK)
        refused = "lost_state" if lost else placement.reason
        call = make(trajectory, branch, step, (float(step),), refused)
        signal = signals.get(branch)
        if signal is None or step != expected[branch]:
            signal = self._probe(call, weights)
        return self._execute(call, signal)

    def _begin(
        self, session: Session, context: CallContext, before: Trajectory, later: int
    ) -> Trajectory:
        """End a run and begin the next; warn of so many short ones, and ``later``."""
        if before.times:
            session.short_runs = session.short_runs + 1 if is_short(before) else 0
            if not context.run_is_known:
                note_short_runs(session.short_runs - later, self.report)
        session.end(before)
        return session.begin(context)

    def _note_reading(
        self, session: Session, signals: dict[GuidanceBranch, Signal]
    ) -> None:
        """Count the calls that are given no conditioning but known one."""
        if not signals:
            return
        reading = tuple(next(iter(signals.values())).conditioning)
        is_new = reading not in session.readings
        session.fresh = session.fresh + 1 if is_new else 0
        clocks = [b for b in signals if len(b.clock_readings) >= KEPT_READINGS]
        stage = any(signals[branch].change > 0 for branch in clocks)  # Heun's second
        session.repeats += not (is_new or stage)
        if session.fresh > 2 * KEPT_READINGS:  # more than other prompts bring
            session.repeats = 0
        known = [other for other in session.readings if other != reading]
        session.readings = [*known, reading][-KEPT_READINGS:]

    def _note_no_lead(self, session: Session, context: CallContext) -> None:
        """Warn where no other graph of the forward leads either."""
        self.report.note(CANNOT_LEAD)
        begun = model_forward.newest(context.owner)
        session.unled = session.unled + 1 if begun == session.begun else 0
        session.begun = begun
        if session.unled == UNLED:
            self.report.fall_back(
                f"{NO_CLOCK}; the graph breaks that explain() tells cut it from those "
                "that do"
            )

    def _run_for_itself(
        self, context: CallContext, arguments: Sequence[Any], weights: ParameterVersion
    ) -> Sequence[Any]:
        """In full, and the graphs after it find their steps by themselves."""
        model_forward.leave(context.owner)
        state = self._new_state(arguments, weights)
        return self._run("full", state.pool(arguments, 0))

    def _look_for_layers(self, *_: Any) -> None:
        """It is taken for a block in any case."""

    def _run_whole(self, name: str, inputs: GraphInputs) -> Sequence[Any]:
        return self._run(name, inputs)

    def _probe(self, call: PlacedStep, weights: ParameterVersion) -> Signal:
        branch, state = call.branch, call.branch.state
        (value,) = self._run("probe", state.pool(call.arguments, call.step))
        clock = None if branch.clock is None else tuple(sorted(branch.clock))
        same_weights = state.computed_with == weights
        known = len(branch.clock_readings), call.session.repeats, call.session.fresh
        return self._read(value, call, clock, known, same_weights)

    def _execute(self, call: PlacedStep, signal: Signal) -> Sequence[Any]:
        branch, state = call.branch, call.branch.state
        if call.step == 0 and self.ranks is None:  # a rank sees its share alone
            latents = [call.arguments[i] for i in self._latents]
            call.trajectory.first = copies_of_tensors(latents)
        elif call.step > FIRST_STEPS:
            call.trajectory.first = []
        limit, reason = self._limit(call)
        if branch.clock is None:  # the second call may be another image's first
            limit, reason = FULL, call.refused or "warmup"
        branch.read_clock(signal)
        inputs = state.pool(call.arguments, call.step)
        if signal.finite and signal.error <= limit:
            outputs = self._run("cached", inputs)
            why = self._schedule(call.trajectory).reason_to_cache
            self._record(call, signal, why)
            return outputs
        history = state.forget()
        outputs = self._run("full", inputs)
        self._record(call, signal, reason, history)
        return outputs


def _continued(session: Session, context: CallContext) -> Trajectory | None:
    """The run under way that a call may continue; None if another one has begun."""
    return next((run for run in session.live if run.run == context.run), None)
