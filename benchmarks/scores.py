"""What the matrix has measured: its file, and who is ahead of whom in a cell."""

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.cells import MEASURED, Cell
from benchmarks.report import RESULTS, verdict
from rfc_compile.tools.bench.records import SLACK

FILE: Final = RESULTS / "matrix.jsonl"

OURS: Final = "rfc"
PAPER: Final = "paper (rfe + rcs)"
UNTOLD: Final = "rfc, no option"
FEWER: Final = "fewer steps"
FEWER_BEST: Final = "fewer steps, best solver"
DEFAULT: Final = "default"
"""Name of our configuration without options."""
UNCORRECTED: Final = "corrector=off"

Choose = Callable[[str], str]
"""(model) -> the name of our configuration that is judged on it."""


@cache
def fingerprint(model: str) -> str:
    """Of a model's weights: numbers of others are no numbers of it."""
    (weights,) = MEASURED[model].folder.glob("diffusion*.safetensors")
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Line:
    """One method in one cell, at the best of the settings that were tried.

    Attributes:
        config: our configuration, or nothing.
        weights: fingerprint of the model.
        seconds: that it took to find.
        full: full steps, by the blocks' work.
        psnr: mean against the uncached run, in dB.
        psnr_min: of the worst image.
        psnr_ode: mean against the ODE's solution; None without one.
        error: why there are no numbers.
    """

    cell: Cell
    method: str
    config: str
    images: int
    weights: str
    seconds: float = 0.0
    setting: str = ""
    full: float = 0.0
    psnr: float = 0.0
    psnr_min: float = 0.0
    psnr_ode: float | None = None
    error: str = ""

    @property
    def keeps_to_its_steps(self) -> bool:
        """Whether it has as many full steps as the cell allows, or fewer."""
        return self.full <= self.cell.full + SLACK

    @property
    def is_of_now(self) -> bool:
        """Whether the model has these weights."""
        return self.weights == fingerprint(self.cell.model)

    @property
    def key(self) -> tuple[Cell, str, str]:
        """What a newer line replaces."""
        return self.cell, self.method, self.config


def read_lines(path: Path = FILE, *, now: bool = False) -> list[Line]:
    """The newest line of each key; all of a cell are for the same weights.

    Those are what the model has now, or had before while the cell is being measured
    again; with ``now`` the first only.
    """
    if not path.exists():
        return []
    cells: dict[Cell, dict[str, dict[tuple[Cell, str, str], Line]]] = {}
    for text in path.read_text().splitlines():
        fields: dict[str, Any] = json.loads(text)
        line = Line(**{**fields, "cell": Cell(**fields["cell"])})
        cells.setdefault(line.cell, {}).setdefault(line.weights, {})[line.key] = line
    found = []
    for cell, by_weights in cells.items():
        own = by_weights.get(fingerprint(cell.model), {})
        earlier = [] if now else by_weights.values()
        found += max([own, *earlier], key=len).values()
    return found


def add_line(line: Line, path: Path = FILE) -> None:
    """Append it to the file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(line)) + "\n")


class Scores:
    """The lines by cell. Lines with errors count as not measured."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.errors = [line for line in lines if line.error]
        self.by_cell: dict[Cell, dict[tuple[str, str], Line]] = {}
        for line in lines:
            if not line.error:
                place = self.by_cell.setdefault(line.cell, {})
                place[line.method, line.config] = line

    @property
    def models(self) -> list[str]:
        """Those that were measured."""
        return list(dict.fromkeys(cell.model for cell in self.by_cell))

    @property
    def configurations(self) -> list[str]:
        """Ours, the default first."""
        keys = [key for found in self.by_cell.values() for key in found]
        return list(dict.fromkeys(config for method, config in keys if method == OURS))

    def cells_of(self, model: str) -> list[Cell]:
        """The model's cells that were measured."""
        return [cell for cell in self.by_cell if cell.model == model]

    def ours(self, cell: Cell, config: str) -> Line | None:
        """Our configuration in a cell."""
        return self.by_cell[cell].get((OURS, config))

    def rivals(self, cell: Cell) -> Mapping[str, Line]:
        """Everybody else in a cell, by name."""
        return {
            method: line
            for (method, _), line in self.by_cell[cell].items()
            if method not in (OURS, UNTOLD)
        }

    def lead(self, cell: Cell, config: str) -> float | None:
        """In dB, over the best rival; None for more full steps than asked for."""
        own, rivals = self.ours(cell, config), self.rivals(cell).values()
        if own is None or not rivals or not own.keeps_to_its_steps:
            return None
        return own.psnr - max(line.psnr for line in rivals)

    def leads(self, cells: Sequence[Cell], config: str) -> list[float]:
        """In these cells, those left out that lack a number."""
        found = (self.lead(cell, config) for cell in cells)
        return [lead for lead in found if lead is not None]


def verdicts(scores: Scores, choose: Choose) -> list[str]:
    """What is claimed, and whether it holds; ``choose`` gives ours for each model."""
    lines = [*_steps_kept(scores, choose), *_against_rivals(scores, choose)]
    lines += [*_against_ode(scores, choose), *_against_no_corrector(scores)]
    for model in scores.models:
        lines += _against_paper(scores, model, choose(model))
        lines += _without_options(scores, model)
    return lines


def _steps_kept(scores: Scores, choose: Choose) -> Iterator[str]:
    kept = [
        own.keeps_to_its_steps
        for cell in scores.by_cell
        if (own := scores.ours(cell, choose(cell.model)))
    ]
    if kept:
        yield verdict(
            all(kept),
            f"as many full steps as asked for in {sum(kept)} of {len(kept)} cells; "
            "only these count below",
        )


def _against_rivals(scores: Scores, choose: Choose) -> Iterator[str]:
    leads = [
        lead
        for model in scores.models
        for lead in scores.leads(scores.cells_of(model), choose(model))
    ]
    if not leads:
        return
    ahead = sum(lead >= 0 for lead in leads) / len(leads)
    average, least = statistics.mean(leads), min(leads)
    yield verdict(
        ahead >= 0.95 and least >= -0.5,
        f"ahead of every rival in {ahead:.0%} of {len(leads)} cells (wanted: 95 %), "
        f"by {least:.1f} dB where it is least (wanted: -0.5)",
    )
    yield verdict(
        average >= 3,
        f"ahead of the best rival by {average:.1f} dB on average (wanted: 3)",
    )


def _against_ode(scores: Scores, choose: Choose) -> Iterator[str]:
    won = []
    for cell, found in scores.by_cell.items():
        own, fewer = scores.ours(cell, choose(cell.model)), found.get((FEWER, ""))
        if own and fewer and own.psnr_ode is not None and fewer.psnr_ode is not None:
            won.append(own.psnr_ode > fewer.psnr_ode)
    if won:
        share = sum(won) / len(won)
        yield verdict(
            share >= 0.95,
            f"nearer to the ODE's solution than the same sampler at as many steps in "
            f"{share:.0%} of {len(won)} cells (wanted: 95 %)",
        )


def _against_no_corrector(scores: Scores) -> Iterator[str]:
    pairs = [
        (scores.ours(cell, DEFAULT), scores.ours(cell, UNCORRECTED))
        for cell in scores.by_cell
    ]
    gains = [own.psnr - off.psnr for own, off in pairs if own and off]
    if gains:
        average, least = statistics.mean(gains), min(gains)
        yield verdict(
            average >= 3 and least >= -0.3,
            f"the corrector gives {average:.1f} dB on average (wanted: 3), "
            f"{least:.1f} dB where it is least (wanted: -0.3), over {len(gains)} cells",
        )


def _against_paper(scores: Scores, model: str, config: str) -> Iterator[str]:
    pairs = [
        (scores.ours(cell, config), scores.rivals(cell).get(PAPER))
        for cell in scores.cells_of(model)
    ]
    leads = [own.psnr - paper.psnr for own, paper in pairs if own and paper]
    if leads:
        average = statistics.mean(leads)
        yield verdict(
            average >= 3,
            f"{model}: ahead of the paper by {average:.1f} dB on average (wanted: 3)",
        )


def _without_options(scores: Scores, model: str) -> Iterator[str]:
    found = [
        (cell, line)
        for cell in scores.cells_of(model)
        if (line := scores.by_cell[cell].get((UNTOLD, "")))
    ]
    for steps, wanted in ((50, 3.0), (28, 2.0)):
        fewer = [cell.calls / line.full for cell, line in found if cell.steps == steps]
        if fewer:
            ratio = statistics.mean(fewer)
            yield verdict(
                ratio >= wanted,
                f"{model}, no option: {ratio:.1f} times fewer full steps at {steps} "
                f"(wanted: {wanted:g})",
            )
    cached = [line.psnr for cell, line in found if line.full < cell.calls]
    if cached:
        average = statistics.mean(cached)
        yield verdict(
            average >= 35,
            f"{model}, no option: {average:.1f} dB on average (wanted: 35), over the "
            f"{len(cached)} of {len(found)} cells that are not all full",
        )
