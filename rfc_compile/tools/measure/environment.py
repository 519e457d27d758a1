"""What every benchmark writes: its environment, and tables as Markdown."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch


@dataclass(frozen=True)
class Environment:
    """Where and how a result was measured.

    Attributes:
        command: the command line, with the variables that steer its threads.
        cores: logical cores that the process may use.
        threads: threads that torch uses for one operation.
    """

    command: str
    date: str
    machine: str
    cores: int
    threads: int
    torch: str
    python: str

    def __str__(self) -> str:
        return "\n".join(f"- {name}: {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Grid:
    """A titled table of strings."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as Markdown, the title above it."""
        return f"## {self.title}\n\n{self.body()}\n"

    def body(self) -> str:
        """The table as Markdown, without the title."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(
    title: str,
    record: Environment,
    introduction: str,
    claims: Sequence[str],
    grids: Sequence[Grid],
) -> str:
    """A benchmark's results as Markdown."""
    listed = "\n".join(["## Verdicts\n", *(f"- {claim}" for claim in claims)])
    parts = [f"# {title}", str(record), introduction.strip(), listed if claims else ""]
    text = "\n\n".join(part for part in parts if part)
    return "\n".join([f"{text}\n", *(grid.markdown() for grid in grids)])


def environment(program: str) -> Environment:
    """The record of this process, which was started as `program`."""
    return Environment(
        command=_command(program),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        machine=_processor(),
        cores=len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def _command(program: str) -> str:
    variables = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(("OMP_", "MKL_"))
    ]
    return shlex.join([*variables, *program.split(), *sys.argv[1:]])


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
