"""A row of a batch, the step it is taken for, what it repays, and its partners."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import torch

from rfc_compile.config.options import Options
from rfc_compile.estimators.step_signal import Signal
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.latent_pair import alike
from rfc_compile.runtime.per_sample.matching import Sample
from rfc_compile.runtime.repayment import Repayment, repay
from rfc_compile.runtime.step import PlacedStep


@dataclass(frozen=True)
class Placed:
    """A row that is taken for a step of a sample.

    Attributes:
        call: its call, with the arguments of its row.
        signal: of the step; its error is known behind the probe.
        reason: why it is full or cached, once that is decided.
    """

    sample: Sample
    call: PlacedStep
    signal: Signal
    reason: str = ""
    full: bool = False


def together(rows: Iterable[Placed]) -> list[Placed]:
    """Rows that guidance combines are full together: errors of alike ones cancel."""
    rows = list(rows)
    reasons = {row.call.branch: row.reason for row in rows if row.full}
    return [
        replace(row, full=True, reason=reasons[leader])
        if not row.full and (leader := _leader(row, reasons)) is not None
        else row
        for row in rows
    ]


def _leader(row: Placed, full: Container[GuidanceBranch]) -> GuidanceBranch | None:
    """A full one among the rows that are combined with a row."""
    return next((branch for branch in row.call.branch.mixed if branch in full), None)


def repay_row(
    call: PlacedStep,
    results: tuple[Sequence[Any], Sequence[Any]],
    options: Options,
) -> Repayment:
    """What a row's full step showed of its cached steps.

    ``results`` are what the row's full and its cached graph gave.
    """
    assert call.pair is not None, "only a step with a latent is measured"
    assert call.positions is not None, "a row has one timestep"
    exact, guess = results
    corrects = options.corrector == "auto"
    return repay(
        call.pair,
        call.latents,
        exact,
        call.pair.returned(guess),
        call.debt,
        call.positions[0],
        call.positions[: options.nodes],
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
