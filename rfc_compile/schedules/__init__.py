"""The schedules. A new one is one file and one line in ``SCHEDULES``."""

from __future__ import annotations

from rfc_compile.schedules.base import Schedule
from rfc_compile.schedules.error_control import ErrorControl
from rfc_compile.schedules.even import Even
from rfc_compile.schedules.interval import Interval
from rfc_compile.schedules.mask import Mask
from rfc_compile.schedules.rcs import RelationalCacheScheduling

SCHEDULES: dict[str, type[Schedule]] = {
    schedule.name: schedule
    for schedule in (ErrorControl, Even, RelationalCacheScheduling, Interval, Mask)
}
