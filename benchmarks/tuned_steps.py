"""Tuned full steps against the defaults with as many, on images that tuning never saw.

    tune          the first half of a model's examples, 50 steps, `target_nfc`
    left out      the other half and other seeds, as many full steps:
                  even            the default with `target_nfc`
                  error control   the default, brought there by its tolerance
                  tuned           what was found
    28 steps      the same file, against the default with as many full steps

Every number is the mean PSNR in dB against the uncached run of the same steps.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.report import Grid, publish, verdict
from rfc_compile import trajectory
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.reference import Reference, draw_reference
from rfc_compile.tools.measure.target import Target
from rfc_compile.tools.measure.trained_model import TrainedModel
from rfc_compile.tools.measure.trial import Trial, compare, compile_model, decide_by
from rfc_compile.tools.tuning.goal import Goal
from rfc_compile.tools.tuning.runner import run_study
from rfc_compile.tools.tuning.study import Plan

STEPS: Final = 50
OTHER_STEPS: Final = 28
COUNTS: Final = (14, 9)
SAMPLERS: Final = {"emoji-flux": "euler_shift3"}
IMAGES: Final = 2
SEEDS: Final = 6
LEFT_OUT: Final = range(100, 106)
MINUTES: Final = 6.0
WANTED: Final = 1.5


@dataclass(frozen=True)
class Compared:
    """One model at one number of full steps: mean PSNR in dB of left-out images.

    Attributes:
        full: full steps that were asked for, of 50.
        even: of the default with `target_nfc`.
        controlled: of error control, at `controlled_nfc` full steps.
        other_nfc: full steps of the tuned file at 28 steps.
        other_even: there, of the default with as many.
        other_tuned: there, of the tuned file.
        options: that were found.
        runs: drawn to find them, in `seconds`.
    """

    model: str
    full: int
    even: float
    controlled: float
    controlled_nfc: float
    tuned: float
    tuned_nfc: float
    other_nfc: float
    other_even: float
    other_tuned: float
    options: dict[str, Any]
    runs: int
    seconds: float


def target_of(kind: TrainedModel, examples: Sequence[Any], steps: int) -> Target:
    """Draws some of a model's examples, others for every seed."""
    sampler = SAMPLERS.get(kind.name, "ddim")
    calls = kind.count_calls(sampler, steps)

    def draw(model: nn.Module, seed: int) -> Tensor:
        places = range(IMAGES * seed, IMAGES * (seed + 1))
        chosen: Any = [examples[place % len(examples)] for place in places]
        if isinstance(chosen[0], int):
            chosen = torch.tensor(chosen)
        with trajectory(kind.name, num_steps=calls):
            return kind.sample(
                model, chosen, seed=1000 * seed, scheduler=sampler, steps=steps
            )

    return Target(kind.name, kind.load(), draw, sampler, steps)


def controlled(reference: Reference, compiled: nn.Module, full: int) -> Trial:
    """Error control with the tolerance that comes nearest to so many full steps."""
    low, high, tried = 1e-4, 1.0, []
    for _ in range(7):
        tolerance = (low * high) ** 0.5
        decide_by(compiled, {"tolerance": tolerance})
        one = compare(reference.of(reference.seeds[:2]), compiled).measured
        tried.append((abs(one.nfc - full), tolerance))
        low, high = (tolerance, high) if one.nfc > full else (low, tolerance)
    decide_by(compiled, {"tolerance": min(tried)[1]})
    return compare(reference, compiled)


def measure(kind: TrainedModel, full: int, minutes: float) -> Compared:
    """Tune one model for a number of full steps and compare on what is left out."""
    examples = kind.examples
    half = len(examples) // 2
    study = run_study(
        target_of(kind, examples[:half], STEPS),
        Goal(target_nfc=full),
        Plan(seeds=SEEDS, time_limit=minutes, inner="eager", repeats=1),
        show=True,
    )
    options = dict(study.tuned.options)
    found: dict[str, Any] = {}
    for steps in (STEPS, OTHER_STEPS):
        target = target_of(kind, examples[half:], steps)
        reference = draw_reference(target, LEFT_OUT)
        torch.compiler.reset()
        compiled = compile_model(target.model, "eager", options)
        tuned = compare(reference, compiled).measured
        decide_by(compiled, {"target_nfc": round(tuned.nfc)})
        even = compare(reference, compiled).measured
        if steps == STEPS:
            control = controlled(reference, compiled, full).measured
            found |= {"tuned": tuned.psnr, "tuned_nfc": tuned.nfc, "even": even.psnr}
            found |= {"controlled": control.psnr, "controlled_nfc": control.nfc}
        else:
            found |= {"other_tuned": tuned.psnr, "other_nfc": tuned.nfc}
            found |= {"other_even": even.psnr}
    return Compared(
        kind.name,
        full,
        options=options,
        runs=study.search.trials.done,
        seconds=study.seconds,
        **found,
    )


def verdicts(found: Sequence[Compared]) -> list[str]:
    """The claims, and whether they hold."""
    claims = []
    for full in sorted({one.full for one in found}, reverse=True):
        own = [one for one in found if one.full == full]
        ahead = sum(one.tuned - one.even >= WANTED for one in own)
        kept = sum(one.other_tuned >= one.other_even for one in own)
        claims += [
            verdict(
                ahead == len(own),
                f"{full} full: {ahead} of {len(own)} models {WANTED:g} dB ahead of the "
                "default with as many",
            ),
            verdict(
                kept == len(own),
                f"{full} full, used at {OTHER_STEPS} steps: {kept} of {len(own)} "
                "models no worse than the default with as many",
            ),
        ]
    return claims


def table(found: Sequence[Compared]) -> Grid:
    """PSNR of every model and number of full steps."""
    rows = [
        [
            f"{one.model}, {one.full}",
            f"{one.even:.1f}",
            f"{one.controlled:.1f} ({one.controlled_nfc:.1f})",
            f"{one.tuned:.1f} ({one.tuned_nfc:.1f})",
            f"{one.tuned - one.even:+.1f}",
            f"{one.other_even:.1f}",
            f"{one.other_tuned:.1f} ({one.other_nfc:.1f})",
            f"{one.other_tuned - one.other_even:+.1f}",
            f"{one.runs} runs, {one.seconds:.0f} s",
        ]
        for one in found
    ]
    columns = ["model, full of 50", "even", "error control", "tuned", "gain"]
    other = [f"even, {OTHER_STEPS} steps", f"tuned, {OTHER_STEPS} steps", "gain"]
    title = "PSNR in dB of left-out images (full steps)"
    return Grid(title, [*columns, *other, "searched"], rows)


def run(args: Namespace) -> None:
    """Tune every bundled model for every number of full steps, and compare."""
    counts, minutes = (COUNTS[:1], 1.0) if args.quick else (COUNTS, MINUTES)
    models = MODELS.values()
    found = [measure(kind, full, minutes) for full in counts for kind in models]
    title = "Tuned full steps against the defaults with as many"
    data = {"compared": [asdict(one) for one in found]}
    publish("tuned_steps", title, data, [table(found)], verdicts(found))
