"""Which run a call continues: the fit of the sampler says so.

    the latent stands still, same timestep      the same step, another branch
    the latent follows from the run's           its next step
    it follows from a waiting branch's alone    that branch leaves: another image
    none of these                               a new run

A run that the caller has named (a pipeline, ``trajectory(num_steps=)``) is continued by
every call of it, whatever the fit says: samplers with fresh noise and edited latents
are no combination of what was returned. Its fits are only looked at where a full step
needs them (``settle``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.guidance_branch import (
    KEPT_OUTPUTS,
    GuidanceBranch,
    Returned,
)
from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import (
    EXACT,
    NOT_MOVED,
    Fit,
    fit_of,
    gram_matrix,
    rounding_of,
    step_vectors,
)
from rfc_compile.runtime.trajectory import Time, Trajectory

MOST_UNFITTED = 8
"""Steps of a run whose fits may be put off: what they need is kept until then."""


@dataclass(frozen=True)
class Place:
    """A run that a call may continue.

    Attributes:
        run: the run.
        step: index of the call's step there.
        branches: those that have not run it, likeliest first.
        fit: how the latent follows; None where that was not looked at.
        leaves: whether the branch continues as a run of its own.
        joins: another run that stands at this latent, which a branch that leaves joins.

    """

    run: Trajectory
    step: int
    branches: Sequence[GuidanceBranch]
    fit: Fit | None = None
    leaves: bool = False
    joins: Trajectory | None = None


def places(
    runs: Sequence[Trajectory],
    context: CallContext,
    latent: Tensor | None,
    time: Time,
    *,
    fragment: bool = False,
) -> Iterator[Place]:
    """The runs that a call may continue, likeliest first.

    ``runs`` are those under way; ``latent`` (R, N) is None where the graph has none
    that an output answers. A ``fragment`` of a forward sees no output of the model:
    there the timestep alone says which step a call is.
    """
    own = [
        run
        for run in runs
        if run.run == context.run and run.newest is not None and not run.complete
    ]
    if len(own) == 1 and context.run_is_known and own[0].times[-1] != time:
        (run,) = own
        if context.run or not run.goes_back(time):
            yield _going(run, context, None)
            return
    newest = [(run, run.newest) for run in own if run.newest is not None]
    fits = _fits_after(newest, latent)
    standing, going = [], []
    for run, fit in zip(own, fits, strict=True):
        same = run.times[-1] == time
        if fit is None:
            if same and (context.run_is_known or fragment):
                standing.append(_standing(run, context))
            elif context.run_is_known or (fragment and not run.goes_back(time)):
                going.append(_going(run, context, None))
        elif not fit.moved:
            if same:
                standing.append(_standing(run, context))
            elif context.run_is_known:
                going.append(_going(run, context, fit))
        elif _continues(run, context, fit, time):
            going.append(_going(run, context, fit))
    going.sort(key=_unlikeliness)
    yield from _in_order(own, standing, going, context, latent, time)


def _in_order(
    runs: Sequence[Trajectory],
    standing: Sequence[Place],
    going: Sequence[Place],
    context: CallContext,
    latent: Tensor | None,
    time: Time,
) -> Iterator[Place]:
    """The places where the latent stands still or moves on, and parts of runs."""
    yield from [place for place in standing if place.branches]
    # a run that nobody has continued yet comes before part of one that somebody has
    untouched = [p for p in going if _follows_exactly(p) and p.run.times[-1] != time]
    yield from untouched
    # one step of a branch explains more than two of a run, or another image's
    certain = any(p.fit is None or p.fit.linear for p in going)
    going = [place for place in going if place not in untouched]
    beside = [place.run for place in going if place.run.times[-1] == time]
    lagging = beside if certain else runs
    if lagging:
        yield from _leaving(lagging, context, latent, time)
    ready = [place for place in standing if not place.branches]
    joining = _joining(runs, [place.run for place in ready], context, latent)
    exactly = [p for p in going if p.fit is None or p.fit.residual <= EXACT]
    yield from exactly
    yield from joining
    yield from [place for place in going if place not in exactly]
    yield from ready


def _unlikeliness(place: Place) -> tuple[bool, float]:
    """Two steps of another image with the same noise explain as much as one's own."""
    fit = place.fit
    return (False, 0.0) if fit is None else (not fit.linear, fit.residual)


def _follows_exactly(place: Place) -> bool:
    fit = place.fit
    return fit is not None and fit.linear and fit.residual <= EXACT


def _standing(run: Trajectory, context: CallContext) -> Place:
    return Place(run, run.step, run.waiting(run.step, context.branch))


def _going(run: Trajectory, context: CallContext, fit: Fit | None) -> Place:
    step = run.step + 1
    return Place(run, step, run.waiting(step, context.branch), fit)


def _continues(run: Trajectory, context: CallContext, fit: Fit, time: Time) -> bool:
    if context.run:
        return True
    if run.goes_back(time):
        return False
    # the noise of a run that was broken off, when another begins with it
    return context.run_is_known or (fit.explained and not fit.returns)


def _leaving(
    runs: Sequence[Trajectory],
    context: CallContext,
    latent: Tensor | None,
    time: Time,
) -> list[Place]:
    """Branches that lag behind their run, where the latent follows from theirs."""
    lagging = [
        (run, branch)
        for run in runs
        for branch in run.waiting(run.step, context.branch)
        if not context.run_is_known
    ]
    fits = _fits_after(lagging, latent)
    found = [
        Place(run, branch.step + 1, [branch], fit, leaves=True)
        for (run, branch), fit in zip(lagging, fits, strict=True)
        if fit is not None and fit.explained and run.leads_on(time, branch.step)
    ]
    return sorted(found, key=lambda place: place.fit.residual if place.fit else 0.0)


def _joining(
    runs: Sequence[Trajectory],
    standing: Sequence[Trajectory],
    context: CallContext,
    latent: Tensor | None,
) -> list[Place]:
    """Branches of other runs that with those of a standing one explain its latent.

    Images with one noise are one run until their latents differ; there the guidance
    branches of an image leave it one after the other.
    """
    candidates = [
        (other, run, branch)
        for run in standing
        for other in runs
        if other is not run and not context.run_is_known and run.has_made(other)
        for branch in other.waiting(run.step, context.branch)
        if branch.step == run.step - 1
    ]
    fits = _fits_after([(run, branch) for _, run, branch in candidates], latent)
    return [
        Place(other, run.step, [branch], fit, leaves=True, joins=run)
        for (other, run, branch), fit in zip(candidates, fits, strict=True)
        if fit is not None and fit.explained
    ]


class _Moved(NamedTuple):
    """A latent (R, N) that may follow from what a branch was last called with."""

    run: Trajectory
    branch: GuidanceBranch
    kept: Sequence[Returned]
    latent: Tensor | None


def _fits_after(
    candidates: Sequence[tuple[Trajectory, GuidanceBranch]], latent: Tensor | None
) -> list[Fit | None]:
    """How a latent follows from each branch's last step."""
    if latent is None or not candidates:
        return [None] * len(candidates)
    return _fits(
        [_Moved(run, b, b.returned[:KEPT_OUTPUTS], latent) for run, b in candidates]
    )


def _fits(moved: Sequence[_Moved]) -> list[Fit | None]:
    """How each latent follows from what is kept; one copy to the host for all."""
    grams: list[Tensor] = []
    sizes: list[tuple[tuple[int, ...], int, float]] = []
    for run, branch, kept, latent in moved:
        if latent is None or not kept or kept[0].latent.shape != latent.shape:
            sizes.append(((), 0, 0.0))
            continue
        outputs = [outputs_of(run, branch, one.step) for one in kept]
        latents = [one.latent for one in kept]
        grams.append(gram_matrix(step_vectors(latent, latents, outputs)))
        sizes.append((grams[-1].shape, len(outputs[0]), rounding_of(latent)))
    read = iter(read_all(grams)) if grams else iter(())
    return [
        fit_of(np.reshape(next(read), shape), count, rounding) if shape else None
        for shape, count, rounding in sizes
    ]


def put_off(run: Trajectory, step: int) -> None:
    """Continue the run with a step whose fit is not evaluated yet."""
    assert run.newest is not None
    if run.unfitted and run.unfitted[-1][0] == step:
        return
    if len(run.unfitted) == MOST_UNFITTED:
        settle(run, None)
    run.unfitted.append((step, run.newest))


def settle(run: Trajectory, latent: Tensor | None) -> None:
    """Look at the fits that were put off; each branch's debt is then that of now.

    ``latent`` (R, N) is that of the newest step, None where its call is over.
    """
    newest_step, _ = run.unfitted[-1]
    latents = {one.step: one.latent for b in run.branches for one in b.returned}
    if latent is not None:
        latents[newest_step] = latent
    moved = {}
    for step, before in run.unfitted:
        kept = [one for one in before.returned if one.step < step][:KEPT_OUTPUTS]
        moved[step] = _Moved(run, before, kept, latents.get(step))
    fits: dict[int, dict[int, Fit]] = {step: {} for step in moved}
    for (step, one), fit in zip(moved.items(), _fits([*moved.values()]), strict=True):
        if fit is not None:
            fits[step] = fits_by_branch(run, one.branch, one.kept[0].step, fit)
    for branch in run.branches:
        for step, time, follows in branch.pending:
            fit = fits[step].get(branch.index) if follows else None
            branch.debt = branch.debt.carried_on(fit).after(time, (), full=False)
        branch.pending.clear()
    run.fitted, run.fits = newest_step, fits[newest_step]
    run.unfitted.clear()


def outputs_of(run: Trajectory, branch: GuidanceBranch, step: int) -> list[Tensor]:
    """What was returned at a step: by this branch first, then by the others."""
    others = [other for other in run.branches if other is not branch]
    if run.linked:
        others = run.beside(branch)
    found = [output for one in (branch, *others) for output in one.returned_at(step)]
    if run.linked:  # another graph may answer another part of its latent
        found = [output for output in found if output.shape == found[0].shape]
    return found


def fits_by_branch(
    run: Trajectory, before: GuidanceBranch, step: int, fit: Fit
) -> dict[int, Fit]:
    """The fit of a run's next step with each branch's own output first, by its index.

    ``fit`` is that after ``step``, with the outputs of the branch ``before`` first.
    """
    found, column = {}, 0
    for branch in (before, *[other for other in run.branches if other is not before]):
        own = len(branch.returned_at(step))
        if own:
            found[branch.index] = fit.first(column)
        column += own
    return found


def fits_of(pairs: Sequence[tuple[GuidanceBranch, Tensor]]) -> list[list[Fit]]:
    """How every row (R, N) follows from the branch of one row beside it.

    One copy to the host for all. A row that cannot be compared has not moved.
    """
    grams: list[Tensor] = []
    sizes = []
    for branch, latents in pairs:
        kept = branch.returned
        if not kept or kept[0].latent.shape[1:] != latents.shape[1:]:
            sizes.append(0)
            continue
        like = latents.shape
        past = [one.latent.expand(like) for one in kept]
        outputs = [[x.expand(like) for x in one.outputs] for one in kept]
        grams.append(gram_matrix(step_vectors(latents, past, outputs)))
        sizes.append(len(outputs[0]))
    read = iter(zip(read_all(grams), grams, strict=True))
    found = []
    for size, (_, latents) in zip(sizes, pairs, strict=True):
        if not size:
            found.append([NOT_MOVED] * len(latents))
            continue
        values, gram = next(read)
        rounding = rounding_of(latents)
        rows = np.reshape(values, gram.shape)
        found.append([fit_of(row[None], size, rounding) for row in rows])
    return found
