"""What `python -m benchmarks accelerator` has measured: records and table."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.report import Grid, save


@dataclass(frozen=True)
class Piece:
    """One method on one model.

    Attributes:
        method: one of ``PIECES``.
        full: seconds of every full step, the device waited for.
        cached: the same of the cached ones.
        run: seconds of whole runs that nobody waits in.
        waits: of the host for the device in a run; None where nobody counts them.
        peak_bytes: most memory of the device; of the process on a CPU.
        compile_cold: seconds with an empty cache.
        compile_warm: seconds with a full one.
        error: why there are no numbers.
    """

    model: str
    method: str
    device: str = ""
    steps: int = 0
    full: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    run: list[float] = field(default_factory=list)
    waits: int | None = None
    peak_bytes: int = 0
    compile_cold: float = 0.0
    compile_warm: float = 0.0
    error: str = ""

    def share(self, uncached: "Piece") -> float:
        """Of the possible speed-up, which is steps / full steps."""
        faster = statistics.median(uncached.run) / statistics.median(self.run)
        return faster * len(self.full) / self.steps

    def row(self, uncached: "Piece | None") -> list[str]:
        """One line of the table."""
        if self.error:
            return [self.model, self.method, self.error, *[""] * 8]
        whole = statistics.median(self.run)
        known = uncached is not None and not uncached.error
        return [
            self.model,
            self.method,
            f"{len(self.full)} of {self.steps}",
            _milliseconds(self.full),
            _milliseconds(self.cached),
            f"{whole:.2f}",
            f"{statistics.median(uncached.run) / whole:.2f}" if known else "",
            f"{self.share(uncached):.1%}" if known else "",
            "" if self.waits is None else str(self.waits),
            f"{self.peak_bytes / 2**30:.1f}",
            f"{self.compile_cold:.0f}, {self.compile_warm:.0f}",
        ]


_COLUMNS: Final = (
    *("model", "method", "full steps", "ms full", "ms cached", "s a run", "speed-up"),
    *("of possible", "waits", "GiB", "s to compile: cold, warm"),
)


def _milliseconds(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.1f}" if seconds else ""


Known = Mapping[tuple[str, str], Piece]
"""By model and method."""


def load(path: Path) -> dict[tuple[str, str], Piece]:
    """What a file holds, by model and method; nothing if there is none."""
    if not path.exists():
        return {}
    pieces = [Piece(**item) for item in json.loads(path.read_text())["pieces"]]
    return {(piece.model, piece.method): piece for piece in pieces}


def table(known: Known) -> Grid:
    """All pieces, line by line."""
    rows = [p.row(known.get((p.model, "uncached"))) for p in known.values()]
    return Grid("Random weights, equal full steps", _COLUMNS, rows)


def save_pieces(path: Path, known: Known) -> None:
    """Write the JSON and the table beside it."""
    data = {"pieces": [asdict(piece) for piece in known.values()]}
    title = "Large models on an accelerator"
    save(path.stem, title, data, [table(known)], folder=path.parent)
