"""An explicit list of full steps."""

from __future__ import annotations

from rfc_compile.schedules.base import CACHED, FULL, Position, Schedule


class Mask(Schedule):
    """Full iff the step's index is in ``full_steps``."""

    name = "mask"
    static = True

    def decide(self, position: Position) -> tuple[float, str]:
        """Looks the step up."""
        return (FULL if position.step in self.options.full_steps else CACHED), "mask"
