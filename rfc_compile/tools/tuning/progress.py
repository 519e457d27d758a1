"""How long a search may take, and what it shows: a line a phase, now and then more."""

from __future__ import annotations

import math
import sys
import time
from typing import Final

_SECONDS: Final = 10.0
"""Between two lines of one phase."""


class TimeUpError(Exception):
    """No further trial is to be begun: the search goes by what it has."""


class Clock:
    """The time of a search, in seconds; `limit` None or infinite for no limit."""

    def __init__(self, limit: float | None) -> None:
        self._start = time.monotonic()
        self.limit = math.inf if limit is None else limit

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return time.monotonic() - self._start

    @property
    def share(self) -> float:
        """Of the time, so far."""
        return self.seconds / self.limit

    def is_past(self, share: float = 1.0) -> bool:
        """Whether this share of the time is up."""
        return self.seconds > share * self.limit

    def check(self, share: float = 1.0) -> None:
        """Raise if this share of the time is up."""
        if self.is_past(share):
            raise TimeUpError


class SearchProgress:
    """Shows the phases of a search and the settings tried in them."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._start = self._last = time.monotonic()
        self._phase = ""

    def begin(self, phase: str) -> None:
        """The next phase starts."""
        self._phase = phase
        self._print(phase)

    def note(self, doing: str) -> None:
        """One more thing is begun in this phase."""
        if time.monotonic() - self._last >= _SECONDS:
            self._print(f"{self._phase}: {doing}")

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        if self._wanted:
            seconds = self._last - self._start
            sys.stderr.write(f"{seconds:5.0f} s  {text}\n")
