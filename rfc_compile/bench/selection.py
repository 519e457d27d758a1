"""Which of a method's settings are timed: its best one at each number of full steps."""

from collections.abc import Iterable, Sequence
from typing import Final

from rfc_compile.bench.records import Quality

TARGETS: Final = (8, 11, 14, 18)
"""Numbers of full computations (NFC) of 50 steps that the methods are compared at."""

SLACK: Final = 0.5
"""A setting counts for a target up to this much above it."""


def best_at(qualities: Iterable[Quality], target: float) -> Quality | None:
    """The best images of those with at most this NFC; None if none has so few."""
    near = [q for q in qualities if q.psnr is not None and 0 < q.nfc <= target + SLACK]
    return max(near, key=_psnr, default=None)


def to_time(qualities: Sequence[Quality], targets: Sequence[float]) -> list[Quality]:
    """The best setting at each target; the cheapest of a method that reaches none."""
    chosen = [best_at(qualities, target) for target in targets]
    found = list(dict.fromkeys(q for q in chosen if q is not None))
    if found:
        return found
    working = [q for q in qualities if q.psnr is not None]
    return [min(working, key=lambda q: (q.nfc, -_psnr(q)))] if working else []


def _psnr(quality: Quality) -> float:
    assert quality.psnr is not None
    return quality.psnr
