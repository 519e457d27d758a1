"""`rfc-compile check`: options judged by limits, for CI.

Draws images with and without the options, compares, and says of every limit whether it
holds: as a table, and as JSON, JUnit XML and Markdown. Exit codes: 0 all limits hold, 1
a limit was missed, or could not be judged, 2 usage.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from rfc_compile.errors import OptionError
from rfc_compile.tools.checking.baseline import parse_tolerance, read_baseline
from rfc_compile.tools.checking.limits import QUANTITIES, make_limits
from rfc_compile.tools.checking.reports import WRITERS, Reports, step_summary
from rfc_compile.tools.checking.session import (
    OWN_TOLERANCE,
    SEEDS,
    TOLERANCE,
    Config,
    Rules,
    check,
    make_config,
)
from rfc_compile.tools.cli.arguments import whole
from rfc_compile.tools.cli.target_arguments import add_target_arguments, target_of

EXIT_MISSED: Final = 1


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    add = parser.add_argument
    add(
        "config",
        nargs="?",
        type=Path,
        metavar="rfc.json",
        help="options that `rfc-compile tune` wrote (default: the default options)",
    )
    add_target_arguments(parser, option=True)
    add("--seeds", type=whole, default=SEEDS, help=f"how many (default: {SEEDS})")
    for quantity in QUANTITIES:
        word = "least" if quantity.at_least else "most"
        add(
            quantity.option,
            type=partial(_parsed, quantity.parse),
            metavar="BYTES" if quantity.unit == "bytes" else "N",
            help=f"{word} {quantity.label}{_HINTS.get(quantity.unit, '')}",
        )
    add("--baseline", type=Path, metavar="FILE", help=_BASELINE)
    add(
        "--tolerance",
        type=partial(_parsed, parse_tolerance),
        metavar="SHARE",
        help=_TOLERANCE,
    )
    add("--time", action="store_true", help="measure times though no limit needs them")
    add("--strict", action="store_true", help="fail for another model or sampler")
    add("--allow-uncached", action="store_true", help="an uncached model is no failure")
    for name in WRITERS:
        add(f"--{name}", type=Path, metavar="FILE", help="a report to write")
    add(
        "--github-summary",
        action="store_true",
        help="append the Markdown to the summary of the step of GitHub Actions",
    )


_HINTS: Final = {"x": " over the uncached model under inductor", "bytes": ", as 2GiB"}
_TOLERANCE: Final = (
    f"how much worse than the baseline (default: {TOLERANCE:.0%}%), or than a tuned "
    f"file's own numbers, where no limit is given (default: {OWN_TOLERANCE:.0%}%)"
)
_BASELINE: Final = "JSON report of an earlier check, or a tuned file, to be as good as"


def run(args: Namespace) -> int:
    """Checks, prints and writes; returns the exit code."""
    from rfc_compile.tools.measure.terminal import console, show

    reports = _reports(args)
    config = make_config(args.config)
    rules = _rules(args, config)
    tuned = config.tuned
    target = target_of(args, None if tuned is None else tuned.drawn)
    reports.prepare()
    outcome = check(target, config, rules, seeds=range(args.seeds))
    show(outcome.grid())
    for line in outcome.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    reports.write(outcome)
    return 0 if outcome.passed else EXIT_MISSED


def _rules(args: Namespace, config: Config) -> Rules:
    bounds = {q.limit: vars(args)[q.limit] for q in QUANTITIES}
    if args.tolerance is not None and args.baseline is None and config.tuned is None:
        raise OptionError("argument --tolerance: needs --baseline or a tuned file")
    return Rules(
        limits=make_limits({n: x for n, x in bounds.items() if x is not None}),
        baseline=None if args.baseline is None else read_baseline(args.baseline),
        tolerance=args.tolerance,
        strict=args.strict,
        allow_uncached=args.allow_uncached,
        timed=args.time,
    )


def _reports(args: Namespace) -> Reports:
    paths = {n: vars(args)[n] for n in WRITERS if vars(args)[n] is not None}
    return Reports(paths, step_summary() if args.github_summary else None)


def _parsed(parse: Callable[[object], float], text: str) -> float:
    """An argument's value; argparse names the argument."""
    try:
        return parse(text)
    except OptionError as error:
        raise ArgumentTypeError(str(error)) from error
