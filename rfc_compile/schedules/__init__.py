"""The schedules. A new one is one file and one line in ``SCHEDULES``."""

from __future__ import annotations

from rfc_compile.schedules.base import (
    CACHED,
    DEFAULT_CACHED_RUN,
    FULL,
    Position,
    Schedule,
    guarded_limit,
)
from rfc_compile.schedules.budget import Budget
from rfc_compile.schedules.interval import Interval
from rfc_compile.schedules.mask import Mask
from rfc_compile.schedules.rcs import RelationalCacheScheduling
from rfc_compile.schedules.spread import Spread

SCHEDULES: dict[str, type[Schedule]] = {
    schedule.name: schedule
    for schedule in (Spread, RelationalCacheScheduling, Interval, Mask, Budget)
}

__all__ = [
    "CACHED",
    "DEFAULT_CACHED_RUN",
    "FULL",
    "SCHEDULES",
    "Position",
    "Schedule",
    "guarded_limit",
]
