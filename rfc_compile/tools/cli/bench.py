"""`rfc-compile bench`: this package and every rival on the same models.

First every method's settings are swept on the bundled model and the images compared
with the uncached ones; its best settings are compared again on other images, which are
the ones that are reported, and timed under inductor, on the bundled model and on two
random shapes. Results are written as they come.
"""

import math
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

_MODELS: Final = ("glyph-dit", "DiT-B", "MM-DiT")


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of the benchmark to `parser`."""
    add = parser.add_argument
    add("--output", type=Path, default=Path("bench"), help="folder for the results")
    add("--quick", action="store_true", help="a small part, in minutes")
    add("--resume", action="store_true", help="measure only what is missing")
    add("--no-times", action="store_true", help="compare images only")
    add("--minutes", type=float, default=math.inf, help="begin nothing after that")
    add(
        "--methods",
        default="",
        metavar="TEXT",
        help="only those named so",
    )
    add("--models", nargs="*", choices=_MODELS, default=_MODELS, help="that are timed")
    add("--readme", type=Path, help="replace the table in this file")


def run(args: Namespace) -> int:
    """Measures, prints and saves; returns the exit code."""
    from rfc_compile.tools.bench.session import run_session

    return run_session(args)
