"""The runs of one owner: the unfinished ones and the last finished one."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from typing import Any

from rfc_compile.errors import OptionError
from rfc_compile.graph_report import GraphReport
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.latent_pair import LatentPair
from rfc_compile.runtime.per_sample.matching import Samples
from rfc_compile.runtime.run_notes import (
    UNLINKED_RUNS,
    note_end,
    note_not_continued,
)
from rfc_compile.runtime.state import BranchState, memory_of
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.decision import Decision

IDLE_CALLS = 8
"""An idle run is freed after this many times the longest gap between two steps of a run
(in calls), or the number of branches that have had one step."""

MAX_LONE_RUNS = 16
"""Runs of one step whose state is kept once there are twice as many, and no call
continues one."""

MEMORY_OF_LONE_RUNS = 0.125
"""Share of the device's memory: where the state of runs of one step takes more, only as
many are kept as a warning about them needs."""

MAX_BRANCHES_KEPT = 64
"""Guidance branches of one owner whose state is kept; the oldest run goes."""

ParameterIds = frozenset[int]
"""The ids of the parameters that a call passes."""

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of the tensors of a call, whatever their order."""

LayerKey = tuple[ParameterIds, Shapes]
"""A layer and the shapes of the other tensors of a call."""


@dataclass
class Session:
    """The runs of one owner, in the order in which they began.

    ``layer`` holds the ids of the parameters that the owner's calls pass, ``calls``
    counts the leading ones; the newest was call ``placed`` of the graph's, ``gap`` of
    them after the one before; ``continued`` is the last that was no first step,
    ``short_runs`` counts the latest runs that ended soon, ``repeats`` the calls that
    were given none but known ``readings`` of the conditioning, ``fresh`` the latest
    that were given others, ``unled`` the latest in which no other graph led since the
    forward ``begun``; ``alone`` is set when no other graph follows. The last
    finished run is kept for its decisions. ``pairs`` are the latents with their
    outputs, by the latents' shapes; the conditioning inputs ``moving`` have turned out
    to be latents; ``answered_by`` is the graph that returns the output of a forward
    which is broken into several. ``samples`` are the rows of batches with
    ``per_sample=True``. Leading calls hold the ``lock``.
    """

    report: GraphReport = field(default_factory=GraphReport)
    layer: ParameterIds = frozenset()
    last_used: float = 0.0
    placed: int = 0
    gap: int = 1
    runs: list[Trajectory] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    calls: int = 0
    continued: int = 0
    short_runs: int = 0
    repeats: int = 0
    fresh: int = 0
    readings: list[tuple[Any, ...]] = field(default_factory=list)
    unled: int = 0
    begun: int = -1
    alone: bool = False
    pairs: dict[Any, LatentPair | None] = field(default_factory=dict)
    moving: set[int] = field(default_factory=set)
    answered_by: Hashable = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, context: CallContext) -> Trajectory:
        """Begin a run; a declared run with the same number ends."""
        if context.rows:
            raise OptionError(
                "rows() needs a model compiled with options={'per_sample': True} and "
                "dynamic=True"
            )
        is_next = False
        for run in self.live:
            if context.run_is_known and run.run == context.run:
                is_next |= run.complete
                self.end(run)
        return self.add(
            Trajectory(
                context.owner,
                context.run,
                context.num_steps,
                context.iterations,
                asked=context.asked,
                varying=set(self.moving),
                is_next=is_next,
            )
        )

    def moves(self, index: int) -> None:
        """A conditioning input is a latent: runs are not distinguished by it."""
        self.moving.add(index)
        for run in self.live:
            run.varying.add(index)

    def end(self, run: Trajectory) -> None:
        """End a run, and report it if none of its steps was cached."""
        note_end(run, self.report)
        run.finish()

    def add(self, run: Trajectory) -> Trajectory:
        """Add a run as the newest."""
        run.last_call = self.calls
        self.runs.append(run)
        ended = [old for old in self.runs if old.finished]
        self.runs = [old for old in self.runs if not old.finished or old is ended[-1]]
        return run

    @property
    def live(self) -> list[Trajectory]:
        """The unfinished runs, most recently continued first."""
        live = [run for run in self.runs if not run.finished]
        return sorted(live, key=attrgetter("last_call"), reverse=True)

    def expire(self) -> None:
        """Free idle runs, and the oldest of too many."""
        if len(self.runs) < 2:
            return
        self._expire_lone([run for run in self.live if len(run.times) == 1])
        live = self.live
        new = sum(len(run.branches) for run in live if not run.longest_gap)
        patience = IDLE_CALLS * max([1, new, *[run.longest_gap for run in live]])
        kept = 0
        for run in live:
            kept += len(run.branches)
            idle = self.calls - run.last_call > patience
            if idle or (kept > MAX_BRANCHES_KEPT and run is not live[0]):
                note_not_continued(run, self.report)
                run.finish()

    def _expire_lone(self, runs: Sequence[Trajectory]) -> None:
        """Free runs of one step: those of too many, and what takes too much memory."""
        used = list(accumulate(map(_share_of_memory, runs)))
        while len(used) > UNLINKED_RUNS and used.pop() > MEMORY_OF_LONE_RUNS:
            note_not_continued(runs[len(used)], self.report)
            runs[len(used)].finish()
        left = [run for run in runs if not run.finished]
        if min(self.calls - self.continued, len(left)) > 2 * MAX_LONE_RUNS:
            for run in left[MAX_LONE_RUNS:]:
                run.finish()

    @property
    def current(self) -> Trajectory | None:
        """The most recently continued run that still has branches."""

        def latest(run: Trajectory) -> tuple[int, bool]:
            return run.last_call, bool(run.branches)

        return max(self.runs, key=latest, default=None)

    @property
    def last(self) -> Trajectory | None:
        """The run that began before the current one."""
        current = self.current
        before = self.runs[: self.runs.index(current)] if current is not None else []
        return before[-1] if before else None

    @property
    def running(self) -> list[Trajectory]:
        """The unfinished trajectories."""
        under_way = [sample.trajectory for sample in self.samples.under_way]
        return [run for run in (*self.runs, *under_way) if not run.finished]

    @property
    def states(self) -> list[BranchState]:
        """The state of their branches."""
        return [branch.state for known in self.running for branch in known.branches]

    @property
    def decisions(self) -> Sequence[Decision]:
        """The decisions of the current run, or of all samples."""
        current = self.current
        return self.samples.decisions if current is None else current.decisions

    @property
    def used(self) -> bool:
        """Whether a call has been placed in it."""
        return bool(self.runs) or bool(self.samples.joined)

    def forget(self) -> None:
        """End all runs."""
        self.repeats, self.fresh, self.readings = 0, 0, []
        for run in self.live:
            run.finish()


def _share_of_memory(run: Trajectory) -> float:
    """Of a device's memory, in what a run keeps."""
    kept = [(branch.bytes, branch.state.layout.device) for branch in run.branches]
    return sum(size / memory_of(device) for size, device in kept)
