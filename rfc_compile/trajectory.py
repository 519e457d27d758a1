"""Which step of which denoising run a call belongs to, found without the user's help.

    timestep moves on          the next step
    same timestep again        the next CFG branch (or the second stage of a solver)
    timestep jumps back        a new trajectory
    input does not continue    another branch, else a new trajectory

The first three come from the timestep alone; the last from the step's signal: a call is
taken for the next step of a branch only if its conditioning is that branch's and its
input has moved no further than a step moves it. Wrong images are worse than slow ones,
so in doubt a call starts anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence, Set
from contextvars import ContextVar
from dataclasses import dataclass, field

from rfc_compile.signal import Signal
from rfc_compile.state import KeptState

UNRELATED = 0.6
"""Relative change of the latent above which two calls count as unrelated: other images
differ by 0.6 to 1.4 in this measure, the steps of 20-step runs by less than 0.45."""

NOTICEABLE, LARGEST_GROWTH = 0.25, 4.0
"""A change above the first is also refused when it is this many times the last one."""


@dataclass(frozen=True)
class Decision:
    """One decision of the runtime.

    Attributes:
        step: index of the step in its trajectory.
        branch: index of the CFG branch.
        timestep: value of the timestep input (mean over the batch).
        full: whether every region was computed.
        reason: ``warmup``, ``threshold``, ``interval``, ``mask``, ``cap``, ``final``,
            ``discontinuity``, ``conditioning``, ``non_finite`` or ``no_history`` for
            a full step; ``within_limit`` or ``scheduled`` for a cached one.
        statistic: the step's input prediction error e(s); None where it has no history.

    """

    step: int
    branch: int
    timestep: float
    full: bool
    reason: str
    statistic: float | None


@dataclass(frozen=True)
class Mismatch:
    """Why a call does not continue a branch.

    Attributes:
        reason: ``discontinuity``, ``conditioning``, ``non_finite`` or ``no_history``.
        changed: indices of the conditioning inputs that differ.

    """

    reason: str
    changed: frozenset[int] = frozenset()


@dataclass(eq=False)
class Branch:
    """One CFG branch: the state it keeps and where it stands."""

    index: int
    state: KeptState
    first_step: int
    step: int = -1
    since_full: int = 0
    error: float = 0.0
    change: float | None = None
    conditioning: tuple[float, ...] = ()

    def mismatch(
        self, signal: Signal, full_steps: Sequence[int], varying: Set[int]
    ) -> Mismatch | None:
        """Why a call is not this branch's next step; None if it may be.

        ``full_steps`` are the kept full steps that the signal was measured against,
        ``varying`` the conditioning inputs that are known to change at every step.
        """
        if self.step < 0:
            return None
        if not full_steps:  # its last full step broke off or was not finite
            return Mismatch("no_history")
        if not signal.finite:
            return Mismatch("non_finite")
        if self._jumps(signal.change):
            return Mismatch("discontinuity")
        pairs = zip(self.conditioning, signal.conditioning, strict=True)
        differing = {i for i, (old, new) in enumerate(pairs) if old != new}
        if differing - varying:
            return Mismatch("conditioning", frozenset(differing))
        return None

    def advance(self, step: int, signal: Signal, *, full: bool) -> None:
        """Move on by one accepted step."""
        self.change = signal.change if self.step >= 0 else None
        self.since_full = 0 if full else self.since_full + 1
        self.error = 0.0 if full else self.error + signal.error
        self.conditioning = signal.conditioning
        self.step = step

    def _jumps(self, change: float) -> bool:
        """Whether no denoising step changes the latent so much, or not at all."""
        if change == 0 or change > UNRELATED:
            return True
        usual = change if self.change is None else self.change
        return change > NOTICEABLE and change > LARGEST_GROWTH * usual


@dataclass
class Trajectory:
    """One denoising run: its branches and what was decided."""

    name: str
    branches: list[Branch] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    num_steps: int | None = None

    @property
    def step(self) -> int:
        """Index of the newest step."""
        return len(self.timesteps) - 1

    def place(self, timestep: float) -> str:
        """``same``, ``next`` or ``back``: where a timestep lies from the newest one."""
        if not self.timesteps:
            return "next"
        if timestep == self.timesteps[-1]:
            return "same"
        if len(self.timesteps) == 1:
            return "next"
        direction = self.timesteps[-1] - self.timesteps[-2]
        return "next" if (timestep - self.timesteps[-1]) * direction > 0 else "back"

    def candidates(self, timestep: float) -> tuple[int, list[Branch]]:
        """The step's index and the branches that have not run it, likeliest first."""
        step = self.step if self.place(timestep) == "same" else self.step + 1
        waiting = [branch for branch in self.branches if branch.step < step]
        return step, sorted(waiting, key=lambda branch: -branch.step)

    @property
    def nfc(self) -> int:
        """Full computations, over all branches."""
        return sum(decision.full for decision in self.decisions)


@dataclass(frozen=True)
class _Named:
    name: str
    num_steps: int | None


_current: ContextVar[_Named | None] = ContextVar("rfc_trajectory", default=None)


@contextlib.contextmanager
def trajectory(name: str, *, num_steps: int | None = None) -> Iterator[None]:
    """Name the trajectory that calls inside the block belong to.

    Needed only to interleave several runs that the timesteps cannot tell apart, or to
    give ``num_steps`` beforehand. The block may be entered once per run or once per
    step. The same name is the same trajectory, in whatever thread or task it is used;
    without a name, every thread and asyncio task has trajectories of its own.

    Raises:
        ValueError: ``num_steps`` is not positive.

    """
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r}: give a positive number of steps")
    token = _current.set(_Named(name, num_steps))
    try:
        yield
    finally:
        _current.reset(token)


def current_owner() -> tuple[str, int | None]:
    """Who calls: a name that is unique to the trajectory's owner, and num_steps."""
    named = _current.get()
    if named is not None:
        return named.name, named.num_steps
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    suffix = f" task {id(task)}" if task is not None else ""
    return f"thread {threading.get_ident()}{suffix}", None
