"""What the debts of a run say of its image, and what an image asks of them.

    psnr = OFFSET - SLOPE log10(tolerance)          on average over runs
    tolerance that nine of ten runs need            the same line, MARGIN dB lower

Measured by `python -m benchmarks promise` over the trained models, their samplers,
guidance and numbers of steps; docs/measured.md has how well it holds on models left out.
PSNR is that of images in [0, 1] against the uncached run.
"""

from __future__ import annotations

import math

OFFSET = 21.0
SLOPE = 10.4
"""In dB, for ten times the tolerance."""
MARGIN = 7.0
"""What one run in ten stays below the average by, in dB."""


def tolerance_for(min_psnr: float) -> float:
    """The tolerance by which nine of ten runs have so many dB."""
    tolerance: float = 10 ** ((OFFSET - MARGIN - min_psnr) / SLOPE)
    return tolerance


def psnr_of(tolerance: float) -> float:
    """The average PSNR in dB of runs that owe so much at most."""
    return OFFSET - SLOPE * math.log10(tolerance) if tolerance > 0 else math.inf
