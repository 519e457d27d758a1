"""How latents follow from what the branches of a run returned, looked at when needed.

fits_after     of a call's latent, after each of several branches
fits_of        of every row of a batch, after the branch beside it
put_off        of a named run's step: nothing has to be known of it yet
settle         the steps that were put off, all in one copy to the host
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rfc_compile.runtime.guidance_branch import (
    KEPT_OUTPUTS,
    GuidanceBranch,
    Returned,
)
from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import (
    NOT_MOVED,
    Fit,
    fit_of,
    gram_matrix,
    in_rows,
    rounding_of,
    step_vectors,
)
from rfc_compile.runtime.trajectory import MOST_UNFITTED, Trajectory


class _Moved(NamedTuple):
    """A latent (R, N) that may follow from what a branch was last called with."""

    run: Trajectory
    branch: GuidanceBranch
    kept: Sequence[Returned]
    latent: Tensor | None


def fits_after(
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
            run.same_latent = step if fit.stands else run.same_latent
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
    if run.in_parts:
        others = [other for other in others if _answers_the_same(other, branch, step)]
    found = [output for one in (branch, *others) for output in one.returned_at(step)]
    if run.linked:  # another graph may answer another part of its latent
        found = [part for output in found for part in in_rows(output, found[0])]
    return found


def _answers_the_same(one: GuidanceBranch, other: GuidanceBranch, step: int) -> bool:
    """Whether two branches were called with the same latent at a step."""
    latents = [x.latent for b in (one, other) for x in b.returned if x.step == step]
    return len(latents) == 2 and torch.equal(*latents)


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
