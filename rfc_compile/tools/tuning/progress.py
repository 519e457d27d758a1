"""What a search shows while it runs: a line a phase, and now and then what it tries."""

from __future__ import annotations

import sys
import time
from typing import Final

_SECONDS: Final = 10.0
"""Between two lines of one phase."""


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
