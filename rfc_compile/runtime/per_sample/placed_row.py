"""A row of a batch and the step that it is taken for."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.per_sample.matching import Sample
from rfc_compile.runtime.step import PlacedStep


@dataclass(frozen=True)
class Placed:
    """A row that is taken for a step of a sample.

    Attributes:
        sample: the sample.
        call: its call, with the arguments of its row.
        signal: of the step; its error is known behind the probe.
        reason: why it is full or cached, once that is decided.
        full: whether it is full.
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
