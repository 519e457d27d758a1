"""`rfc-compile demo`: emoji drawn without caching and at some tolerances.

Prints what caching saves and costs, and writes pictures.
"""

import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Final

from rfc_compile.tools.cli.arguments import INNER_BACKENDS, number, whole

SCHEDULERS: Final = tuple(
    f"{name}{shift}"
    for name in ("euler", "dpmpp_2m", "unipc")
    for shift in ("", "_shift3")
)
"""Of the bundled model's, named here so that --help needs no extra."""

_finite: Final = partial(number, most=sys.float_info.max)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of the demo to `parser`."""
    add = parser.add_argument
    add(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="an emoji's name, such as 'google grinning face'",
    )
    add("--output", type=Path, default=Path("demo"), help="folder for the pictures")
    add("--steps", type=partial(whole, least=2, most=1000), default=50)
    images = "how many; one of every prompt, or of 8 that the model's card has"
    add("--images", type=partial(whole, least=1, most=1000), help=images)
    add("--guidance", type=_finite, help="scale; 1 for no guidance")
    add("--scheduler", choices=SCHEDULERS, default=SCHEDULERS[0])
    add(
        "--tolerances",
        type=_tolerances,
        default=(0.008, 0.02, 0.06),
        metavar="T,T,...",
        help="largest relative errors of the latent between full steps",
    )
    add("--inner", choices=INNER_BACKENDS, default="inductor", help="inner backend")
    seed = partial(whole, least=0, most=2**32)
    add("--seed", type=seed, default=0, help="seed of the first image")


def run(args: Namespace) -> int:
    """Draws, prints and saves; returns the exit code."""
    from rfc_compile.tools.cli.demo_drawings import draw_all

    draw_all(args)
    return 0


def _tolerances(text: str) -> tuple[float, ...]:
    return tuple(_finite(part) for part in text.split(","))
