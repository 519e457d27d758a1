"""What every benchmark writes: its environment, JSON for machines, Markdown for people.

Files are replaced in one step, so that a reader never sees half a result.
"""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

RESULTS: Final = Path(__file__).parent / "results"

console: Final = Console(width=None if sys.stdout.isatty() else 110)


@dataclass(frozen=True)
class Environment:
    """Where and how a result was measured.

    Attributes:
        command: the command line, with the variables that steer its threads.
        date: UTC, to the minute.
        machine: the processor's model.
        cores: logical cores that the process may use.
        threads: threads that torch uses for one operation.
        torch: its version.
        python: its version.

    """

    command: str
    date: str
    machine: str
    cores: int
    threads: int
    torch: str
    python: str

    def __str__(self) -> str:
        """One line per fact, as Markdown."""
        return "\n".join(f"- {name}: {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Grid:
    """A titled table of strings."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as Markdown, the title above it."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"## {self.title}\n\n{body}\n"

    def show(self) -> None:
        """Print the table."""
        table = Table(title=self.title, title_justify="left")
        for i, name in enumerate(self.header):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


def environment() -> Environment:
    """The record of this process."""
    return Environment(
        command=_command(),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        machine=_processor(),
        cores=len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def save(name: str, title: str, data: Mapping[str, Any], parts: Sequence[str]) -> None:
    """Write `results/<name>.json` and `results/<name>.md`.

    Args:
        name: of the two files, without a suffix.
        title: heading of the Markdown file.
        data: the measurements; the environment is added.
        parts: what follows the environment in the Markdown file.
    """
    record = environment()
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"environment": asdict(record), **data}, indent=1)
    _replace(RESULTS / f"{name}.json", text + "\n")
    _replace(RESULTS / f"{name}.md", "\n".join([f"# {title}\n", f"{record}\n", *parts]))


def _command() -> str:
    variables = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(("OMP_", "MKL_"))
    ]
    return shlex.join([*variables, "python", "-m", "benchmarks", *sys.argv[1:]])


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _has_affinity() -> bool:
    return sys.platform == "linux"


def _processor() -> str:
    """The processor's name; Linux gives only the architecture through `platform`."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()
