"""A place in a run that a call may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.sampler_fit import Fit
from rfc_compile.runtime.trajectory import Trajectory


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
        part: whether the latent is one of several at each step of the run.
        restarts: whether the run begins anew here, with no history.
        same_latent: whether its latent has been called at another timestep.
    """

    run: Trajectory
    step: int
    branches: Sequence[GuidanceBranch]
    fit: Fit | None = None
    leaves: bool = False
    joins: Trajectory | None = None
    part: bool = False
    restarts: bool = False
    same_latent: bool = False
