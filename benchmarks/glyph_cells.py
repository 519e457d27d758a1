"""Ways to sample the bundled model, as the smaller benchmarks share them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

import rfc_compile
from rfc_compile.tools.bench.methods.base import EAGER, compile_model
from rfc_compile.tools.measure import glyph_dit

FULL_STEPS: Final = {50: (8, 11, 14, 18), 20: (4, 5)}
"""By steps."""

_SEED, _OTHER_SEED = 7000, 3000


@dataclass(frozen=True)
class Cell:
    """One way to sample, at one number of full steps."""

    sampler: str
    guidance: float
    steps: int
    nfc: int

    def __str__(self) -> str:
        """As the tables show it."""
        return f"{self.sampler} {self.guidance:g}, {self.nfc} of {self.steps}"


def cells(*, quick: bool) -> list[Cell]:
    """All of the matrix; with `quick` a corner of it."""
    samplers, guidances = ("ddim", "dpmpp_2m", "euler", "unipc"), (1.0, 2.0, 4.0)
    if quick:
        samplers, guidances = samplers[:2], guidances[1:2]
    return [
        Cell(sampler, guidance, steps, nfc)
        for steps, counts in FULL_STEPS.items()
        for nfc in counts
        for sampler in samplers
        for guidance in guidances
    ]


def draw(denoise: glyph_dit.Denoiser, cell: Cell, images: int, seed: int) -> Tensor:
    """The images of a cell."""
    labels = (
        torch.arange(images, device=glyph_dit.default_device()) % glyph_dit.NUM_CLASSES
    )
    return glyph_dit.sample(
        denoise,
        labels=labels,
        seed=seed,
        scheduler=cell.sampler,
        steps=cell.steps,
        guidance=cell.guidance,
    )


Draw = Callable[[Cell], tuple[Tensor, int]]
"""The images of a cell and the full steps that they took."""


def ours(options: Mapping[str, Any], images: int) -> Callable[[int], Draw]:
    """Draws with this package at an NFC."""

    def at(nfc: int) -> Draw:
        model = compile_model(
            glyph_dit.load_glyph_dit().to(glyph_dit.default_device()),
            "rfc",
            dynamic=False,
            options={**options, "target_nfc": nfc, "inner": EAGER},
        )

        def run(cell: Cell) -> tuple[Tensor, int]:
            rfc_compile.reset(model)
            drawn = torch.empty(0)
            for seed in (_OTHER_SEED, _SEED):
                with rfc_compile.trajectory("matrix", num_steps=cell.steps):
                    drawn = draw(model, cell, images, seed)
            return drawn, len(full_steps_of(rfc_compile.stats(model), cell.steps))

        return run

    return at


def full_steps_of(known: rfc_compile.Statistics, steps: int) -> list[int]:
    """Of a run of so many steps; one that jumps is two trajectories."""
    before = steps - len(known.decisions)
    own = [before + decision.step for decision in known.decisions if decision.full]
    if before <= 0 or known.last is None:
        return own
    return full_steps_of(known.last, before) + own
