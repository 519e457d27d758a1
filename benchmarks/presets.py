"""What a threshold costs and gives: full steps and image quality, to choose presets by.

The default options at several thresholds on the bundled model, four samplers each at a
guidance scale of its own, 50 and 20 steps: how many steps are full, and the PSNR
against the uncached images. `rfc_compile.config.PRESETS` is chosen from this table.

    spread        the default, in runs whose number of steps is told
    rcs           full wherever the accumulated error asks for it, as the paper has it
    mask          as many full steps as `spread` had, close to evenly spread beforehand
"""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import nn

import rfc_compile
from benchmarks.matrix import Cell, draw, full_steps_of
from benchmarks.report import Grid, console, save, show
from rfc_compile.config.options import PRESETS
from rfc_compile.schedules.forecast import Forecast
from rfc_compile.tools.bench.methods.base import EAGER, compile_model
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr
from rfc_compile.tools.measure.trial import decide_by

SCHEDULES: Final = ("spread", "rcs", "mask")
THRESHOLDS: Final = (*sorted(PRESETS.values()), 0.1, 0.5, 1.0)
WAYS: Final = (("ddim", 2.0), ("dpmpp_2m", 4.0), ("euler", 2.0), ("unipc", 1.0))
STEPS: Final = (50, 20)

_SEED: Final = 5500


@dataclass(frozen=True)
class Outcome:
    """One threshold, schedule, sampler and number of steps.

    Attributes:
        threshold: that decides, for `mask` how many steps are full.
        schedule: of `SCHEDULES`.
        sampler: of `rfc_compile.glyph`.
        guidance: scale.
        steps: of the run.
        nfc: full steps.
        psnr: mean over the images, in dB.

    """

    threshold: float
    schedule: str
    sampler: str
    guidance: float
    steps: int
    nfc: int
    psnr: float

    def __str__(self) -> str:
        """Full steps and quality."""
        return f"{self.nfc}: {self.psnr:.1f} dB"


def measure(images: int, thresholds: tuple[float, ...]) -> Iterator[Outcome]:
    """Every threshold, schedule, sampler and number of steps."""
    device = glyph_dit.default_device()
    uncached = glyph_dit.load_glyph_dit().to(device)
    model = glyph_dit.load_glyph_dit().to(device)
    compiled = compile_model(model, "rfc", dynamic=False, options={"inner": EAGER})
    for cell in (Cell(sampler, g, steps, 0) for steps in STEPS for sampler, g in WAYS):
        reference = draw(uncached, cell, images, _SEED)
        draw(compiled, cell, images, _SEED)  # compile
        for threshold in sorted(thresholds):
            evenly: list[int] = []
            for schedule in SCHEDULES:
                options = {"schedule": schedule, "threshold": threshold}
                by_mask = {"full_steps": evenly, "max_cached_run": None}
                decide_by(compiled, options | (by_mask if schedule == "mask" else {}))
                nfc, drawn = _draw(compiled, cell, images)
                evenly = evenly or spread_evenly(cell.steps, nfc)
                yield Outcome(
                    threshold,
                    schedule,
                    cell.sampler,
                    cell.guidance,
                    cell.steps,
                    nfc,
                    psnr(drawn, reference).mean().item(),
                )


def spread_evenly(steps: int, nfc: int) -> list[int]:
    """So many full steps, runs shortening towards the end as those of `spread`."""
    full_steps, since_full = [0], 0
    for step in range(1, steps):
        left = nfc - len(full_steps)
        _, most = Forecast([1.0] * (steps - step), since_full, 0.0).evenly(left)
        due = left > 0 and since_full >= most
        full_steps += [step] if due else []
        since_full = 0 if due else since_full + 1
    return full_steps


def _draw(compiled: nn.Module, cell: Cell, images: int) -> tuple[int, torch.Tensor]:
    """Full steps and images of a run."""
    rfc_compile.reset(compiled)
    with rfc_compile.trajectory("presets", num_steps=cell.steps):
        drawn = draw(compiled, cell, images, _SEED)
    full_steps = full_steps_of(rfc_compile.stats(compiled), cell.steps)
    return len(full_steps), drawn


def run(*, quick: bool, images: int | None) -> None:
    """Measure, print and write `results/presets.json` and `presets.md`."""
    count = images or (1 if quick else 4)
    thresholds = tuple(PRESETS.values()) if quick else THRESHOLDS
    found = []
    for outcome in measure(count, thresholds):
        console.print(outcome.threshold, outcome.schedule, outcome.sampler, outcome)
        found.append(outcome)
    table = Grid(
        "spread, full steps: PSNR",
        ["threshold", *(f"{s} {g:g}, {n} steps" for n in STEPS for s, g in WAYS)],
        [
            [_name(threshold), *(str(o) for o in _of(found, threshold, SCHEDULES[0]))]
            for threshold in sorted(thresholds)
        ],
    )
    means = Grid(
        "Means over the samplers, full steps: PSNR",
        ["threshold", *(f"{kind}, {n} steps" for n in STEPS for kind in SCHEDULES)],
        [
            [_name(threshold)]
            + [_mean(found, threshold, kind, n) for n in STEPS for kind in SCHEDULES]
            for threshold in sorted(thresholds)
        ],
    )
    show(table)
    show(means)
    save(
        "presets",
        "What a threshold costs and gives",
        {"images": count, "outcomes": [asdict(outcome) for outcome in found]},
        [f"{count} images each.\n", table.markdown(), means.markdown()],
    )


def _name(threshold: float) -> str:
    names = {value: f" ({name})" for name, value in PRESETS.items()}
    return f"{threshold:g}{names.get(threshold, '')}"


def _of(found: list[Outcome], threshold: float, schedule: str) -> list[Outcome]:
    return [o for o in found if (o.threshold, o.schedule) == (threshold, schedule)]


def _mean(found: list[Outcome], threshold: float, schedule: str, steps: int) -> str:
    own = [o for o in _of(found, threshold, schedule) if o.steps == steps]
    nfc = statistics.mean(o.nfc for o in own)
    return f"{nfc:.1f}: {statistics.mean(o.psnr for o in own):.1f} dB"
