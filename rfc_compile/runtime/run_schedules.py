"""The schedule of each run: that of the options, or of what the run asks for."""

from __future__ import annotations

from rfc_compile.config.options import Options
from rfc_compile.config.run_options import RunOptions
from rfc_compile.graph_report import GraphReport
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.base import Schedule


class RunSchedules:
    """Makes each schedule once."""

    def __init__(self, options: Options, report: GraphReport) -> None:
        self._options, self._report = options, report
        self._made: dict[RunOptions, Schedule] = {}

    def of(self, run: Trajectory) -> Schedule:
        """The schedule that a run goes by.

        Raises:
            OptionError: what it asks for is excluded by the options.

        """
        schedule = self._made.get(run.asked)
        if schedule is None:
            options = run.asked.applied_to(self._options)
            schedule = self._made[run.asked] = options.make_schedule(self._report)
        return schedule

    def reason_to_cache(self, run: Trajectory) -> str:
        """Why a step is cached, for the record."""
        return "scheduled" if self.of(run).static else "within_limit"
