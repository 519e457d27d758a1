"""What a search shows while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class SearchProgress:
    """A bar for each phase of a search, with what is being tried."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("", visible=False)

    def begin(self, phase: str, total: float | None = None) -> None:
        """Start the next phase; `total` None if its length is not known."""
        task = self._bars.tasks[self._task]
        self._bars.update(self._task, total=task.completed or 1, doing="")
        self._bars.stop_task(self._task)
        self._task = self._bars.add_task(phase, total=total, doing="")

    def note(self, doing: str) -> None:
        """One more thing is begun in this phase."""
        self._bars.update(self._task, advance=1, doing=doing)


@contextmanager
def showing(console: Console) -> Iterator[SearchProgress]:
    """Bars on a console; nothing of them stays in a file that it writes to."""
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", markup=False),
    )
    with Progress(*columns, console=console) as bars:
        yield SearchProgress(bars)
