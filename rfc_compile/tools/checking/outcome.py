"""What one check found, and the table that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rfc_compile.config.fingerprint import Fingerprint
from rfc_compile.config.tuned_file import Measured
from rfc_compile.tools.checking.limits import QUANTITIES, Verdict
from rfc_compile.tools.measure.environment import Environment, Grid

HEADER: Final = ("", "measured", "wanted", "verdict")


@dataclass(frozen=True)
class Outcome:
    """One checked setting.

    Attributes:
        config: where the options come from.
        notes: what the reader should know beside the numbers.
        ended: when it was done, UTC.
    """

    target: str
    config: str
    options: Mapping[str, Any]
    measured: Measured
    fingerprint: Fingerprint
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    seconds: float
    ended: datetime
    environment: Environment

    @property
    def missed(self) -> tuple[Verdict, ...]:
        """The verdicts that failed."""
        return tuple(verdict for verdict in self.verdicts if not verdict.passed)

    @property
    def passed(self) -> bool:
        """Whether every limit holds, and there is one."""
        return bool(self.verdicts) and not self.missed

    def __str__(self) -> str:
        """The table as text, then what was missed and the notes."""
        rows = [
            f"{label}: {value}" + (f" ({wanted}): {verdict}" if wanted else "")
            for label, value, wanted, verdict in self.grid().rows
        ]
        return "\n".join([self.title, *rows, *self.lines()])

    @property
    def title(self) -> str:
        """One line that says it all."""
        count = f"{len(self.missed)} of {len(self.verdicts)} limits missed"
        return f"{self.target}: {'passed' if self.passed else count}"

    def lines(self) -> list[str]:
        """What was missed and the notes, one line each."""
        missed = [f"missed: {verdict}" for verdict in self.missed]
        return [*missed, *(f"note: {note}" for note in self.notes)]

    def grid(self) -> Grid:
        """Every verdict, then the numbers that nobody limited."""
        rows = [
            [v.label, v.value, v.limit, "passed" if v.passed else "missed"]
            for v in self.verdicts
        ]
        judged = {verdict.label for verdict in self.verdicts}
        for quantity in QUANTITIES:
            value = getattr(self.measured, quantity.field)
            if quantity.label not in judged and value is not None:
                rows.append([quantity.label, quantity.show(value), "", ""])
        for label, seconds in (
            ("time of a run", self.measured.seconds),
            ("time without caching", self.measured.uncached_seconds),
        ):
            if seconds is not None:
                rows.append([label, f"{seconds:.3g} s", "", ""])
        return Grid(self.title, HEADER, rows)
