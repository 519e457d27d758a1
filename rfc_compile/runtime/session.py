"""The trajectories of one owner, and what was learnt from those that have ended."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch
from rfc_compile.runtime.per_sample.matching import Samples
from rfc_compile.runtime.state import BranchState
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.decision import Decision

CHANGES_IN_A_ROW = 3
"""Steps in a row at which a conditioning input must change to count as varying."""

MAX_COURSES = 16
"""Kinds of trajectories whose length and decisions one scope remembers; oldest goes."""

ParameterIds = frozenset[int]
"""The ids of the parameters that a call passes."""

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of the tensors of a call, whatever their order."""

LayerKey = tuple[ParameterIds, Shapes]
"""A layer and the shapes of the other tensors of a call."""

Start = tuple[int | None, tuple[float, ...]]
"""The number of steps, if told, and the first timesteps of a trajectory."""


@dataclass
class Session:
    """The trajectories of one owner: the running one and the last finished.

    ``layer`` holds the ids of the parameters that the owner's calls pass, ``calls``
    counts those that lead. ``ended`` is the run before the current one. ``courses`` are
    the decisions of the last whole trajectory of every kind. ``changes`` counts, for
    conditioning inputs, the steps in a row that were refused for them; ``varying`` are
    those that are no longer compared. Where every sample decides for itself,
    ``samples`` holds their trajectories, and none is the running one. Calls that lead
    hold the ``lock``.
    """

    layer: ParameterIds = frozenset()
    last_used: float = 0.0
    current: Trajectory | None = None
    ended: Trajectory | None = None
    lengths: dict[tuple[float, ...], int] = field(default_factory=dict)
    courses: dict[Start, Sequence[Decision]] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    calls: int = 0
    changes: dict[int, int] = field(default_factory=dict)
    varying: set[int] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, caller: CallContext, *, goes_on: bool = False) -> Trajectory:
        """Start a new trajectory; the state of the one before is freed.

        ``goes_on``: by its timestep, it may be the last step of that one.
        """
        before = self.current
        if before is not None:
            before.finish()
            self.learn_from(before)
            if not goes_on:
                self.ended = before
        self.current = Trajectory(
            caller.owner,
            caller.run,
            caller.num_steps,
            caller.announced,
            before=before if goes_on else None,
        )
        return self.current

    @property
    def last(self) -> Trajectory | None:
        """The trajectory before the current one."""
        current = self.current
        if current is None or current.rest is not None:
            return self.ended
        return current.before or self.ended

    def learn_from(self, ended: Trajectory) -> None:
        """Note how long trajectories of its kind are, and what is decided in them."""
        ended = ended.whole
        start, length = tuple(ended.timesteps[:2]), len(ended.timesteps)
        # an abandoned run is shorter than a whole one that began the same way
        _remember(self.lengths, start, max(length, self.lengths.get(start, 0)))
        if len(ended.decisions) >= len(self.earlier(ended)):
            _remember(self.courses, _start(ended), ended.decisions)

    @property
    def running(self) -> list[Trajectory]:
        """The trajectories that have not ended."""
        under_way = [sample.trajectory for sample in self.samples.under_way]
        known = under_way if self.current is None else [self.current, *under_way]
        return [trajectory for trajectory in known if not trajectory.finished]

    @property
    def states(self) -> list[BranchState]:
        """What the branches of these keep."""
        return [branch.state for known in self.running for branch in known.branches]

    @property
    def decisions(self) -> Sequence[Decision]:
        """Those of the running trajectory, or of all samples."""
        return (
            self.samples.decisions
            if self.current is None
            else self.current.whole.decisions
        )

    @property
    def used(self) -> bool:
        """Whether a call has been placed in it."""
        return self.current is not None or bool(self.samples.joined)

    def continued(self, caller: CallContext) -> Trajectory | None:
        """The running trajectory, None if it has ended or another run has begun."""
        current = self.current
        if current is None or current.finished or current.run != caller.run:
            return None
        return current

    def refusal(
        self, branch: GuidanceBranch, signal: Signal, full_steps: Sequence[int]
    ) -> Mismatch | None:
        """``branch.mismatch``; a step that goes on shows what does not vary."""
        run = self.current
        told = last = False
        if run is not None and run.tells_all_of(branch):
            told, last = True, branch.step + 2 == self.total(run)
        refused = branch.mismatch(
            signal, full_steps, self.varying, told=told, last=last
        )
        if refused is None and branch.step >= 0 and (self.changes or self.varying):
            self.changes.clear()
            self.varying &= branch.differing(signal)
        return refused

    def learn_varying(self, refused: Mismatch) -> list[int]:
        """Stop comparing what changes at every step; the inputs that are new there."""
        self.changes = {i: self.changes.get(i, 0) + 1 for i in refused.changed}
        new = [i for i, count in self.changes.items() if count == CHANGES_IN_A_ROW]
        self.varying.update(new)
        return new

    def forget(self) -> None:
        """Drop the running trajectory and all that was learnt from earlier ones."""
        if self.current is not None:
            self.current.finish()
        self.current = None
        for learnt in (self.lengths, self.courses, self.changes, self.varying):
            learnt.clear()

    def place(self, branch: GuidanceBranch, step: int) -> tuple[Hashable, ...]:
        """All that decides about a step of a branch, but for its signal."""
        run = self.current or Trajectory("")
        return (
            step,
            branch.index,
            branch in run.branches,
            len(run.branches),
            len(run.timesteps),
            len(run.decisions),
            self.total(run),
            len(self.earlier(run)),
            tuple(branch.state.full_steps),
            branch.since_full,
        )

    def total(self, trajectory: Trajectory) -> int | None:
        """Steps of a trajectory, told or learnt from one that began the same way."""
        known = self.lengths.get(tuple(trajectory.timesteps[:2]))
        return trajectory.num_steps or known

    def earlier(self, trajectory: Trajectory) -> Sequence[Decision]:
        """What was decided in a trajectory before that began the same way."""
        return self.courses.get(_start(trajectory), ())


def _remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    """Note a value as the newest; a process may see new kinds of runs for ever."""
    known.pop(key, None)
    known[key] = value
    if len(known) > MAX_COURSES:
        del known[next(iter(known))]


def _start(trajectory: Trajectory) -> Start:
    return trajectory.num_steps, tuple(trajectory.timesteps[:2])
