"""Which step of which denoising run a call belongs to, found without the user's help.

    timestep moves on          the next step
    same timestep again        the next CFG branch (or the second stage of a solver)
    timestep jumps back        a new trajectory, as where it jumps far ahead
    input does not continue    another branch, else a new trajectory

The first three come from the timestep alone; the last from the step's signal: a call is
taken for the next step of a branch only if its conditioning is that branch's and its
input has moved no further than a step moves it. Wrong images are worse than slow ones,
so in doubt a call starts anew.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from rfc_compile.estimators.noise_levels import NoiseSchedule, recognise, unit_of
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.readback import Readback
from rfc_compile.schedules.decision import LARGEST_GROWTH, Decision

FAR, FARTHEST = 0.25, 0.5
"""Shares of the time between noise and image. No step goes beyond the second, for its
latent would move by more than ``UNRELATED``; one beyond the first is not
``LARGEST_GROWTH`` times as long as the step before. A call so far ahead is of another
run."""

MAX_BRANCHES = 8
"""CFG branches of one trajectory; a call more begins a new one."""


@dataclass(frozen=True)
class Unsettled:
    """A step that was run before its signal had reached the host.

    ``settle`` checks and notes the values once they are there.
    """

    arrival: Readback
    settle: Callable[[Sequence[Tensor]], None]


@dataclass
class Trajectory:
    """One denoising run: its branches and what was decided.

    ``name`` is its owner's, ``run`` the number of the run, where starts are known;
    ``num_steps`` and ``announced`` are those of its first call's ``CallContext``;
    ``unsettled`` are the steps that await their signal, oldest first. ``noise`` is how
    its timesteps are read, None until the second one; ``foreseen`` are the timesteps of
    a run before, by step, for steps whose own are not known yet. ``before`` is the
    trajectory from whose last timestep its first goes on, if its latent alone tells the
    two apart.
    """

    name: str
    run: int = 0
    num_steps: int | None = None
    announced: int | None = None
    branches: list[GuidanceBranch] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    newest: GuidanceBranch | None = None
    finished: bool = False
    noise: NoiseSchedule | None = None
    foreseen: dict[int, float] = field(default_factory=dict)
    unsettled: deque[Unsettled] = field(default_factory=deque)
    before: Trajectory | None = None

    @property
    def rest(self) -> Trajectory | None:
        """The run that it may be the last step of: a single step that goes on."""
        return self.before if len(self.timesteps) == 1 else None

    @property
    def whole(self) -> Trajectory:
        """All of the run, if it is the last step of one whose other steps came before.

        That step removes all noise that is left. Of few steps, and where nobody tells
        the run, its latent moves as far as that of another image (``UNRELATED``). It
        may be one, so it keeps no state; only what is learnt and told counts it.
        """
        if self.rest is None:
            return self
        run = self.rest.whole
        steps = len(run.timesteps)
        own = [replace(made, step=steps + made.step) for made in self.decisions]
        return replace(
            self,
            timesteps=[*run.timesteps, *self.timesteps],
            decisions=[*run.decisions, *own],
        )

    def settle(self, *, most: int) -> None:
        """Check the steps whose signals are there, and wait for all but ``most``."""
        while self.unsettled:
            if len(self.unsettled) <= most and not self.unsettled[0].arrival.ready:
                return
            oldest = self.unsettled.popleft()
            oldest.settle(oldest.arrival.values())

    def drop(self, branch: GuidanceBranch) -> None:
        """No call continues this branch any more."""
        self.branches = [other for other in self.branches if other is not branch]

    def finish(self) -> None:
        """No call continues it any more: its state is freed, its decisions stay."""
        self.settle(most=0)
        self.finished = True
        self.branches = []
        self.newest = None

    def recognise(self, change: float, earlier: Sequence[Decision]) -> None:
        """Learn from the second step how timesteps are read.

        ``change`` is how far its latent moved; ``earlier`` was decided in a run that
        began with the same timesteps, so goes on with them.
        """
        first, second = self.timesteps[:2]
        self.noise = recognise(first, second, change)
        self.foreseen = {decision.step: decision.timestep for decision in earlier}

    def levels(
        self, step: int, timestep: float, full_steps: Sequence[int]
    ) -> tuple[float, ...] | None:
        """Noise levels of a step and of the full ones before; None if not known."""
        if self.noise is None:
            return None
        times = [timestep, *[self.timesteps[full] for full in full_steps]]
        levels = [
            self.noise.level(self.foreseen.get(at, time) if math.isnan(time) else time)
            for at, time in zip((step, *full_steps), times, strict=True)
        ]
        known = tuple([level for level in levels if level is not None])
        return known if len(known) == len(levels) else None

    @property
    def complete(self) -> bool:
        """Whether every branch has run as many steps as were told beforehand."""
        last = None if self.num_steps is None else self.num_steps - 1
        return bool(self.branches) and all(b.step == last for b in self.branches)

    @property
    def step(self) -> int:
        """Index of the newest step."""
        return len(self.timesteps) - 1

    def place(self, timestep: float) -> str:
        """Where a timestep lies from the newest one: ``same``, ``next`` or ``back``.

        One that is farther than a step goes is ``back``, too.
        """
        if not self.timesteps:
            return "next"
        if timestep == self.timesteps[-1]:
            return "same"
        if self._beyond_a_step(timestep):
            return "back"
        if len(self.timesteps) == 1:
            return "next"
        direction = self.timesteps[-1] - self.timesteps[-2]
        return "next" if (timestep - self.timesteps[-1]) * direction > 0 else "back"

    def _beyond_a_step(self, timestep: float) -> bool:
        """Whether no step leads from the newest timestep to this one."""
        *_, before, last = (math.nan, *self.timesteps)
        span = max(unit_of(last, timestep), *map(abs, (*self.timesteps[:1], timestep)))
        gap, usual = abs(timestep - last), abs(last - before)
        return gap > FARTHEST * span or (
            gap > FAR * span and gap > LARGEST_GROWTH * usual
        )

    def continues(self, step: int, timestep: float) -> bool:
        """Whether a timestep fits those of the steps around the one with this index."""
        if not math.isnan(self.timesteps[step]):
            return timestep == self.timesteps[step]
        before, newest = self.timesteps[step - 2 : step]
        return (timestep - newest) * (newest - before) > 0

    def candidates(
        self, timestep: float, name: str | None
    ) -> tuple[int, list[GuidanceBranch]]:
        """The step's index and the branches that have not run it, likeliest first.

        ``name`` is the name of the call's branch, if it has one.
        """
        step = self.step if self.place(timestep) == "same" else self.step + 1
        waiting = [b for b in self.branches if b.step < step and b.name in (None, name)]
        return step, sorted(waiting, key=lambda branch: -branch.step)

    def expected(self, name: str | None) -> tuple[GuidanceBranch, int] | None:
        """The branch that the next call continues if the run goes on as it did.

        With the index of the step; ``name`` is the name of the call's branch, if known.
        """
        own = [branch for branch in self.branches if branch.name == name]
        if not own:
            return None
        branch = min(own, key=lambda branch: (branch.step, branch.index))
        return branch, max(self.step, branch.step + 1)

    def tells_all_of(self, branch: GuidanceBranch) -> bool:
        """Whether the caller tells where the run begins, and which branch a call is."""
        told = self.run > 0 or self.num_steps is not None
        return told and (branch.name is not None or len(self.branches) == 1)

    @property
    def full_up(self) -> bool:
        """Whether no branch may be added."""
        return len(self.branches) >= MAX_BRANCHES

    @property
    def nfc(self) -> int:
        """Full computations, over all branches."""
        return sum(decision.full for decision in self.decisions)
