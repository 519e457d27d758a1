"""The PSNR of an image from the tolerance or the debts of its run, and back.

    psnr = OFFSET - SLOPE log10(tolerance)          on average over runs
    tolerance that nine of ten runs need            the same line, MARGIN dB lower
    psnr = DEBT_OFFSET - DEBT_SLOPE log10(debt)     by the largest debt that was made

Measured by `python -m benchmarks promise` over the trained models, their samplers,
guidance and numbers of steps; docs/quality.md has how well it holds on models left
out. PSNR is that of images in [0, 1] against the uncached run.
"""

from __future__ import annotations

import math

OFFSET = 16.2
SLOPE = 13.1
"""In dB, for ten times the tolerance."""
MARGIN = 7.5
"""What nine of ten runs of every model left out of the line stay above, in dB."""

DEBT_OFFSET = 22.0
DEBT_SLOPE = 11.4
"""In dB, for ten times the debt."""


def tolerance_for(min_psnr: float) -> float:
    """The tolerance with which nine of ten runs reach this PSNR."""
    tolerance: float = 10 ** ((OFFSET - MARGIN - min_psnr) / SLOPE)
    return tolerance


def psnr_of(tolerance: float) -> float:
    """The average PSNR in dB of runs with this tolerance."""
    return OFFSET - SLOPE * math.log10(tolerance) if tolerance > 0 else math.inf


def psnr_from_debt(debt: float) -> float:
    """The average PSNR in dB of runs whose largest debt was this one."""
    return DEBT_OFFSET - DEBT_SLOPE * math.log10(debt) if debt > 0 else math.inf
