"""One CFG branch of a trajectory, and whether a call is its next step.

A call is taken for the next step only if its conditioning is the branch's and its input
has moved no further than a step moves it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, field

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.runtime.state import BranchState
from rfc_compile.schedules.decision import LARGEST_GROWTH, NOTICEABLE

UNRELATED = 0.6
"""Relative change of the latent above which two calls count as unrelated: other images
differ by 0.6 to 1.4 in this measure, the steps of 20-step runs by less than 0.45, but
for the last: where little is left but the image, up to 0.7 (of 10 steps, 1.3)."""


@dataclass(frozen=True)
class Mismatch:
    """Why a call does not continue a branch.

    Attributes:
        reason: ``discontinuity``, ``conditioning``, ``weights``, ``non_finite``,
            ``lost_state`` or ``no_history``.
        changed: indices of the conditioning inputs that differ.

    """

    reason: str
    changed: frozenset[int] = frozenset()


@dataclass(eq=False)
class GuidanceBranch:
    """One CFG branch: the state it keeps and where it stands.

    ``name`` is what the caller calls it (``cond``), where that is known; ``error`` the
    sum of the signals' errors since the last full step, ``last_error`` the last one.
    ``signals`` counts the steps whose signal was compared.
    ``followers`` is the state of the layers that take over its decisions.
    ``clock`` are the conditioning inputs that change at every step, None until seen.
    """

    index: int
    state: BranchState
    first_step: int
    step: int = -1
    since_full: int = 0
    error: float = 0.0
    last_error: float = 0.0
    signals: int = 0
    change: float | None = None
    conditioning: tuple[float, ...] = ()
    name: str | None = None
    followers: dict[Hashable, BranchState] = field(default_factory=dict)
    clock: frozenset[int] | None = None
    clock_readings: set[tuple[float, ...]] = field(default_factory=set)

    def mismatch(
        self,
        signal: Signal,
        full_steps: Sequence[int],
        varying: Set[int],
        *,
        told: bool = False,
        last: bool = False,
    ) -> Mismatch | None:
        """Why a call is not this branch's next step; None if it may be.

        ``full_steps`` are the kept full steps that the signal was measured against,
        ``varying`` the conditioning inputs that are known to change at every step;
        ``told`` and ``last`` as for ``jumps``.
        """
        if self.step < 0:
            return None
        if not full_steps:  # its last full step broke off or was not finite
            return Mismatch("no_history")
        if not signal.finite:
            return Mismatch("non_finite")
        if self.jumps(signal.change, told=told, last=last):
            return Mismatch("discontinuity")
        differing = self.differing(signal)
        if differing - varying:
            return Mismatch("conditioning", differing)
        return None

    def differing(self, signal: Signal) -> frozenset[int]:
        """The conditioning inputs that are not those of the branch's last call."""
        pairs = zip(self.conditioning, signal.conditioning, strict=True)
        return frozenset(i for i, (old, new) in enumerate(pairs) if old != new)

    def learn(self, signal: Signal, *, full: bool) -> None:
        """Note the signal of an accepted step, full or cached."""
        self.change = None if self.signals == 0 else signal.change
        self.last_error = 0.0 if full else signal.error
        self.error = 0.0 if full else self.error + signal.error
        self.conditioning = signal.conditioning
        self.signals += 1

    def advance(self, step: int, *, full: bool) -> None:
        """Move on by one accepted step."""
        self.since_full = 0 if full else self.since_full + 1
        self.step = step

    def read_clock(self, signal: Signal) -> None:
        """Note the clock of an accepted call; the second call shows what it is."""
        if self.step >= 0 and self.clock is None:
            self.clock = self.differing(signal)
            self.clock_readings.add(self.clock_reading(self.conditioning))
        if self.clock is not None:
            self.clock_readings.add(self.clock_reading(signal.conditioning))

    def clock_reading(self, conditioning: Sequence[float]) -> tuple[float, ...]:
        """What the clock shows, of these fingerprints; everything until it is known."""
        known = range(len(conditioning)) if self.clock is None else sorted(self.clock)
        return tuple(conditioning[i] for i in known)

    @property
    def bytes(self) -> int:
        """State kept, that of the followers included, in bytes."""
        return sum(kept.bytes for kept in (self.state, *self.followers.values()))

    def jumps(self, change: float, *, told: bool = False, last: bool = False) -> bool:
        """Whether no denoising step changes the latent so much, or not at all.

        ``told``: by what the caller tells, the call can be of no other run or branch.
        Then only a change that is sudden gives away that it does not go on, and none at
        the ``last`` step, which removes all noise that is left.
        """
        if change == 0:
            return True
        if self.change is None:  # it has not moved before
            return change > UNRELATED
        if told and last:
            return False
        sudden = change > NOTICEABLE and change > LARGEST_GROWTH * self.change
        return sudden or (change > UNRELATED and not told)
