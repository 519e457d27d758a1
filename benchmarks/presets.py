"""What a threshold costs and gives: full steps and image quality, to choose presets by.

The default options at several thresholds on the bundled model, four samplers each at a
guidance scale of its own, 50 and 20 steps: how many steps are full, and the PSNR
against the uncached images. `rfc_compile.config.PRESETS` is chosen from this table.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import torch

import rfc_compile
from benchmarks.matrix import Cell, draw
from benchmarks.report import Grid, console, save
from rfc_compile import glyph
from rfc_compile.bench.methods.base import EAGER, compile_model
from rfc_compile.config import PRESETS
from rfc_compile.metrics import psnr

THRESHOLDS: Final = (*sorted(PRESETS.values()), 0.1, 0.5, 1.0, 1.5)
WAYS: Final = (("ddim", 2.0), ("dpmpp_2m", 4.0), ("euler", 2.0), ("unipc", 1.0))
STEPS: Final = (50, 20)

_SEED: Final = 5500


@dataclass(frozen=True)
class Outcome:
    """One threshold, sampler and number of steps.

    Attributes:
        threshold: of `rcs`.
        sampler: of `rfc_compile.glyph`.
        guidance: scale.
        steps: of the run.
        nfc: full steps.
        psnr: mean over the images, in dB.

    """

    threshold: float
    sampler: str
    guidance: float
    steps: int
    nfc: int
    psnr: float

    def __str__(self) -> str:
        """Full steps and quality."""
        return f"{self.nfc}: {self.psnr:.1f} dB"


def measure(images: int, thresholds: tuple[float, ...]) -> Iterator[Outcome]:
    """Every threshold, sampler and number of steps."""
    device = glyph.default_device()
    uncached = glyph.load_glyph_dit().to(device)
    cells = [Cell(sampler, g, steps, 0) for steps in STEPS for sampler, g in WAYS]
    references = [draw(uncached, cell, images, _SEED) for cell in cells]
    for threshold in sorted(thresholds):
        torch.compiler.reset()
        options = {"threshold": threshold, "inner": EAGER}
        model = glyph.load_glyph_dit().to(device)
        compiled = compile_model(model, "rfc", dynamic=False, options=options)
        for cell, reference in zip(cells, references, strict=True):
            rfc_compile.reset(compiled)
            similarity = psnr(draw(compiled, cell, images, _SEED), reference)
            yield Outcome(
                threshold,
                cell.sampler,
                cell.guidance,
                cell.steps,
                nfc=rfc_compile.stats(compiled).nfc,
                psnr=similarity.mean().item(),
            )


def run(*, quick: bool, images: int | None) -> None:
    """Measure, print and write `results/presets.json` and `presets.md`."""
    count = images or (1 if quick else 4)
    thresholds = tuple(PRESETS.values()) if quick else THRESHOLDS
    found = []
    for outcome in measure(count, thresholds):
        console.print(outcome.threshold, outcome.sampler, outcome.steps, outcome)
        found.append(outcome)
    by = {(o.threshold, o.sampler, o.steps): str(o) for o in found}
    names = {threshold: f" ({name})" for name, threshold in PRESETS.items()}
    rows = [
        [f"{threshold:g}{names.get(threshold, '')}"]
        + [by[threshold, sampler, steps] for steps in STEPS for sampler, _ in WAYS]
        for threshold in dict.fromkeys(outcome.threshold for outcome in found)
    ]
    header = [f"{s} {g:g}, {steps} steps" for steps in STEPS for s, g in WAYS]
    table = Grid("Full steps: PSNR", ["threshold", *header], rows)
    table.show()
    save(
        "presets",
        "What a threshold costs and gives",
        {"images": count, "outcomes": [asdict(outcome) for outcome in found]},
        [f"{count} images each.\n", table.markdown()],
    )
