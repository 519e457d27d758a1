"""How close cached images are to uncached ones, at equal numbers of full steps (NFC).

Every estimator of single modules under TaylorSeer's fixed intervals, on the bundled
model: samplers x guidance scales (batched), 50 steps, fixed seeds. A score is the mean
over the images of their PSNR against the uncached images. Everything runs through
`torch.compile(backend="rfc")` with the graphs run eagerly, so that a setting starts
fast; the passes and the runtime are the real ones.
"""

import gc
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

import rfc_compile
from benchmarks.report import Grid, console, save, show
from rfc_compile.tools.bench.methods.base import compile_model
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

STEPS: Final = 50
ESTIMATORS: Final = (
    ("subspace", 2),
    ("taylor", 2),
    ("rfe", 2),
    ("subspace", 1),
    ("subspace", 3),
    ("taylor", 1),
    ("rfe", 1),
    ("reuse", 0),
)
"""The default of modules first."""
INTERVALS: Final = {14: 4, 11: 5, 8: 7}
"""TaylorSeer's interval for each NFC, with two full steps first."""

_SEED: Final = 1000


@dataclass(frozen=True)
class Cell:
    """One way to sample."""

    sampler: str
    guidance: float

    def __str__(self) -> str:
        """Short enough for a column."""
        return f"{self.sampler} {self.guidance:g}"


@dataclass(frozen=True)
class Score:
    """One estimator in one cell.

    Attributes:
        estimator: with its order.
        cell: sampler and guidance.
        nfc: full steps.
        psnr: mean over the images, in dB.
        psnr_min: of the worst image, in dB.

    """

    estimator: str
    cell: str
    nfc: int
    psnr: float
    psnr_min: float


@dataclass(frozen=True)
class Sampling:
    """What to draw: the cells, the labels, and the cells' uncached images."""

    labels: Tensor
    references: Mapping[Cell, Tensor]

    def scores(self, model: nn.Module, name: str) -> list[Score]:
        """Of a compiled model with the estimator of that name, one for each cell."""
        found = []
        for cell, reference in self.references.items():
            similarity = psnr(_draw(model, self.labels, cell), reference)
            found.append(
                Score(
                    estimator=name,
                    cell=str(cell),
                    nfc=rfc_compile.stats(model).nfc,
                    psnr=similarity.mean().item(),
                    psnr_min=similarity.min().item(),
                )
            )
        return found


def _draw(model: nn.Module, labels: Tensor, cell: Cell) -> Tensor:
    return glyph_dit.sample(
        model,
        labels=labels,
        seed=_SEED,
        scheduler=cell.sampler,
        steps=STEPS,
        guidance=cell.guidance,
    )


def make_sampling(cells: Sequence[Cell], count: int) -> Sampling:
    """Draw `count` uncached images of every cell."""
    device = glyph_dit.default_device()
    labels = torch.arange(count, device=device) % glyph_dit.NUM_CLASSES
    model = glyph_dit.load_glyph_dit().to(device)
    return Sampling(labels, {cell: _draw(model, labels, cell) for cell in cells})


@contextmanager
def compiled(estimator: str, order: int, **options: Any) -> Iterator[nn.Module]:
    """The bundled model with the backend, of modules; forgotten afterwards."""
    model = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
    settings = {
        "inner": "eager",
        "granularity": "module",
        "estimator": estimator,
        "order": order,
        **options,
    }
    try:
        yield compile_model(model, "rfc", dynamic=False, options=settings)
    finally:
        torch.compiler.reset()
        gc.collect()


def fixed(nfc: int) -> dict[str, Any]:
    """Options of the schedule with that many full steps of 50."""
    return {
        "schedule": "interval",
        "interval": INTERVALS[nfc],
        "warmup": 2,
        "max_cached_run": None,
    }


def label(estimator: str, order: int) -> str:
    """Its name in the tables."""
    return f"{estimator} {order}" if order else estimator


def mean(scores: Sequence[Score]) -> float:
    """Of their PSNR, in dB."""
    return statistics.mean(score.psnr for score in scores)


def grids(scores: Sequence[Score]) -> list[Grid]:
    """Averages over the cells, then one table of all cells per NFC."""
    names = list(dict.fromkeys(s.estimator for s in scores))
    counts = list(dict.fromkeys(s.nfc for s in scores))
    cells = list(dict.fromkeys(s.cell for s in scores))
    by: dict[tuple[str, int], list[Score]] = {}
    for score in scores:
        by.setdefault((score.estimator, score.nfc), []).append(score)
    averages = [
        [
            name,
            *(f"{mean(by[name, n]):.2f}" if (name, n) in by else "-" for n in counts),
        ]
        for name in names
    ]
    header = ["estimator", *(f"{n} of {STEPS} full" for n in counts)]
    tables = [Grid("Mean PSNR in dB by NFC", header, averages)]
    for n in counts:
        rows = [
            [name, *(f"{score.psnr:.2f}" for score in by[name, n])]
            for name in names
            if (name, n) in by
        ]
        title = f"PSNR in dB, NFC {n} of {STEPS}"
        tables.append(Grid(title, ["estimator", *cells], rows))
    return tables


def run(*, quick: bool, images: int | None) -> None:
    """Measure, print and write `results/quality.json` and `quality.md`."""
    samplers, guidances = ("ddim", "dpmpp_2m"), (2.0,) if quick else (1.0, 2.0, 4.0)
    cells = [Cell(s, g) for s in samplers for g in guidances]
    count = images or (4 if quick else 16)
    sampling = make_sampling(cells, count)
    scores: list[Score] = []
    for nfc in tuple(INTERVALS)[: 1 if quick else None]:
        for estimator, order in ESTIMATORS[: 3 if quick else None]:
            with compiled(estimator, order, **fixed(nfc)) as model:
                own = sampling.scores(model, label(estimator, order))
            console.print(f"{label(estimator, order)}: NFC {nfc}, {mean(own):.2f} dB")
            scores += own
            _save(scores, count)
    for table in grids(scores):
        show(table)


def _save(scores: Sequence[Score], count: int) -> None:
    """Write what there is, so that a run that is stopped leaves whole tables."""
    save(
        "quality",
        "Quality at equal numbers of full steps",
        {"images": count, "steps": STEPS, "scores": [asdict(s) for s in scores]},
        [f"{count} images per cell.\n", *(table.markdown() for table in grids(scores))],
    )
