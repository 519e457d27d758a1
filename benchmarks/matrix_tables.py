"""The tables of the matrix."""

import operator
import statistics
from collections.abc import Sequence

from benchmarks.cells import SHARES, Cell
from benchmarks.report import Grid, console, save, show
from benchmarks.scores import DEFAULT, OURS, UNTOLD, Line, Scores, verdicts
from benchmarks.unseen import UNSEEN


def write_tables(lines: Sequence[Line]) -> None:
    """Print the means and the verdicts; write `results/matrix.md`."""
    scores = Scores(lines)
    means = [_means(scores, model) for model in scores.models]
    for grid in means:
        show(grid)
    claims = verdicts(scores, lambda model: DEFAULT)
    unseen = Scores([line for line in lines if line.cell.model in UNSEEN])
    claims += [
        f"on models that nothing was chosen on: {claim}"
        for claim in verdicts(unseen, lambda model: DEFAULT)
    ]
    before = {line.cell for line in lines if not line.is_of_now}
    if before:
        cells = f"{len(before)} of {len(scores.by_cell)} cells"
        models = ", ".join(sorted({cell.model for cell in before}))
        claims.append(f"{cells} were measured with earlier weights ({models})")
    console.print("\n".join(claims))
    tables = [_each(scores), *means, _untold(scores), _cells(scores), _errors(scores)]
    data = {"lines": len(lines), "verdicts": claims}
    save("matrix", "The matrix", data, [grid for grid in tables if grid.rows], claims)


def _name(method: str, config: str) -> str:
    return f"{method}, {config}" if config and method == OURS else method


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f}" if values else "-"


def _means(scores: Scores, model: str) -> Grid:
    """Of one model, by share of full steps."""
    cells = scores.cells_of(model)
    keys = dict.fromkeys(key for cell in cells for key in scores.by_cell[cell])

    def row(key: tuple[str, str]) -> list[str]:
        found = [
            (cell, line) for cell in cells if (line := scores.by_cell[cell].get(key))
        ]
        own = [(cell.share, line.psnr, line.psnr_ode) for cell, line in found]
        shares = [
            _mean([psnr for other, psnr, _ in own if other == share])
            + " / "
            + _mean([o for other, _, o in own if other == share and o is not None])
            for share in SHARES
        ]
        return [_name(*key), str(len(own)), *shares]

    header = ["method", "cells", *(f"{share} % full" for share in SHARES)]
    rows = [row(key) for key in keys if key[0] != UNTOLD]
    return Grid(f"{model}: mean PSNR in dB, uncached / ODE", header, rows)


def _each(scores: Scores) -> Grid:
    """The default against each rival by itself, at as many full steps."""
    leads: dict[str, list[float]] = {}
    for cell in scores.by_cell:
        own = scores.ours(cell, DEFAULT)
        if own is None or not own.keeps_to_its_steps:
            continue
        for name, line in scores.rivals(cell).items():
            leads.setdefault(name, []).append(own.psnr - line.psnr)
    rows = [
        [
            name,
            str(len(found)),
            f"{statistics.mean(found):+.1f}",
            f"{statistics.mean(lead >= 0 for lead in found):.0%}",
        ]
        for name, found in sorted(leads.items(), key=lambda x: statistics.mean(x[1]))
    ]
    header = ["rival", "cells", "rfc is closer by, dB", "in"]
    return Grid("The default against each at as many full steps", header, rows)


def _untold(scores: Scores) -> Grid:
    """What the package does with no option at all."""
    rows = []
    for cell, found in scores.by_cell.items():
        line = found.get((UNTOLD, ""))
        if line is not None:
            ratio = f"{cell.calls / line.full:.1f}" if line.full else "-"
            rows.append(
                [
                    *(_place(cell), f"{line.full:g} of {cell.calls}", ratio),
                    *(f"{line.psnr:.1f}", f"{line.psnr_min:.1f}"),
                ]
            )
    header = ["sampling", "full steps", "fewer by", "PSNR dB", "worst image"]
    return Grid("With no option", header, rows)


def _place(cell: Cell) -> str:
    return str(cell).rpartition(", ")[0]


def _cells(scores: Scores) -> Grid:
    """Every cell: the default, and who is best beside it."""
    rows = []
    for cell in scores.by_cell:
        own, rivals = scores.ours(cell, DEFAULT), scores.rivals(cell)
        if own is None or not rivals:
            continue
        line = max(rivals.values(), key=operator.attrgetter("psnr"))
        which = f"{line.method}: {line.setting} ({line.full:g} full)"
        numbers = f"{own.full:g}", f"{own.psnr:.1f}", f"{line.psnr:.1f}"
        rows.append([str(cell), *numbers, which])
    header = ["cell", "full steps", OURS, "best rival", "which"]
    return Grid("Every cell, PSNR in dB", header, rows)


def _errors(scores: Scores) -> Grid:
    rows = [[str(x.cell), _name(x.method, x.config), x.error] for x in scores.errors]
    return Grid("What did not run", ["cell", "method", "error"], rows)
