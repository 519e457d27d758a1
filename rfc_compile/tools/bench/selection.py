"""Which of a method's settings are reported: its best one at each number of full steps.

Chosen by the selection images alone; what is reported comes from other images.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from rfc_compile.tools.bench.records import Quality, Score

TARGETS: Final = (8, 11, 14, 18)
"""Numbers of full computations (NFC) of 50 steps that the methods are compared at."""

SHAPE_TARGETS: Final = (14,)
"""The ones that are timed on the random shapes."""

SLACK: Final = 0.5
"""A setting counts for a target up to this much above it."""


def best_at(qualities: Iterable[Quality], target: float) -> Quality | None:
    """The best images of those with at most this NFC; None if none has so few."""
    near = [
        (quality, quality.selection)
        for quality in qualities
        if quality.selection is not None and 0 < quality.selection.nfc <= target + SLACK
    ]
    best = max(near, key=lambda item: item[1].psnr, default=None)
    return None if best is None else best[0]


def chosen(qualities: Sequence[Quality], targets: Sequence[float]) -> list[Quality]:
    """The best setting at each target; the cheapest of a method that reaches none."""
    best = [best_at(qualities, target) for target in targets]
    found = list(dict.fromkeys(quality for quality in best if quality is not None))
    if found:
        return found
    working = [(q, q.selection) for q in qualities if q.selection is not None]
    cheapest = min(working, key=lambda item: _cost(item[1]), default=None)
    return [] if cheapest is None else [cheapest[0]]


def _cost(score: Score) -> tuple[float, float]:
    return score.nfc, -score.psnr
