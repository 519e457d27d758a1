"""One decision of the runtime: full or cached, and why."""

from __future__ import annotations

from dataclasses import dataclass

from rfc_compile.graph_report import log


@dataclass(frozen=True)
class Decision:
    """One decision of the runtime.

    Attributes:
        step: index of the step in its trajectory.
        branch: index of the CFG branch.
        timestep: value of the timestep input (mean over the batch).
        full: whether every region was computed.
        reason: ``warmup``, ``error_control``, ``not_foretold``, ``even``,
            ``noise_level``, ``skipped``, ``threshold``, ``interval``, ``mask``,
            ``cap``, ``final``, ``conditioning``, ``new_run``, ``discontinuity``,
            ``no_clock``, ``timesteps``, ``same_latent``, ``weights``, ``non_finite``,
            ``lost_state`` or ``no_history`` for a full step; ``within_limit`` or
            ``scheduled`` for a cached one.
        statistic: the step's input prediction error e(s); None where it has no history.
        true_error: of a full step, the relative error that its prediction would have
            had, over the batch the largest; None where it was not predicted.
        debt: relative error of the latent that the cached steps before it have left.
        repaid: the share of it that its output repays.
        change: how far the latent has moved since the branch's step before, relatively;
            None where there is none.
    """

    step: int
    branch: int
    timestep: float
    full: bool
    reason: str
    statistic: float | None
    change: float | None = None
    true_error: float | None = None
    debt: float | None = None
    repaid: float | None = None


def log_decision(owner: str, decision: Decision) -> None:
    """One DEBUG line per decision (``TORCH_LOGS="+rfc_compile"``)."""
    log.debug(
        "%s step %d branch %d t=%g: %s (%s, e=%s)",
        owner,
        decision.step,
        decision.branch,
        decision.timestep,
        "full" if decision.full else "cached",
        decision.reason,
        decision.statistic,
    )
