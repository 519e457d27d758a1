"""Are the samples of a batch independent? Tested once, at the model's first batch.

    all rows, one of them broken      must leave every other row as it is
    all rows, all but one broken      must leave that row as it is
    one row alone                     must give its row

A row is broken by NaN in its latent, which no weight and no gate hides: attention over
the batch, a statistic of it or a scale of its largest value carry it into other rows.
Where whole numbers are computed from the latent, which NaN might turn into an index out
of bounds, the latent is negated instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from rfc_compile.passes.analysis.batch_dimension import Batch
from rfc_compile.runtime.per_sample.rows import count_of, pick

Trial = Callable[[Sequence[Any], int], list[Tensor]]
"""Runs arguments of so many samples; gives tensors with a row for each."""

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2
"""Relative distance of a row alone from the same in a batch, in float32 and in half
precision: only sums may come in another order."""

MIXES = (
    "per_sample=True needs samples that are computed one by one, and in this model a "
    "sample depends on the others of its batch (attention over the batch or a "
    "statistic of it): calls run uncached"
)


def smallest_batch(trial: Trial, batch: Batch, arguments: Sequence[Any]) -> int | None:
    """The fewest samples that the graphs hold for, 1 or 2; None if samples mix.

    A graph of symbolic sizes was made for two samples or more. ``arguments`` hold that
    many, with ordinary numbers only.
    """
    count = count_of(batch, arguments)
    whole = trial(arguments, count)
    others = range(1, count)
    if not (
        _same(trial(_broken(batch, arguments, [0]), count), whole, others)
        and _same(trial(_broken(batch, arguments, others), count), whole, [0])
    ):
        return None
    for fewest in (1, 2):
        chosen = [0] * fewest
        try:
            alone = trial(pick(batch, arguments, chosen), fewest)
        except (RuntimeError, AssertionError):  # sizes were taken for granted
            continue
        if _same(alone, whole, [0]):
            return fewest
    return None


def _broken(batch: Batch, arguments: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    broken = list(arguments)
    for i in batch.latents:
        broken[i] = arguments[i].clone()
        broken[i][list(rows)] *= -1 if batch.indexed else math.nan
    return broken


def _same(found: list[Tensor], whole: list[Tensor], rows: Sequence[int]) -> bool:
    """Whether these rows are equal but for rounding."""
    return all(
        _distance(a[i], b[i]) <= (TOLERANCE if a.element_size() > 2 else HALF_TOLERANCE)
        for a, b in zip(found, whole, strict=True)
        for i in rows
    )


def _distance(a: Tensor, b: Tensor) -> float:
    """Relative distance; NaN, which no limit admits, if one of them is broken."""
    difference = float((a.float() - b.float()).norm())
    return difference / float(b.float().norm()) if difference else 0.0
