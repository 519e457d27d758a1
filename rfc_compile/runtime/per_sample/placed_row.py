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


def note_partners(placed: Sequence[Sample], under_way: Sequence[Sample]) -> None:
    """Rows of a step with the same latent: the sampler mixes their outputs.

    Those ``placed`` by a call, and others ``under_way`` that earlier calls of the step
    have placed (guidance in several calls), which are decided alike. Two requests may
    begin with the same noise: where rows have names, only those of one name are mixed.
    """
    called = [sample for sample in placed if sample.branch.returned]
    times = {sample.trajectory.times[-1] for sample in called}
    others = [x for x in under_way if x not in placed and x.branch.returned]
    members = [*called, *[x for x in others if x.trajectory.times[-1] in times]]
    if not called:
        return
    newest = [sample.branch.returned[0] for sample in members]
    same = alike(torch.cat([one.latent for one in newest]))
    for i, (sample, one) in enumerate(zip(members, newest, strict=True)):
        run = sample.trajectory
        own = [j for j in same[i] if members[j].trajectory.name == run.name]
        mixed = one._replace(others=[newest[j].output for j in own])
        sample.branch.returned = [mixed, *sample.branch.returned[1:]]
        sample.branch.mixed = WeakSet([members[j].branch for j in own])
        beside = [members[j].trajectory for j in own]
        parted = [x for x in run.linked if x.times[-1] == run.times[-1]]
        run.unlink([x for x in parted if x not in beside])
        for j in own:
            if i < len(called) <= j:  # of an earlier call
                run.link(members[j].trajectory)
