"""`rfc-compile analyse`: what there is to predict in a model, and who predicts it best.

Reproduces the figure that relational caching rests on, for any model: how inputs and
outputs of the regions change from step to step, how constant the ratio of the two is,
and the prediction error of every estimator. Prints a table, writes a PNG and JSON.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rfc_compile.config.options import GRANULARITIES
from rfc_compile.errors import OptionError
from rfc_compile.io.files import check_writable, make_folder, replace_file
from rfc_compile.tools.cli.arguments import INNER_BACKENDS
from rfc_compile.tools.cli.target_arguments import add_target_arguments, target_of
from rfc_compile.tools.measure.analysis import Analysis, RegionSeries, analyse, median

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH: Final = 118
"""Characters of a line where the output is no terminal."""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    add_target_arguments(parser)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the run (default: 0)")
    interval = "one step in this many is kept, the others are predicted (default: 4)"
    add("--interval", type=int, default=4, help=interval)
    add("--order", type=int, default=2, help="of the estimators (default: 2)")
    add("--granularity", choices=GRANULARITIES, default="module", help="of the regions")
    add("--inner", choices=INNER_BACKENDS, default="eager", help="inner backend")
    add("--output", type=Path, default=Path("analysis"), help="folder for the files")


def run(args: Namespace) -> int:
    """Draws, measures, prints and writes; returns the exit code."""
    from rich.console import Console

    from rfc_compile.tools.measure.analysis_plot import analysis_figure
    from rfc_compile.tools.measure.image_grid import as_png

    if args.interval < 2:
        raise OptionError(f"--interval {args.interval}: give a number of at least 2")
    make_folder(args.output, "--output")
    picture, numbers = args.output / "analysis.png", args.output / "analysis.json"
    for path in (picture, numbers):
        check_writable(path, "--output")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    with console.status("drawing one run in full") as status:
        found = analyse(
            target_of(args),
            seed=args.seed,
            interval=args.interval,
            order=args.order,
            granularity=args.granularity,
            inner=args.inner,
            progress=lambda calls: status.update(f"{calls} calls of the model"),
        )
    replace_file(numbers, json.dumps(found.record(), indent=1) + "\n")
    replace_file(picture, as_png(analysis_figure(found)))
    console.print(_table(found))
    console.print(_LEGEND, soft_wrap=True)
    console.print(_advice(found, args.granularity), soft_wrap=True, markup=False)
    console.print(f"Written: {picture} and {numbers}.", soft_wrap=True)
    return 0


def _table(found: Analysis) -> Table:
    from rich.table import Table

    table = Table(title=f"{found.target}: {_how(found)}")
    table.add_column("region", no_wrap=True)
    for column in ("input", "output", "ratio", *found.estimators):
        table.add_column(column, justify="right")
    for region in found.regions:
        name = f"{region.module} ({region.kind})"
        table.add_row(name, *_changes(region), *_errors(found, region.error))
    table.add_section()
    table.add_row("mean", "", "", "", *_errors(found, found.mean_error))
    return table


def _how(found: Analysis) -> str:
    sampler = f"{found.sampler}, " if found.sampler else ""
    return f"{sampler}{found.steps} steps, an interval of {found.interval}"


def _changes(region: RegionSeries) -> list[str]:
    moved, changed = map(median, (region.input_change, region.output_change))
    return [_percent(moved), _percent(changed), _percent(region.ratio_deviation)]


def _errors(found: Analysis, error_of: Callable[[str], float | None]) -> list[str]:
    """The error of every estimator, the least one in bold."""
    errors = [error_of(name) for name in found.estimators]
    least = min((error for error in errors if error is not None), default=None)
    return [
        f"[bold]{_percent(error)}[/bold]" if error == least else _percent(error)
        for error in errors
    ]


def _advice(found: Analysis, granularity: str) -> str:
    """The options that follow: those of the estimator with the least error."""
    errors = {name: found.common_error(name) for name in found.estimators}
    known = {name: error for name, error in errors.items() if error is not None}
    if not known:
        return "No step was predicted by all estimators: give more steps."
    best = min(known, key=known.__getitem__)
    estimator, _, order = best.partition(" ")
    options = {"granularity": granularity, "estimator": estimator, "order": order}
    chosen = " ".join(f"--options {name}={x}" for name, x in options.items() if x)
    return (
        f"Least error at the steps that all of them predict: {best}, {known[best]:.1%}."
        f" How images come out, `rfc-compile tune {chosen}` measures."
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


_LEGEND: Final = (
    "Input, output: relative change from a step to the next, the median of the steps. "
    "Ratio: how far that of the two is from the one of the step before, the median. "
    "Then the relative error of the output that each estimator predicts, the mean."
)
