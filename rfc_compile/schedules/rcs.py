"""Relational cache scheduling: full when the input's prediction errors add up.

full step  <=>  sum of e since the last full step > threshold      (PAPER.md, RCS)
"""

from __future__ import annotations

from rfc_compile.schedules.base import Position, Schedule


class RelationalCacheScheduling(Schedule):
    """The threshold less what has accumulated since the last full step."""

    name = "rcs"
    static = False

    def decide(self, position: Position) -> tuple[float, str]:
        """What is left of the threshold."""
        return self.options.largest_error - position.error, "threshold"
