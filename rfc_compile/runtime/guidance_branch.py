"""One guidance branch of a run: its state and its position."""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakSet

from torch import Tensor

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.runtime.corrector import Debt
from rfc_compile.runtime.state import BranchState
from rfc_compile.schedules.base import Curvature

UNRELATED = 0.6
"""Relative change of a block's input, or of a part of an image, above which two calls
count as unrelated, where no fit says what follows."""

JUMP = 4.0
"""An input that changes at every step and now by more than so many times as much has
jumped."""

LEAST_OF_ANOTHER = 0.3
"""Relative change of a latent that has jumped; last steps of samplers are large."""

KEPT_OUTPUTS = 2
"""Steps whose latents and outputs are kept."""


class Mismatch(NamedTuple):
    """Why a call does not continue a branch.

    Attributes:
        reason: ``discontinuity``, ``conditioning``, ``weights``, ``non_finite``,
            ``lost_state`` or ``no_history``.
        changed: indices of the conditioning inputs that differ.
        signal: that of the call, where one was read.
        name: of the call's guidance branch, where it has one.
    """

    reason: str
    changed: frozenset[int] = frozenset()
    signal: Signal | None = None
    name: str | None = None


class Returned(NamedTuple):
    """What a branch returned to the sampler at a step.

    Attributes:
        latent: a copy of the latent that came in, (R, N).
        output: a copy of what was returned for it, (R, N).
        others: outputs of other samples with the same latent, where each sample is
            decided by itself.
        partners: for every further row that has the same latent, the rows' indices:
            guidance in one batch mixes their outputs.
    """

    step: int
    latent: Tensor
    output: Tensor
    partners: tuple[tuple[int, ...], ...] = ()
    others: Sequence[Tensor] = ()

    @property
    def outputs(self) -> list[Tensor]:
        """The output of every row, then those of its partners, (R, N) each."""
        mixed = [self.output[list(rows)] for rows in self.partners]
        return [self.output, *mixed, *self.others]


class Seen(NamedTuple):
    """Copies of a call's inputs that may be the latent, and of its outputs."""

    step: int
    latents: Sequence[Any]
    outputs: Sequence[Any]


FARTHEST_GAP = 6
"""A branch that comes back after more steps was switched off."""


@dataclass(eq=False)
class GuidanceBranch:
    """One guidance branch: its state and its position.

    ``gaps`` are the distances between its calls, in steps, up to ``FARTHEST_GAP``.
    ``name`` is what the caller calls it (``cond``), where that is known; ``moves`` how
    much the fingerprints of the ``conditioning`` changed at its last step,
    ``largest_change`` is that of the latent at any step; ``error`` the
    sum of the signals' errors since the last full step. ``returned`` are its last two
    outputs, newest first, and those of the run's ``unfitted`` steps; ``kept_full`` the
    times and outputs of the last full steps of a broken forward; ``awaited`` its call
    until the output is known (``returned_outputs``); ``seen`` is its
    whole last call until the latent is confirmed, ``mixed`` the rows that guidance
    combines with it (``per_sample=True``). ``debt`` is what a full step repays, without
    the cached steps ``pending``: their index and time, and whether each came right
    after the branch's step before. ``curvature`` is what its last full step showed.
    ``followers`` is the state of the layers that take over its decisions. ``clock`` are
    the conditioning inputs that change at every step, None until seen (blocks compiled
    alone).
    """

    index: int
    state: BranchState
    first_step: int
    step: int = -1
    gaps: set[int] = field(default_factory=set)
    since_full: int = 0
    error: float = 0.0
    change: float | None = None
    largest_change: float = 0.0
    conditioning: tuple[float, ...] = ()
    moves: tuple[float, ...] = ()
    name: str | None = None
    returned: list[Returned] = field(default_factory=list)
    kept_full: list[tuple[float, Tensor]] = field(default_factory=list)
    seen: Seen | None = None
    awaited: object = None
    mixed: WeakSet[GuidanceBranch] = field(default_factory=WeakSet)
    debt: Debt = field(default_factory=Debt)
    pending: list[tuple[int, float, bool]] = field(default_factory=list)
    curvature: Curvature | None = None
    followers: dict[Hashable, BranchState] = field(default_factory=dict)
    clock: frozenset[int] | None = None
    clock_readings: set[tuple[float, ...]] = field(default_factory=set)

    def mismatch(
        self, signal: Signal, full_steps: Sequence[int], varying: Set[int]
    ) -> Mismatch | None:
        """Why a call is not this branch's next step; None if it is.

        ``full_steps`` are the kept full steps that the signal was measured against,
        ``varying`` the conditioning inputs that are not compared.
        """
        if self.step < 0:
            return None
        if not full_steps:  # its last full step broke off or was not finite
            return Mismatch("no_history", signal=signal)
        if not signal.finite:
            return Mismatch("non_finite", signal=signal)
        differing = self.differing(signal)
        if differing - varying:
            return Mismatch("conditioning", differing, signal)
        if differing and self.switches(signal.conditioning, differing):
            return Mismatch("conditioning", signal=signal)
        return None

    def switches(self, conditioning: Sequence[float], varying: Set[int]) -> bool:
        """Whether an input that varies jumps: a ControlNet that starts or ends.

        ``conditioning`` are the fingerprints of a call.
        """
        if not self.conditioning:
            return False
        for i in varying:
            old, new = self.conditioning[i], conditioning[i]
            if (old == 0) != (new == 0):
                return True
            moved, large = abs(new - old), max(abs(new), abs(old)) / 2
            if self.moves and moved > max(JUMP * self.moves[i], large):
                return True
        return False

    def differing(self, signal: Signal) -> frozenset[int]:
        """The conditioning inputs that are not those of the branch's last call."""
        if self.conditioning == signal.conditioning:
            return frozenset()
        if not self.conditioning:  # its first call was interrupted
            return frozenset(range(len(signal.conditioning)))
        pairs = zip(self.conditioning, signal.conditioning, strict=True)
        return frozenset(i for i, (old, new) in enumerate(pairs) if old != new)

    def learn(self, signal: Signal, *, full: bool) -> None:
        """Note the signal of an accepted step, full or cached."""
        self.change = signal.change if self.step >= 0 else None
        self.largest_change = max(self.largest_change, self.change or 0.0)
        self.error = 0.0 if full else self.error + signal.error
        pairs = list(zip(self.conditioning, signal.conditioning, strict=False))
        self.moves = tuple([abs(new - old) for old, new in pairs])
        self.conditioning = signal.conditioning

    def advance(self, step: int, *, full: bool) -> None:
        """Move on by one accepted step."""
        self.since_full = 0 if full else self.since_full + 1
        if 0 <= self.step < step <= self.step + FARTHEST_GAP:
            self.gaps.add(step - self.step)
        self.step = step

    def is_due(self, step: int) -> bool:
        """Whether it is still to be called at a step, by the gaps between its calls."""
        gap = max(self.gaps) if self.gaps else int(self.step == 0)
        return self.step < step <= self.step + gap

    def returned_at(self, step: int) -> list[Tensor]:
        """The outputs of a step, with those of partners; none if not kept."""
        for one in self.returned:
            if one.step == step:
                return one.outputs
        return []

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
    def has_stages(self) -> bool:
        """Whether its clock stood still at a step, as at Heun's second calls.

        The second reading is the first that may come again.
        """
        steps = self.step - self.first_step + 1
        return steps > len(self.clock_readings) or steps == 2

    def leaps(self, change: float) -> bool:
        """Whether the latent moves so much farther than ever that it may be another.

        One move is no measure: a solver's first stage may be small.
        """
        largest = self.largest_change if self.step > self.first_step + 1 else 0.0
        return largest > 0 and change > max(JUMP * largest, LEAST_OF_ANOTHER)

    def jumps(self, change: float) -> bool:
        """Whether no denoising step changes a block's input so much, or not at all."""
        return change == 0 or change > UNRELATED

    @property
    def bytes(self) -> int:
        """State that graphs keep, that of the followers included, in bytes.

        The last latents and outputs, small beside it, are not counted.
        """
        return sum(kept.bytes for kept in (self.state, *self.followers.values()))
