"""Where full steps go: the constants of `schedules/even.py`, each judged left out.

Every trained model is sampled with some of its samplers, guidance, steps and full
steps; full steps are spread evenly over the steps, or over the noise level with several
densities and last distances. Numbers are the mean PSNR in dB against the
uncached run. For every model the choice is the one that is best on the others; what it
gives there is shown beside the even spread.
"""

import statistics
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from benchmarks.cached_runs import compiled, draw, similarity
from benchmarks.report import Grid, console, publish
from rfc_compile.schedules import even
from rfc_compile.tools.measure.bundled_models import MODELS

SAMPLERS: Final = {
    "emoji-flux": ("euler", "euler_shift3", "unipc"),
    "glyph-dit": ("ddim", "dpmpp_2m"),
    "motion-hunyuan": ("euler", "euler_shift3", "unipc"),
}
GUIDANCE: Final = (1.0, 4.0)
COUNTS: Final = ((20, 6), (28, 8), (50, 8), (50, 14))
"""Steps, and how many of them are full."""
IMAGES: Final = 2
SEED: Final = 7400
EVEN: Final = "even"
TITLE: Final = "Density, its order, last distance"


class Choice(NamedTuple):
    """Values of the constants."""

    denser: float
    order: int
    last: float

    def __str__(self) -> str:
        """As the tables show it."""
        return ", ".join(f"{value:g}" for value in self)


CHOICES: Final = [
    Choice(0.0, 8, 0.5),
    Choice(1.5, 8, 0.5),
    Choice(2.0, 6, 0.5),
    Choice(3.0, 5, 0.5),
    Choice(3.0, 8, 0.5),
    Choice(3.0, 8, 0.75),
    Choice(3.0, 16, 0.5),
    Choice(4.0, 8, 0.5),
]
CONSTANTS: Final = ("DENSER", "ORDER", "LAST_DISTANCE")
Numbers = dict[str, float]
"""PSNR by choice, and of the even spread."""


def spread_by(choice: Choice | None) -> None:
    """Place full steps by these constants from now on; None: evenly over the steps."""
    even.Even.by_noise = choice is not None
    for name, value in zip(CONSTANTS, choice or (), strict=False):
        setattr(even, name, value)


def measured(name: str, sampler: str, *, quick: bool) -> Iterator[Numbers]:
    """One for each guidance, number of steps and of full steps."""
    model = MODELS[name]
    conditions = model.conditions(1 if quick else IMAGES)
    for guidance in GUIDANCE[:1] if quick else GUIDANCE:
        net = compiled(model)
        first: dict[str, Any] = {
            "seed": SEED,
            "scheduler": sampler,
            "guidance": guidance,
        }
        model.sample(net, conditions, steps=2, **first)  # compiles
        for steps, full in COUNTS[:1] if quick else COUNTS:
            given = {**first, "steps": steps}
            plain = model.sample(model.load(), conditions, **given)
            found = {}
            for choice in (None, *CHOICES):
                spread_by(choice)
                images = draw(model, net, {"target_nfc": full}, conditions, **given)
                close = similarity(images, plain).mean().item()
                found[EVEN if choice is None else str(choice)] = close
            yield found


def mean(numbers: list[Numbers]) -> Numbers:
    """Of each choice."""
    return {key: statistics.mean(x[key] for x in numbers) for key in numbers[0]}


def run(args: Namespace) -> None:
    """Of one image and one number of steps where it is to be quick."""
    kept = _shipped()
    found: dict[str, Numbers] = {}
    try:
        for name, samplers in SAMPLERS.items():
            for sampler in samplers:
                numbers = mean(list(measured(name, sampler, quick=args.quick)))
                found[f"{name}, {sampler}"] = numbers
                console.print(name, sampler, numbers, highlight=False)
    finally:
        spread_by(kept)
    publish("placement", "Where full steps go", found, [_left_out(found), _all(found)])


def _shipped() -> Choice:
    return Choice(*(getattr(even, name) for name in CONSTANTS))


def _by_model(found: dict[str, Numbers]) -> dict[str, Numbers]:
    return {
        name: mean([x for place, x in found.items() if place.startswith(f"{name},")])
        for name in SAMPLERS
    }


def _left_out(found: dict[str, Numbers]) -> Grid:
    rows, models = [], _by_model(found)
    for name, own in models.items():
        others = mean([numbers for other, numbers in models.items() if other != name])
        chosen = max(map(str, CHOICES), key=others.__getitem__)
        numbers = [own[EVEN], own[chosen], own[str(_shipped())]]
        rows.append([name, chosen, *(f"{x:.1f}" for x in numbers)])
    header = ["left out", "best on the others", "even", "as chosen", "as shipped"]
    return Grid(f"{TITLE}: mean PSNR in dB", header, rows)


def _all(found: dict[str, Numbers]) -> Grid:
    rows = [
        [key, *(f"{numbers[key]:.1f}" for numbers in found.values())]
        for key in (EVEN, *map(str, CHOICES))
    ]
    return Grid("All of them", [TITLE, *found], rows)
