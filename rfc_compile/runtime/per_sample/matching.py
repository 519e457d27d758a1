"""The samples that are under way in the calls of one owner, and which a row continues.

    row    -> timestep, conditioning, latent
    sample -> timestep, conditioning, what the sampler was given at its last call

A row continues the sample whose sampler fit explains its latent (``sampler_fit``), of
several the one that it explains best. Two requests for one image are on one curve, one
behind the other, and both explain: there the one whose steps are as long. Rows may
change places, join and leave at every call. No sample is continued by two rows, and a
row that continues none begins one. Where the server names its rows, the names say it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch
from rfc_compile.runtime.per_sample.row_reading import Row
from rfc_compile.runtime.run_fits import fits_of
from rfc_compile.runtime.sampler_fit import NOT_MOVED, Fit
from rfc_compile.runtime.state import BranchState
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.decision import Decision

IDLE_CALLS = 8
"""Calls of its owner that a sample may miss before its state is freed: rows may be
called in several batches, and with guidance in calls of their own."""

UNKNOWN_PACE = 0.5
"""How much another step of a sample that has made one only is taken to differ."""

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


def begun(context: CallContext, state: BranchState, before: Sample | None) -> Sample:
    """A sample at its first step; one ``before`` has other conditioning."""
    branch = GuidanceBranch(0, state, first_step=0, name=context.branch)
    owner, steps, iterations = context.owner, context.num_steps, context.iterations
    asked = context.asked if before is None else before.trajectory.asked
    run = Trajectory(owner, context.run, steps, iterations, [branch], asked=asked)
    if before is not None:
        run.changes, run.varying = before.trajectory.changes, before.trajectory.varying
    return Sample(run)


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
class Continuation:
    """What a row is taken for.

    Attributes:
        sample: the one whose next step it is, None for one that begins.
        fit: how its latent follows; None for one that begins.
        mismatch: why it cannot go on with what that sample keeps; None if it can.
        pace: how much its step differs from the sample's last one, relative to that.
        distance: from the sample's conditioning to the row's.
    """

    row: int
    sample: Sample | None = None
    fit: Fit | None = None
    mismatch: Mismatch | None = None
    pace: float = UNKNOWN_PACE
    distance: float = 0.0

    @property
    def order(self) -> tuple[bool, float, float, float, float, int, int]:
        """Less for the likelier of two.

        Guidance rows of an image fit alike, and so does what no sample explains (fresh
        noise): there the one that was called last, of a request that has begun anew.
        """
        residual, number, last_call = 0.0, 0, 0
        if self.fit is not None:
            residual = self.fit.residual if self.fit.explained else 1.0
        if self.sample is not None:
            number, last_call = self.sample.number, self.sample.last_call
        refused = self.mismatch is not None
        rounded = round(residual, 2)
        measures = self.pace, self.distance, residual
        return refused, rounded, *measures, -last_call, number


Refuse = Callable[["Sample", Row], "Mismatch | None"]
"""Why a row cannot go on with what a sample keeps; None if it can."""


def by_name(
    samples: Sequence[Sample],
    contexts: Sequence[CallContext],
    rows: Sequence[Row],
    latents: Tensor | None,
    refuse: Refuse,
) -> list[Continuation]:
    """What the rows of a call are taken for where each has a name.

    ``latents`` are (n, ...), None where no output answers one. A row with the latent
    and the timestep of its sample's last step begins another; with guidance in several
    calls a name has one for each, distinguished by their conditioning.
    """
    own = [
        (i, sample)
        for i, context in enumerate(contexts)
        for sample in samples
        if (sample.trajectory.name, sample.branch.name)
        == (context.owner, context.branch)
        and not sample.trajectory.goes_back((rows[i].timestep,))
    ]
    fits: list[Fit | None] = [None] * len(own)
    if latents is not None:
        pairs = [(sample.branch, latents[i : i + 1]) for i, sample in own]
        fits = [fit for (fit,) in fits_of(pairs)]
    found = []
    for (i, sample), fit in zip(own, fits, strict=True):
        if fit is not None and _stands_at(sample, rows[i], fit):
            sample.trajectory.same_latent = sample.trajectory.step + 1
        stands = sample.trajectory.times[-1:] == [(rows[i].timestep,)]
        if fit is None or fit.moved or not stands:
            found.append(_continuation(i, sample, fit, rows[i], refuse))
    return _likeliest(len(rows), found)


def _continuation(
    i: int, sample: Sample, fit: Fit | None, row: Row, refuse: Refuse
) -> Continuation:
    measures = pace_of(sample, row), distance_of(sample, row)
    return Continuation(i, sample, fit, refuse(sample, row), *measures)


def by_fit(
    samples: Sequence[Sample], rows: Sequence[Row], latents: Tensor, refuse: Refuse
) -> list[Continuation]:
    """What the rows of a call are taken for by their latents (n, ...)."""
    fits = fits_of([(sample.branch, latents) for sample in samples])
    pairs = [
        _continuation(i, sample, fit, row, refuse)
        for sample, own in zip(samples, fits, strict=True)
        for i, (row, fit) in enumerate(zip(rows, own, strict=True))
        if _may_continue(sample, row, fit)
    ]
    found = _likeliest(len(rows), pairs)
    for sample, own in zip(samples, fits, strict=True):
        for one, row, fit in zip(found, rows, own, strict=True):
            if _stands_at(sample, row, fit):
                sample.trajectory.same_latent = sample.trajectory.step
                if one.sample is not None:
                    one.sample.trajectory.same_latent = one.sample.trajectory.step + 1
    return found


def _stands_at(sample: Sample, row: Row, fit: Fit) -> bool:
    """Whether a row is at another timestep of the latent that a sample stands at."""
    known = fit is not NOT_MOVED
    return known and sample.trajectory.stands_at(fit, (row.timestep,))


def _may_continue(sample: Sample, row: Row, fit: Fit) -> bool:
    """Whether a row is the next step of a sample, by its latent and timestep."""
    back = sample.trajectory.goes_back((row.timestep,))
    return row.finite and fit.moved and fit.explained and not back


def pace_of(sample: Sample, row: Row) -> float:
    """How much a row's step in time differs from the sample's last one."""
    times = sample.trajectory.timesteps[-2:]
    if len(times) < 2 or times[0] == times[1]:
        return UNKNOWN_PACE
    return abs((row.timestep - times[1]) / (times[1] - times[0]) - 1)


def distance_of(sample: Sample, row: Row) -> float:
    """How far a row's conditioning is from the sample's."""
    known, given = sample.branch.conditioning, row.signal.conditioning
    return sum([abs(new - old) for old, new in zip(known, given, strict=False)])


def _likeliest(rows: int, pairs: Iterable[Continuation]) -> list[Continuation]:
    """What every row of a call is taken for; ``pairs`` are those that may be."""
    found = [Continuation(row) for row in range(rows)]
    taken: set[Sample] = set()
    placed: set[int] = set()
    for pair in sorted(pairs, key=lambda pair: pair.order):
        if pair.row in placed or pair.sample is None or pair.sample in taken:
            continue
        found[pair.row] = pair
        placed.add(pair.row)
        taken.add(pair.sample)
    return found
