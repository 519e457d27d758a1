"""Guidance branches of one image that are runs of different sessions.

    a prompt without as many tokens as the empty one    other shapes: another session
    a prompt that a Python flag drops                   another graph of the forward
    a third call beside a batch of two                  other shapes, too

The sampler mixes what they return all the same. A run that begins at the latent and
timestep at which another run of the model's parameters has begun is linked to it: the
outputs of both explain the latents that follow, and a step is full or cached in both.
Where latents differ at one of the next steps they are different images, and the link
ends. A run that is called at some of the steps only (skip-layer guidance) has the other
one's steps.

A second model that continues an image where the first one has stopped (one for much
noise, one for little) continues its run, as calls of other shapes do (guidance in one
batch that ends): the steps and full steps before are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from rfc_compile.runtime import session_table
from rfc_compile.runtime.guidance_branch import (
    FARTHEST_GAP,
    KEPT_OUTPUTS,
    GuidanceBranch,
    Returned,
)
from rfc_compile.runtime.run_fits import fits_after
from rfc_compile.runtime.sampler_fit import EXACT, in_rows
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import Trajectory

LINKED_STEPS: Final = 3
"""Images with one noise have other latents after the first of these steps, unless their
prompts are the same."""

CONSTANT_TIME: Final = (
    "the first step of a run was another graph's, which is not given the timestep: "
    "Dynamo takes a number for a constant until it changes, so that the image is not "
    "the same when it is drawn later; pass the timestep as a tensor, or compile with "
    "dynamic=True"
)

PARTED: Final = (
    "the first call of a run was another graph's, so later ones are not predicted from "
    "it; where that is because the model fills a table at its first call, the image is "
    "not the same when it is drawn later: call the model once before torch.compile"
)


def link_runs(session: Session, branch: GuidanceBranch) -> None:
    """Link a run at its first step; end wrong links at the next ones."""
    newest = branch.returned[0]
    run = next((run for run in session.live if branch in run.branches), None)
    if run is None:
        return
    if newest.step > 0:
        if newest.step < LINKED_STEPS:
            _note_parted(session, run)
        run.unlink([other for other in run.linked if _differs(other, newest)])
        return
    for other in _beside(session, run):
        known = _latents_at(other, 0) if other.times == run.times else ()
        if any(_equal(latent, newest.latent) for latent in known):
            run.link(other)


def begin_beside(call: PlacedStep) -> None:
    """Begin a run at the step of another one that has come to the same latent."""
    run, latents = call.trajectory, [x for x in call.latents if isinstance(x, Tensor)]
    given = [x.flatten(1) for x in latents if x.ndim > 1]
    _note_constant_time(call.session, run)
    for other in _beside(call.session, run):
        if other.step > 0 and other.times[-1] == call.time:
            kept = _latents_at(other, other.step)
            if any(_equal(x, y) for x in kept for y in given):
                run.times, run.timesteps = other.times[:-1], other.timesteps[:-1]
                run.process = other.process
                call.step = call.branch.first_step = other.step
                for old in [x for x in call.session.live if x in other.linked]:
                    call.branch.gaps.update(*[b.gaps for b in old.branches])
                    if other.step - old.step <= FARTHEST_GAP:
                        call.branch.gaps.add(other.step - old.step)
                    old.finish()
                run.link(other)
                return
    for beside, other in _of_its_name(call.session, run):
        if _goes_on_with(call, given, beside, other):
            run.times, run.timesteps = [*other.times], [*other.timesteps]
            run.process = other.process
            call.step = call.branch.first_step = len(run.times)
            run.link(other)
            return


def _goes_on_with(
    call: PlacedStep, given: Sequence[Tensor], session: Session, run: Trajectory
) -> bool:
    """Whether a first call of one graph or model is the next step of another's run.

    ``given`` are the inputs that may be its latent, (R, N) each.
    """
    newest, report = run.newest, call.session.report
    if session.report.fragment or report.fragment or newest is None or run.complete:
        return False
    if run.step < 1 or session.samples.joined or not run.leads_on(call.time, run.step):
        return False
    if run.declared:
        return True
    known = newest.returned[:1]
    rows = [x for kept in known for y in given for x in in_rows(y, kept.latent)]
    fits = [fit for x in rows for fit in fits_after([(run, newest)], x)]
    return any(fit is not None and fit.explained and fit.moved for fit in fits)


def _note_constant_time(session: Session, run: Trajectory) -> None:
    """Tell where a graph of the first timestep alone has had a run's first step."""
    if len(session.runs) > 1 or session.report.fragment:  # parts of one forward
        return
    for beside, other in session_table.running():
        untimed = beside.report.timestep is None and bool(beside.layer & session.layer)
        if untimed and (other.name, other.step) == (run.name, 0):
            session.report.fall_back(CONSTANT_TIME)


def _note_parted(session: Session, run: Trajectory) -> None:
    """Tell where another graph has had a run's first call, and no more."""
    if run.asked.off or session.report.options.get("interval") == 1:  # full anyway
        return
    calls = [made.step for made in run.decisions]
    for other in _beside(session, run):
        if other.newest is None or other.step > 0:
            continue
        if other.times == run.times[:1]:  # guided: the other calls were this graph's
            parted = run.step == 2 and calls.count(1) > calls.count(0)
        else:
            first = list(_latents_at(run, 0))
            fits = [fits_after([(other, other.newest)], x)[0] for x in first]
            parted = any(fit and fit.moved and fit.residual <= EXACT for fit in fits)
        if parted:
            session.report.fall_back(PARTED)


def _beside(session: Session, run: Trajectory) -> Iterator[Trajectory]:
    """Runs of the owner in sessions of the same model."""
    for beside, other in _of_its_name(session, run):
        if beside.layer & session.layer:
            yield other


def _of_its_name(
    session: Session, run: Trajectory
) -> Iterator[tuple[Session, Trajectory]]:
    """Runs of the owner in other sessions with the same options."""
    named = run.name, run.run, run.num_steps, run.asked
    for beside, other in session_table.running():
        alike = beside.report.options == session.report.options
        same = (other.name, other.run, other.num_steps, other.asked) == named
        if beside is not session and alike and same and other in beside.runs:
            yield beside, other


def _differs(run: Trajectory, newest: Returned) -> bool:
    """Whether a run has another latent at a step."""
    known = _latents_at(run, newest.step)
    return any(not _equal(latent, newest.latent) for latent in known)


def _latents_at(run: Trajectory, step: int) -> Iterator[Tensor]:
    """The latents (R, N) that a run's branches were called with at a step."""
    for branch in run.branches:
        yield from [one.latent for one in branch.returned if one.step == step]


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.device != other.device:
        return False
    same = [torch.equal(one, x) for x in in_rows(other, one)]
    return bool(same) and all(same)


def outputs_to_keep(run: Trajectory) -> int:
    """Steps whose outputs the fits of a run and of those linked to it still need."""
    later = [len(other.unfitted) + 1 for other in run.linked]
    return KEPT_OUTPUTS + max(len(run.unfitted), *later)
