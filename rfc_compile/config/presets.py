"""The presets: how much error is allowed."""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """The options that a preset sets.

    Attributes:
        threshold: of ``rcs``.
        tolerance: of ``error_control``.
        even_steps: full steps of a run of 50 where nothing can be measured.
    """

    threshold: float
    tolerance: float
    even_steps: int


PRESETS = {
    "quality": Preset(threshold=0.15, tolerance=0.008, even_steps=20),
    "balanced": Preset(threshold=0.35, tolerance=0.02, even_steps=14),
    "fast": Preset(threshold=0.75, tolerance=0.06, even_steps=9),
}
"""Chosen by `python -m benchmarks matrix`, leaving out the model under test."""
