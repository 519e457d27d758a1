"""The defaults, with no option at all, against as many steps of the best solver.

Every trained model, those of `unseen` too, with the guidance of its card, 20, 28 and 50
steps: full steps and PSNR of the default; the best PSNR of three solvers (the sampler
itself, DPM++ 2M and UniPC) at as many uncached steps as were full; and the same of the
other presets. The reference is the uncached run of the same sampler and steps.
"""

import statistics
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import torch

import rfc_compile
from benchmarks.cached_runs import compiled, draw, similarity
from benchmarks.cells import MEASURED
from benchmarks.report import Grid, publish
from rfc_compile.tools.measure.trained_model import TrainedModel

FLOW: Final = ("euler_shift3", ("dpmpp_2m_shift3", "unipc_shift3"))
DIFFUSION: Final = ("ddim", ("dpmpp_2m", "unipc"))
STEPS: Final = (20, 28, 50)
PRESETS: Final = ("balanced", "quality", "fast")
SEEDS: Final = (8000, 9000)
IMAGES: Final = 4


@dataclass(frozen=True)
class Default:
    """One preset on one model, means over seeds and images."""

    model: str
    sampler: str
    steps: int
    preset: str
    full: float
    psnr: float
    solver: float

    def row(self) -> list[str]:
        """Of the table."""
        numbers = f"{self.full:g} of {self.steps}", f"{self.psnr:.1f}"
        place = f"{self.model}, {self.sampler}"
        return [place, self.preset, *numbers, f"{self.solver:.1f}"]


def measured(model: TrainedModel, *, quick: bool) -> Iterator[Default]:
    """All steps and presets of a model."""
    sampler, solvers = FLOW if FLOW[0] in model.schedulers else DIFFUSION
    conditions = model.conditions(1 if quick else IMAGES)
    net, uncached = compiled(model), model.load()

    def solved(seed: int, scheduler: str, steps: int) -> torch.Tensor:
        return model.sample(
            uncached, conditions, seed=seed, scheduler=scheduler, steps=steps
        )

    for steps in STEPS[:1] if quick else STEPS:
        seeds = SEEDS[:1] if quick else SEEDS
        references = {seed: solved(seed, sampler, steps) for seed in seeds}
        for preset in PRESETS[:1] if quick else PRESETS:
            found: list[tuple[float, float, float]] = []
            for seed, wanted in references.items():
                run = {"seed": seed, "scheduler": sampler, "steps": steps}
                images = draw(model, net, {"preset": preset}, conditions, **run)
                full = rfc_compile.stats(net).nfc
                few = [solved(seed, name, full) for name in (sampler, *solvers)]
                best = max(similarity(one, wanted).mean().item() for one in few)
                found.append((full, similarity(images, wanted).mean().item(), best))
            means = [statistics.mean(values) for values in zip(*found, strict=True)]
            full, psnr, solver = (round(value, 2) for value in means)
            yield Default(model.name, sampler, steps, preset, full, psnr, solver)


def run(args: Namespace) -> None:
    """Of 20 steps and one image where it is to be quick."""
    found = [one for m in MEASURED.values() for one in measured(m, quick=args.quick)]
    header = ["model, sampler", "preset", "full steps", "PSNR dB"]
    header += ["as many steps of the best solver"]
    grid = Grid("With no option", header, [one.row() for one in found])
    rows = [asdict(one) for one in found]
    publish("defaults", "The defaults", {"rows": rows}, [grid])
