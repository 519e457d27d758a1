"""What the rows of a batch repay, and whose outputs the sampler mixes with theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rfc_compile.config.options import Options
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.latent_pair import partners
from rfc_compile.runtime.repayment import Repayment, repay
from rfc_compile.runtime.step import PlacedStep


def row_of(values: Sequence[Any], row: int) -> list[Any]:
    """One row of the results of a batch."""
    return [x[row : row + 1] if isinstance(x, Tensor) else x for x in values]


def repay_row(
    call: PlacedStep,
    results: tuple[Sequence[Any], Sequence[Any]],
    history: Sequence[int] | None,
    options: Options,
) -> Repayment:
    """What a row's full step showed of its cached steps.

    ``results`` are what the row's full and its cached graph gave, ``history`` the full
    steps whose values were kept before.
    """
    assert call.pair is not None, "only a step with a latent is measured"
    assert history is not None, "only a full step is measured"
    exact, guess = results
    times = [call.trajectory.times[step][0] for step in history]
    nodes = (call.time[0], *times)[: options.nodes]
    corrects = options.corrector == "auto"
    return repay(
        call.pair,
        call.latents,
        exact,
        guess,
        call.debt,
        call.time[0],
        nodes,
        corrects=corrects,
    )


def note_partners(branches: Sequence[GuidanceBranch]) -> None:
    """Rows of a call with the same latent: the sampler mixes their outputs."""
    newest = [branch.returned[:1] for branch in branches]
    if not all(newest):
        return
    rows = partners(torch.cat([kept[0].latent for kept in newest]))
    for i, branch in enumerate(branches):
        others = [newest[own[i]][0].output for own in rows]
        first, *older = branch.returned
        branch.returned = [first._replace(others=others), *older]
