"""One denoising run: its guidance branches and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import Tensor

from rfc_compile.config.run_options import AS_COMPILED, RunOptions
from rfc_compile.estimators.step_weights import mean_time
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.sampler_fit import Fit
from rfc_compile.schedules.base import Process, Schedule
from rfc_compile.schedules.decision import Decision

MAX_BRANCHES = 8
"""Guidance branches of one run; a further one begins a new run."""

MAX_PARTS = 64
"""Branches of a run that is named, or whose image is drawn in parts."""

MOST_UNFITTED = 8
"""Steps of a run whose fits may be put off: what they need is kept until then."""

NEVER = -MOST_UNFITTED - 1
"""Of a step that something was last seen at, where it was not."""

MOST_BEHIND = 2
"""Steps that a branch may lag behind where a run has more than ``MAX_BRANCHES``."""

JUMP_BACK = 1.5
"""Of the last two moves of the timestep: one back that is larger is no stage's."""

Time = tuple[float, ...]
"""The timesteps of a call, one where all are the same."""


@dataclass(eq=False)
class Trajectory:
    """One denoising run.

    ``name`` is its owner's, ``run`` the number of a declared run, else 0;
    ``num_steps`` and ``iterations`` are those of its first call's ``CallContext``.
    ``asked`` are the options that it has of its own. ``last_call`` is the session's
    call that continued it last, ``longest_gap`` the most calls from one step to the
    next. ``changes`` counts, for conditioning inputs, the steps in a row at which they
    were new; those in ``varying`` change at every step of this run and are not
    compared. ``fits`` are how the step ``fitted`` follows, by the index of the branch
    whose output comes first; ``unfitted`` are the steps after it of which that has not
    been looked at, each with the branch that was called before it. ``timesteps`` are
    the means of the ``times``. ``schedule`` decides about its steps;
    ``process`` is what its first step shows of the noise; ``linked`` are the runs that
    other graphs, or the same at other shapes, have of its image (``linked_runs``);
    ``computed`` counts the steps whose first call was full; ``in_parts`` is set where
    every step calls the model with several latents; ``same_latent`` is
    the last step whose latent was called at another timestep, too; ``first`` is the
    input of its first step, kept for a few (blocks compiled alone). ``is_next`` says
    that it began after as many steps as its name was declared to have.
    """

    name: str
    run: int = 0
    num_steps: int | None = None
    iterations: int | None = None
    branches: list[GuidanceBranch] = field(default_factory=list)
    times: list[Time] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    newest: GuidanceBranch | None = None
    newest_by_name: dict[str | None, GuidanceBranch] = field(default_factory=dict)
    finished: bool = False
    last_call: int = 0
    longest_gap: int = 0
    changes: dict[int, int] = field(default_factory=dict)
    varying: set[int] = field(default_factory=set)
    fitted: int = -1
    fits: dict[int, Fit] = field(default_factory=dict)
    unfitted: list[tuple[int, GuidanceBranch]] = field(default_factory=list)
    asked: RunOptions = AS_COMPILED
    timesteps: list[float] = field(init=False)
    schedule: Schedule | None = None
    process: Process | None = None
    linked: list[Trajectory] = field(default_factory=list, repr=False)
    computed: int = 0
    in_parts: bool = False
    same_latent: int = NEVER
    first: list[Tensor] = field(default_factory=list, repr=False)
    is_next: bool = False

    def __post_init__(self) -> None:
        """One that has left another run begins with that one's steps and links."""
        self.timesteps = list(map(mean_time, self.times))
        for other in self.linked:
            other.linked.append(self)

    def note_call(self, branch: GuidanceBranch, name: str | None) -> None:
        """A branch has been called, by this name."""
        branch.name = name
        self.newest = self.newest_by_name[name] = branch

    def begin_step(self, time: Time, step: int, *, full: bool) -> None:
        """A call is the first of its step; those before it were a linked run's.

        It counts alone where it is full: others may be new at every step.
        """
        for index in range(len(self.times), step):
            skipped = [run.times[index] for run in self.linked if run.step >= index]
            self.times.append(skipped[0] if skipped else time)
        self.times.append(time)
        self.timesteps += map(mean_time, self.times[len(self.timesteps) :])
        before = [run.computed for run in self.linked if run.step < step]
        self.computed = max([self.computed, *before]) + full

    def next_step(self, time: Time) -> int:
        """The index of its next step; linked runs may have been called between."""
        step = self.step + 1
        for run in self.linked:
            same = [i for i, known in enumerate(run.times) if known == time]
            step = max(step, same[-1] if same else run.step + 1)
        return step

    @property
    def step(self) -> int:
        """Index of the newest step."""
        return len(self.times) - 1

    @property
    def steps(self) -> int | None:
        """The number of its steps, None if unknown."""
        return self.num_steps or self.iterations

    @property
    def declared(self) -> bool:
        """Whether the caller said where it begins."""
        return self.run > 0 or self.num_steps is not None

    @property
    def complete(self) -> bool:
        """Whether it has run ``num_steps`` steps, and no branch is still to be called.

        One that was not called for longer than ever is not (guidance that has ended).
        """
        last = None if self.num_steps is None else self.num_steps - 1
        if last is None or not self.branches or len(self.times) <= last:
            return False
        calls = [made.step for made in self.decisions]
        if calls.count(last) < calls.count(last - 1):  # a branch is new at every step
            return False
        return not any(branch.is_due(last) for branch in self.branches)

    @property
    def full_up(self) -> bool:
        """Whether it has as many branches as allowed."""
        many = self.in_parts or self.declared
        return len(self.branches) >= (MAX_PARTS if many else MAX_BRANCHES)

    def make_room(self) -> None:
        """Drop the branches that lag behind where there are many."""
        if len(self.branches) >= MAX_BRANCHES:
            oldest = self.step - MOST_BEHIND
            self.branches = [b for b in self.branches if b.step >= oldest]
            named = self.newest_by_name.items()
            self.newest_by_name = {n: b for n, b in named if b.step >= oldest}

    @property
    def free_index(self) -> int:
        """The index of a branch that is added."""
        return 1 + max((branch.index for branch in self.branches), default=-1)

    @property
    def nfc(self) -> int:
        """Full computations, over all branches."""
        return sum(decision.full for decision in self.decisions)

    def decided(self, step: int, full_steps: Sequence[int]) -> Decision | None:
        """The decision about a step that another branch has already run.

        To a branch with these ``full_steps`` a cached one says nothing where it was
        predicted from others.
        """
        for run in (self, *self.linked):
            if run.decisions and run.decisions[-1].step == step:
                decision, newest = run.decisions[-1], run.newest
                alike = newest is None or newest.state.full_steps[:1] == full_steps[:1]
                return decision if decision.full or alike else None
        return None

    @property
    def direction(self) -> float:
        """Less than 0 where its timesteps fall, 0 while there is only one."""
        return self.timesteps[-1] - self.timesteps[0]

    def goes_back(self, time: Time) -> bool:
        """Whether a time lies behind the newest, seen in the direction of the run."""
        if len(self.times) < 2:
            return False
        newest = self.times[-1]
        # the last time that is another one: a solver's second stage repeats it
        before = next((other for other in reversed(self.times) if other != newest), ())
        if not len(time) == len(newest) == len(before):
            return False
        moves = zip(time, newest, before, strict=True)
        return any((to - at) * (at - past) < 0 for to, at, past in moves)

    @property
    def has_stages(self) -> bool:
        """Whether a step repeats the timestep of the one before, as Heun's do."""
        return any(time == before for before, time in pairwise(self.times))

    def jumps_back(self, time: Time) -> bool:
        """Whether a time lies behind the newest step by more than a stage of a solver.

        Several images in one named run, or noise that is added again. One farther on
        than all before is none, whatever the last move was (a step after noise).
        """
        moves = [b - a for a, b in pairwise(self.timesteps) if a != b]
        if not moves or not self.goes_back(time):
            return False
        now, most = mean_time(time), JUMP_BACK * max(map(abs, moves[-2:]))
        if all((now - past) * moves[0] > 0 for past in self.timesteps):
            return False
        at_first = (now - self.timesteps[0]) * moves[0] <= 0  # no stage is
        return at_first or abs(now - self.timesteps[-1]) > most

    def restart(self) -> None:
        """Drop what was kept: the next step has nothing to do with the last."""
        self.branches, self.unfitted, self.first = [], [], []
        self.newest_by_name = {}
        self.process, self.in_parts, self.computed = None, False, 0
        self.same_latent = NEVER

    def stands_at(self, fit: Fit, time: Time) -> bool:
        """Whether a call is at another timestep of the latent that the run stands at.

        At the first step it may be another image with the same noise.
        """
        return fit.stands and self.times[-1] != time and self.step > 0

    def leads_on(self, time: Time, step: int) -> bool:
        """Whether a time lies ahead of a step's, in the direction of the run.

        The noise that a run began with follows from any of its latents and outputs.
        """
        return (mean_time(time) - self.timesteps[step]) * self.direction > 0

    def waiting(self, step: int, name: str | None) -> list[GuidanceBranch]:
        """The branches that have not run a step, likeliest first.

        ``name`` is the name of the call's branch, if it has one.
        """
        waiting = [b for b in self.branches if b.step < step and b.name in (None, name)]
        if len(waiting) < 2:
            return waiting
        return sorted(waiting, key=lambda branch: (-branch.step, branch.index))

    def newest_of(self, name: str | None) -> GuidanceBranch | None:
        """The branch called last, of those that a call with this name may continue.

        It may have been dropped for conditioning that is found to vary.
        """
        if self.newest is None or self.newest.name in (None, name):
            return self.newest
        return self.newest_by_name.get(name)

    def learn_varying(self, changed: frozenset[int], in_a_row: int) -> list[int]:
        """Count what is new at this step; the inputs that change at every one."""
        self.changes = {i: self.changes.get(i, 0) + 1 for i in changed}
        new = [i for i, count in self.changes.items() if count == in_a_row]
        self.varying.update(new)
        return new

    def split_off(self, branch: GuidanceBranch) -> Trajectory:
        """A run of its own for a branch whose latent has left that of the others."""
        self.branches = [other for other in self.branches if other is not branch]
        own = [made for made in self.decisions if made.branch == branch.index]
        linked = list(self.linked)
        self.decisions = [made for made in self.decisions if made not in own]
        if self.newest is branch:
            self.newest = self.branches[0] if self.branches else None
        if not self.branches:
            self.finish()
        branch.index = 0
        own = [replace(made, branch=0) for made in own]
        return Trajectory(
            self.name,
            self.run,
            self.num_steps,
            self.iterations,
            [branch],
            self.times[: branch.step + 1],
            own,
            branch,
            asked=self.asked,
            schedule=self.schedule,
            process=self.process,
            linked=linked,
            computed=sum(made.full for made in own),
        )

    def has_made(self, other: Trajectory) -> bool:
        """Whether all its steps but the newest are those of another run as well."""
        before = self.times[:-1]
        return not self.full_up and bool(before) and other.times[: self.step] == before

    def take_over(self, run: Trajectory) -> None:
        """The branch of a run that was split off becomes a branch of this one."""
        (branch,) = run.branches
        branch.index = self.free_index
        own = [replace(made, branch=branch.index) for made in run.decisions]
        self.decisions = sorted([*self.decisions, *own], key=lambda made: made.step)
        self.branches.append(branch)
        run.unlink(run.linked)

    def link(self, other: Trajectory) -> None:
        """Another graph's run is of the same image."""
        if other not in self.linked:
            self.linked.append(other)
            other.linked.append(self)

    def unlink(self, others: Sequence[Trajectory]) -> None:
        """These runs are of other images, or at an end."""
        gone = list(others)
        self.linked = [run for run in self.linked if run not in gone]
        for other in gone:
            other.linked = [run for run in other.linked if run is not self]

    def beside(self, branch: GuidanceBranch) -> list[GuidanceBranch]:
        """The other branches of its image: its own, then those of linked runs."""
        runs = self, *self.linked
        return [other for run in runs for other in run.branches if other is not branch]

    def drop(self, branch: GuidanceBranch) -> None:
        """Remove a branch."""
        self.branches = [other for other in self.branches if other is not branch]

    def finish(self) -> None:
        """End the run: its state is freed, its decisions are kept."""
        self.finished = True
        self.unlink(self.linked)
        for branch in self.branches:
            branch.awaited = None
        self.branches, self.unfitted, self.first = [], [], []
        self.newest, self.newest_by_name = None, {}
