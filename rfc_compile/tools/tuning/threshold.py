"""The threshold with which a schedule computes a wanted number of steps in full."""

from __future__ import annotations

import math
from typing import Any, Final

from rfc_compile.config.options import Options
from rfc_compile.config.presets import PRESETS
from rfc_compile.schedules import SCHEDULES
from rfc_compile.tools.tuning.space import Setting
from rfc_compile.tools.tuning.trials import Trials, Tried

_RUNS: Final = 5
_FACTOR: Final = 2.0


def fit_threshold(trials: Trials, setting: Setting, count: float) -> Tried | None:
    """The best of the trials on the way to a threshold with that many full steps.

    The threshold is doubled or halved until two of them enclose the number, then the
    gap is halved. A threshold that is too strict is stopped early.

    Args:
        trials: whose first seed is drawn.
        setting: all options but the one that makes its schedule more or less strict.
        count: full steps, at most.

    Returns:
        The trial with the best images; None if none has so few full steps.
    """
    seeds = trials.reference.seeds[:1]
    strict, loose = 0.0, math.inf  # too many full steps, few enough
    name = SCHEDULES[setting["schedule"]].strictness
    assert name is not None
    threshold, found = getattr(PRESETS[Options().preset], name), list[Tried]()
    for _ in range(_RUNS):
        options: dict[str, Any] = {**setting, name: _rounded(threshold)}
        kind = f"{setting['schedule']}"
        tried = trials.measure(kind, options, count, seeds)
        if tried is None:
            strict = threshold
        else:
            loose = threshold
            found.append(tried)
            if tried.measured.nfc > count - 1:
                break
        if not strict:
            threshold = loose / _FACTOR
        elif loose == math.inf:
            threshold = strict * _FACTOR
        else:
            threshold = math.sqrt(strict * loose)
    return max(found, key=lambda tried: tried.measured.psnr, default=None)


def _rounded(threshold: float) -> float:
    """To three digits: nobody wants to read more of them."""
    return float(f"{threshold:.3g}")
