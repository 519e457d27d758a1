"""What a search shows while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS: Final = 10.0
"""Between two lines of one phase, where the output is no terminal."""


class SearchProgress(Protocol):
    """Is told the phases of a search and what is tried in them."""

    def begin(self, phase: str) -> None:
        """The next phase starts."""

    def note(self, doing: str) -> None:
        """One more thing is begun in this phase."""


@contextmanager
def showing(wanted: bool, stream: TextIO | None = None) -> Iterator[SearchProgress]:
    """Bars on a terminal, lines in a file; nothing if it is not wanted."""
    stream = stream or sys.stderr
    if not wanted:
        yield _Lines(None)
    elif not stream.isatty():
        yield _Lines(stream)
    else:
        with _bars(stream) as bars:
            yield _Bars(bars)


class _Lines:
    """A line for each phase, and now and then one for what is being tried."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._start = self._last = time.monotonic()
        self._phase = ""

    def begin(self, phase: str) -> None:
        self._phase = phase
        self._print(phase)

    def note(self, doing: str) -> None:
        if time.monotonic() - self._last >= _SECONDS:
            self._print(f"{self._phase}: {doing}")

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        if self._stream is not None:
            seconds = self._last - self._start
            print(f"{seconds:5.0f} s  {text}", file=self._stream, flush=True)


class _Bars:
    """A bar for each phase, with what is being tried."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("", visible=False)

    def begin(self, phase: str) -> None:
        task = self._bars.tasks[self._task]
        self._bars.update(self._task, total=task.completed or 1, doing="")
        self._bars.stop_task(self._task)
        self._task = self._bars.add_task(phase, total=None, doing="")

    def note(self, doing: str) -> None:
        self._bars.update(self._task, advance=1, doing=doing)


def _bars(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:12}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", markup=False),
        console=Console(file=stream),
    )
