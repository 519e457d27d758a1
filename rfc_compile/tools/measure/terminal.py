"""Tables and lines on the terminal. Needs the extra `demo`."""

import sys
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rfc_compile.tools.measure.environment import Grid

console: Final = Console(width=None if sys.stdout.isatty() else 110)


def show(grid: Grid) -> None:
    """Print a table."""
    table = Table(title=escape(grid.title), title_justify="left")
    for i, name in enumerate(grid.header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*map(escape, row))
    console.print(table)
