"""The presets: how much error is allowed."""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """The options that a preset sets.

    Attributes:
        threshold: of ``rcs``.
        tolerance: of ``error_control``.
    """

    threshold: float
    tolerance: float


PRESETS = {
    "quality": Preset(threshold=0.15, tolerance=0.008),
    "balanced": Preset(threshold=0.35, tolerance=0.02),
    "fast": Preset(threshold=0.75, tolerance=0.06),
}
"""Chosen by `python -m benchmarks matrix`, leaving out the model under test."""


def even_steps(tolerance: float) -> int:
    """About as many full steps of a run of 50 as error control takes; 1000 for none."""
    return 1000 if tolerance <= 0 else min(1000, round(2.93 * tolerance**-0.4) or 1)
