"""How long a search may take."""

from __future__ import annotations

import math
import time


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
        """Raise if this share of the time is up.

        Raises:
            TimeUpError: it is.

        """
        if self.is_past(share):
            raise TimeUpError
