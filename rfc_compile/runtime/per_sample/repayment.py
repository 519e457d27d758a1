"""What the rows of a batch repay, and whose outputs the sampler mixes with theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from rfc_compile.config.options import Options
from rfc_compile.runtime.latent_pair import alike
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
        call.pair.returned(guess),
        call.debt,
        call.time[0],
        nodes,
        corrects=corrects,
    )


def note_partners(calls: Sequence[PlacedStep]) -> None:
    """Rows of a call with the same latent: the sampler mixes their outputs.

    Two requests may begin with the same noise: where rows have names, only those of one
    name are mixed.
    """
    calls = [call for call in calls if call.branch.returned]
    if not calls:
        return
    newest = [call.branch.returned[0] for call in calls]
    same = alike(torch.cat([one.latent for one in newest]))
    for i, call in enumerate(calls):
        owner = call.context.owner
        own = [j for j in same[i] if calls[j].context.owner == owner]
        mixed = newest[i]._replace(others=[newest[j].output for j in own])
        call.branch.returned = [mixed, *call.branch.returned[1:]]
        call.branch.mixed = WeakSet([calls[j].branch for j in own])
