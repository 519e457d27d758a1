"""`rfc-compile tune`: searches options and writes `rfc.json`, a plot and a report.

Every measurement is written to the study file at once: a search stopped by Ctrl-C or
by its time limit continues with `--resume`.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rfc_compile.io.files import read_text
from rfc_compile.report.numbers import size
from rfc_compile.tools.cli.arguments import add_named_values, number, whole
from rfc_compile.tools.cli.target_arguments import add_target_arguments, target_of
from rfc_compile.tools.tuning import MINUTES
from rfc_compile.tools.tuning.goal import Goal
from rfc_compile.tools.tuning.journal import MOST_BYTES
from rfc_compile.tools.tuning.space import describe
from rfc_compile.tools.tuning.study import (
    OPTIONS_FILE,
    REPORT_FILE,
    STUDY_FILE,
    Plan,
    Study,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EXIT_MISSED: Final = 1


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    add_target_arguments(parser)
    add = parser.add_argument
    least_one = partial(number, least=1)
    add("--target-speedup", type=least_one, help="over the uncached model, at least")
    add("--target-nfc", type=least_one, help="full computations of a run, at most")
    add("--min-psnr", type=number, help="mean over the images, in dB")
    add("--min-ssim", type=number, help="mean over the images, at most 1")
    add("--seed", type=int, default=0, help="of the first run")
    add(
        "--seeds",
        type=whole,
        default=3,
        help="runs that are compared (default: 3)",
    )
    words = "an option that is not searched, as granularity=block"
    add_named_values(parser, "--options", words)
    add("--inner", default="inductor", help="inner backend, whose graphs are timed")
    add(
        "--time-limit",
        type=number,
        default=MINUTES,
        metavar="MINUTES",
        help=f"begin nothing after that; inf for no limit (default: {MINUTES:g})",
    )
    add("--output", type=Path, default=Path("tune"), help="folder for the results")
    add("--resume", action="store_true", help="go on with the study in that folder")


def run(args: Namespace) -> int:
    """Searches, prints and writes; returns the exit code."""
    from rich.console import Console

    from rfc_compile.tools.tuning.runner import run_study

    goal = Goal(args.target_speedup, args.target_nfc, args.min_psnr, args.min_ssim)
    plan = Plan(
        seed=args.seed,
        seeds=args.seeds,
        time_limit=None if math.isinf(args.time_limit) else args.time_limit,
        fixed=dict(args.options),
        inner=args.inner,
        output=args.output,
        resume=args.resume,
    )
    console = Console()
    try:
        study = run_study(target_of(args), goal, plan, show=True)
    except KeyboardInterrupt:
        console.print(interrupted(args.output))
        raise
    _print(console, study)
    return EXIT_MISSED if study.missed else 0


def interrupted(folder: Path) -> str:
    """What is left of a study, the first line of whose file says whose it is."""
    file = folder / STUDY_FILE
    if file.exists() and len(read_text(file, MOST_BYTES).splitlines()) > 1:
        return f"Interrupted; `--resume --output {folder}` continues."
    return "Interrupted before anything was measured: there is nothing to resume."


def _print(console: Console, study: Study) -> None:
    search, folder = study.search, study.plan.output
    if search.nothing_tried:
        console.print(
            f"Nothing was searched: the time was up after {study.seconds:.0f} s. These "
            "are the defaults; a longer --time-limit searches.",
            soft_wrap=True,
        )
    console.print(_table(study))
    console.print(
        f"{search.trials.done} runs tried, {search.trials.skipped} masks dropped after "
        f"their first seeds, {study.seconds:.0f} s."
        + (
            " Time was up; continue by --resume and a longer --time-limit."
            * search.late
        ),
        soft_wrap=True,
    )
    if study.missed:
        console.print(
            f"Nothing meets the limits. The best is {describe(search.best.setting)}; "
            f"it misses {', '.join(study.missed)}. No {OPTIONS_FILE} was written.",
            soft_wrap=True,
        )
    else:
        console.print(
            f"Best: {describe(search.best.setting)}; written to "
            f"{study.plan.output}/{OPTIONS_FILE}.",
            soft_wrap=True,
        )
    console.print(f"Report: {folder}/{REPORT_FILE}", soft_wrap=True)


def _table(study: Study) -> Table:
    from rich.table import Table

    table = Table(title=f"{study.reference.target.name}: {study.search.steps} steps")
    table.add_column("setting", overflow="fold")
    for column in ("NFC", "speed-up", "PSNR mean", "PSNR min", "SSIM", "state"):
        table.add_column(column, justify="right", no_wrap=True)
    for final in study.search.measured:
        found = final.measured
        table.add_row(
            f"{final.kind}: {describe(final.setting)}",
            f"{found.nfc:.1f}",
            "not timed" if found.speedup is None else f"{found.speedup:.2f}x",
            f"{found.psnr:.1f} dB",
            f"{found.psnr_min:.1f} dB",
            "" if found.ssim is None else f"{found.ssim:.4f}",
            size(found.state_bytes),
            style="bold" if final is study.search.best else "",
        )
    return table
