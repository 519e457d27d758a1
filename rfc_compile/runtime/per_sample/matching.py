"""The samples that are under way in the calls of one owner, and which a row continues.

    row -> timestep, conditioning, latent
    sample -> timestep, conditioning, latent of its last call

A row continues the sample whose next step it can be, as ``rfc_compile.trajectories``
tells it for a whole call. Where it can be that of several, the one with the nearest
latent: rows may change places, join and leave at every call. No sample is continued by
two rows, and a row that continues none begins one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.decision import Decision

CLEARLY = 2.0
"""A sample is the likeliest by far if every other costs this many times as much."""

UNEVEN = 0.05
"""How far the gaps between timesteps may differ, relatively: they are rounded."""

DOUBTFUL = (
    "rows of a batch may each be the next step of several samples (requests with the "
    "same noise and prompt, but other timesteps): such rows run uncached and begin anew"
)

IDLE_CALLS = 8
"""Calls of its owner that a sample may miss before its state is freed: rows may be
called in several batches, and with guidance in calls of their own."""

MANY_LEFT = 64
"""Samples that have left whose decisions are remembered; the oldest goes."""


@dataclass(eq=False)
class Sample:
    """One sample: a trajectory with a single branch.

    ``number`` counts its owner's samples, ``last_call`` is the owner's call that
    continued it last.
    """

    trajectory: Trajectory
    number: int = -1
    last_call: int = 0

    @property
    def branch(self) -> GuidanceBranch:
        """Its branch; none once it has left."""
        (only,) = self.trajectory.branches
        return only


@dataclass
class Samples:
    """The samples of one owner, those under way in the order in which they joined."""

    under_way: list[Sample] = field(default_factory=list)
    left: deque[Sample] = field(default_factory=lambda: deque(maxlen=MANY_LEFT))
    joined: int = 0

    def note(self, sample: Sample, call: int) -> None:
        """A call has continued a sample, or begun it."""
        if sample.number < 0:
            sample.number = self.joined
            self.joined += 1
            self.under_way.append(sample)
        sample.last_call = call

    def leave(self, sample: Sample) -> None:
        """No row continues it any more: its state is freed, its decisions stay."""
        self.under_way.remove(sample)
        sample.trajectory.finish()
        self.left.append(sample)

    def gone(self, call: int) -> list[Sample]:
        """Those that somebody has ended, or that too many calls have missed."""
        return [
            sample
            for sample in self.under_way
            if sample.trajectory.finished or call - sample.last_call > IDLE_CALLS
        ]

    @property
    def trajectories(self) -> list[Trajectory]:
        """Those known, in the order in which the samples joined."""
        known = sorted((*self.left, *self.under_way), key=lambda sample: sample.number)
        return [sample.trajectory for sample in known]

    @property
    def decisions(self) -> list[Decision]:
        """Of all these trajectories."""
        return [one for known in self.trajectories for one in known.decisions]


@dataclass(frozen=True)
class Pair:
    """A row and a sample whose next step it may be, by its timestep.

    Attributes:
        row: index of the row.
        sample: the sample.
        timestep: that of the row.
        distance: how far the row's latent is from the sample's last.
        mismatch: why the row is not the sample's next step; None if it is.

    """

    row: int
    sample: Sample
    timestep: float
    distance: float
    mismatch: Mismatch | None

    @property
    def unevenness(self) -> float:
        """How far the gap to this timestep is from the sample's last, relatively.

        0 where there is no last one. Runs from one noise with other numbers of steps
        lie side by side: only the timestep that comes next tells them apart.
        """
        *_, before, last = (math.nan, *self.sample.trajectory.timesteps)
        gap = last - before
        return 0.0 if math.isnan(gap) else abs((self.timestep - last - gap) / gap)

    @property
    def order(self) -> tuple[bool, bool, float, int, int]:
        """Less for the likelier of two pairs."""
        unlikely = self.mismatch is not None, self.unevenness > UNEVEN
        return *unlikely, self.cost, self.row, self.sample.number

    @property
    def cost(self) -> float:
        """Less for the likelier of two samples that a row may continue."""
        return self.distance * (1 + self.unevenness)


@dataclass(frozen=True)
class Continuation:
    """What a row is taken for.

    Attributes:
        sample: the one whose next step it looks like, None for one that begins.
        mismatch: why it does not continue that sample; None if it does.
        distance: how far its latent is from that sample's last.

    """

    sample: Sample | None = None
    mismatch: Mismatch | None = None
    distance: float = 0.0


def doubtful(pairs: Iterable[Pair]) -> set[int]:
    """The rows that may be the next step of either of two samples.

    So are those of requests with the same noise and prompt and other timesteps. Samples
    that have had the same steps are the same so far, whichever a row continues.
    """
    fitting: dict[int, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.order):
        if pair.mismatch is None:
            fitting.setdefault(pair.row, []).append(pair)
    return {
        row
        for row, (likeliest, *others) in fitting.items()
        for other in others
        if other.order[:2] == likeliest.order[:2]
        and other.cost < CLEARLY * likeliest.cost
        and other.sample.trajectory.timesteps != likeliest.sample.trajectory.timesteps
    }


def continuations(rows: int, pairs: Iterable[Pair]) -> list[Continuation]:
    """What every row of a call is taken for."""
    found = [Continuation() for _ in range(rows)]
    taken: set[Sample] = set()
    placed: set[int] = set()

    for pair in sorted(pairs, key=lambda pair: pair.order):
        if pair.row in placed or pair.sample in taken:
            continue
        found[pair.row] = Continuation(pair.sample, pair.mismatch, pair.distance)
        placed.add(pair.row)
        taken.add(pair.sample)
    return found
