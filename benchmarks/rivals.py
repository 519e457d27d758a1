"""The rivals of the matrix, and how each comes to a number of full steps.

A rival with fixed intervals is given those that fit. One with a threshold is steered:
a few steps of bisection in the threshold's logarithm. Of all that was tried, the best
images with at most half a full step too many count.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rfc_compile.tools.bench.methods.spectrum import full_steps
from rfc_compile.tools.bench.records import SLACK

Setting = Mapping[str, Any]
Run = Callable[[Setting], float]
"""Draws at a setting; returns the full steps that it took."""

PROBES: Final = 5
"""Of a bisection."""
FIRST_BLOCKS: Final = (1 / 12, 1 / 4)
"""Share of the work in the first blocks of twelve, and of two and six."""


@dataclass(frozen=True)
class Rival:
    """How a method is brought to a number of full steps.

    Attributes:
        fixed: (calls, full) -> settings to try as they are.
        steered: (calls, full) -> a setting without its threshold.
        key: name of the threshold, which is between `least` and `most`.
    """

    method: str
    fixed: Callable[[int, int], Sequence[Setting]] = lambda calls, full: ()
    steered: Callable[[int, int], Setting] | None = None
    key: str = "threshold"
    least: float = 0.01
    most: float = 4.0

    def tries(self, run: Run, calls: int, full: int) -> Iterator[Setting]:
        """Runs settings one after another; yields each with its run done."""
        for setting in self.fixed(calls, full):
            run(setting)
            yield setting
        if self.steered is None:
            return
        low, high = math.log(self.least), math.log(self.most)
        for _ in range(PROBES):
            threshold = math.exp((low + high) / 2)
            setting = {**self.steered(calls, full), self.key: round(threshold, 5)}
            if run(setting) > full + SLACK:
                low = math.log(threshold)
            else:
                high = math.log(threshold)
            yield setting


def spectrum(calls: int, full: int) -> list[Setting]:
    """The first growth that gives so many full steps, for each warm-up and window."""
    found: dict[tuple[int, ...], Setting] = {}
    for warmup in (2, 3, 5):
        for window in (2, 3, 4, 6, 9):
            for quarter in range(33):
                setting = {"warmup": warmup, "window": window, "growth": quarter / 4}
                mask = tuple(full_steps(**setting, total=calls))
                if len(mask) == full:
                    found.setdefault(mask, setting)
                    break
    return list(found.values())[:4]


def shortest(count: Callable[[int], int], full: int, calls: int) -> int:
    """The shortest interval with at most so many full steps."""
    return next(n for n in range(1, calls + 1) if count(n) <= full or n == calls)


def taylorseer(calls: int, full: int) -> list[Setting]:
    """By its own rules: two full steps first, orders 1 and 2."""
    interval = shortest(lambda n: 2 + (calls - 2) // n, full, calls)
    return [{"interval": interval, "order": o, "first_full": 2} for o in (1, 2)]


def taylorseer_of_diffusers(calls: int, full: int) -> list[Setting]:
    """With two full steps first; the third one is counted as a cached one."""
    interval = shortest(lambda n: 2 + len(range(1, calls - 2, n)), full, calls)
    return [
        {"cache_interval": interval, "max_order": o, "disable_cache_before_step": 2}
        for o in (1, 2)
    ]


def cache_dit(calibrator: Setting) -> dict[str, Any]:
    """Steered by the threshold, and with fixed intervals.

    A cached step still computes the first block of each list: a twelfth to a quarter
    of the work, which leaves fewer steps to be full.
    """

    def steered(calls: int, full: int) -> Setting:
        warmup = max(1, min(3, full // 2))
        return {"Fn_compute_blocks": 1, "max_warmup_steps": warmup, **calibrator}

    def fixed(calls: int, full: int) -> list[Setting]:
        left = {
            int((full + SLACK - calls * first) / (1 - first)) for first in FIRST_BLOCKS
        }
        intervals = {
            shortest(lambda n: 2 + (calls - 2) // n, steps, calls)
            for steps in left
            if steps > 2
        }
        base = {"Fn_compute_blocks": 1, "max_warmup_steps": 2, **calibrator}
        return [{**base, "every": every} for every in sorted(intervals)]

    return {"fixed": fixed, "steered": steered, "key": "residual_diff_threshold"}


RIVALS: Final = (
    Rival("Spectrum, reference", spectrum),
    Rival("TaylorSeer, reference", taylorseer),
    Rival("TaylorSeerCache (diffusers)", taylorseer_of_diffusers),
    Rival("FirstBlockCache (diffusers)", steered=lambda calls, full: {}),
    Rival(
        "MagCache (diffusers)",
        steered=lambda calls, full: {
            "max_skip_steps": 2 * calls // full,
            "retention_ratio": 0.1,
        },
    ),
    Rival(
        "SeaCache (diffusers)",
        steered=lambda calls, full: {"max_consecutive_cached": 0, "residual_order": 1},
    ),
    Rival("DBCache (cache-dit)", **cache_dit({})),
    Rival("DBCache + TaylorSeer (cache-dit)", **cache_dit({"taylorseer_order": 1})),
    Rival("DBCache + FoCa (cache-dit)", **cache_dit({"foca": True})),
)
