"""Guidance branches of one image that are runs of different sessions.

    a prompt without as many tokens as the empty one    other shapes: another session
    a prompt that a Python flag drops                   another graph of the forward
    a third call beside a batch of two                  other rows

The sampler mixes what they return all the same. A run that begins at the latent and
timestep at which another run of the model's parameters has begun is linked to it: the
outputs of both explain the latents that follow, and a step is full or cached in both.
Where latents differ at one of the next steps they are different images, and the link
ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from rfc_compile.runtime import session_table
from rfc_compile.runtime.guidance_branch import (
    KEPT_OUTPUTS,
    GuidanceBranch,
    Returned,
)
from rfc_compile.runtime.sampler_fit import in_rows
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import Trajectory

LINKED_STEPS: Final = 3
"""Images with one noise have other latents after the first of these steps, unless their
prompts are the same."""


def link_runs(session: Session, branch: GuidanceBranch) -> None:
    """Link a run at its first step; end wrong links at the next ones."""
    newest = branch.returned[0]
    run = next((run for run in session.live if branch in run.branches), None)
    if run is None:
        return
    if newest.step > 0:
        run.unlink([other for other in run.linked if _differs(other, newest)])
        return
    for other in _begun_beside(session, run):
        if any(_equal(one, newest) for one in _returned_at(other, 0)):
            run.link(other)


def _begun_beside(session: Session, run: Trajectory) -> Iterator[Trajectory]:
    """Runs of the owner in sessions of the same model, at the same first step."""
    for beside, other in session_table.running():
        same_model = (
            beside is not session
            and bool(beside.layer & session.layer)
            and beside.report.options == session.report.options
        )
        same_run = (other.name, other.run, other.times, other.asked) == (
            run.name,
            run.run,
            run.times,
            run.asked,
        )
        if same_model and same_run and other in beside.runs:
            yield other


def _differs(run: Trajectory, newest: Returned) -> bool:
    """Whether a run has another latent at a step, or has not come with it."""
    if abs(run.step - newest.step) > 1:
        return True
    return any(not _equal(one, newest) for one in _returned_at(run, newest.step))


def _returned_at(run: Trajectory, step: int) -> Iterator[Returned]:
    """What a run's branches returned at a step."""
    for branch in run.branches:
        yield from [one for one in branch.returned if one.step == step]


def _equal(one: Returned, other: Returned) -> bool:
    if one.latent.device != other.latent.device:
        return False
    same = [torch.equal(one.latent, x) for x in in_rows(other.latent, one.latent)]
    return bool(same) and all(same)


def outputs_to_keep(run: Trajectory) -> int:
    """Steps whose outputs the fits of a run and of those linked to it still need."""
    later = [len(other.unfitted) + 1 for other in run.linked]
    return KEPT_OUTPUTS + max(len(run.unfitted), *later)
