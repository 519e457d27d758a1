"""The defaults against TaylorSeer and the paper, over samplers, guidance and NFC.

Every method at the same number of full steps (NFC) on the bundled model: four samplers
x three guidance scales x NFC {8, 11, 14, 18} of 50 and {4, 5} of 20 steps. A score is
the mean over the images of their PSNR against the uncached images.

    ours          the default options with `target_nfc`
    paper         estimator rfe, a region per module, threshold steered the same way
    TaylorSeer    its own rules in eager code (order 2, fixed intervals)

What steers by `target_nfc` draws other images first, as in a process that has run
before. Graphs run eagerly; who compiles them changes images by rounding only.
"""

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

import rfc_compile
from benchmarks.report import Grid, console, save, show
from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.methods.base import EAGER, compile_model
from rfc_compile.tools.bench.workloads import GLYPH, Step
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

INTERVALS: Final = {50: {8: 7, 11: 5, 14: 4, 18: 3}, 20: {4: 7, 5: 5}}
"""Steps, NFC: TaylorSeer's interval."""

OURS: Final[dict[str, dict[str, Any]]] = {
    "ours": {},
    "paper": {"estimator": "rfe", "granularity": "module", "warmup": 2},
}
TAYLORSEER: Final = "TaylorSeer"

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


@dataclass(frozen=True)
class Score:
    """One method in one cell.

    Attributes:
        method: a name of this file.
        sampler: in the cell.
        guidance: in the cell.
        steps: in the cell.
        nfc: that was asked for.
        real_nfc: full steps of the run.
        psnr: mean over the images, in dB.
        psnr_min: of the worst image, in dB.

    """

    method: str
    sampler: str
    guidance: float
    steps: int
    nfc: int
    real_nfc: int
    psnr: float
    psnr_min: float


def cells(*, quick: bool) -> list[Cell]:
    """All of the matrix; with `quick` a corner of it."""
    samplers, guidances = ("ddim", "dpmpp_2m", "euler", "unipc"), (1.0, 2.0, 4.0)
    if quick:
        samplers, guidances = samplers[:2], guidances[1:2]
    return [
        Cell(sampler, guidance, steps, nfc)
        for steps, intervals in INTERVALS.items()
        for nfc in intervals
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


def taylorseer(images: int) -> Callable[[int], Draw]:
    """Draws by TaylorSeer's rules at an NFC."""
    method = METHODS["TaylorSeer, reference"]

    def at(nfc: int) -> Draw:
        def run(cell: Cell) -> tuple[Tensor, int]:
            interval = INTERVALS[cell.steps][nfc]
            setting = {"interval": interval, "order": 2, "first_full": 2}
            model = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
            applied = method.apply(model, GLYPH, setting, EAGER)
            applied.begin()
            index = iter(range(cell.steps))

            def denoise(x: Tensor, /, **inputs: Tensor) -> Any:
                step = Step(
                    next(index), cell.steps, math.nan, math.nan
                )  # it looks at indices
                return _Output(applied.denoise(step, x, **inputs))

            return draw(denoise, cell, images, _SEED), nfc

        return run

    return at


@dataclass(frozen=True)
class _Output:
    sample: Tensor


def measure(images: int, todo: Sequence[Cell]) -> Iterator[Score]:
    """Every method in every one of these cells."""
    uncached = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
    references: dict[tuple[str, float, int], Tensor] = {}
    methods = {name: ours(options, images) for name, options in OURS.items()}
    methods[TAYLORSEER] = taylorseer(images)
    for nfc in dict.fromkeys(cell.nfc for cell in todo):
        for name, at in methods.items():
            run = at(nfc)
            for cell in (cell for cell in todo if cell.nfc == nfc):
                key = cell.sampler, cell.guidance, cell.steps
                if key not in references:
                    references[key] = draw(uncached, cell, images, _SEED)
                drawn, real = run(cell)
                similarity = psnr(drawn, references[key])
                yield Score(
                    method=name,
                    **asdict(cell),
                    real_nfc=real,
                    psnr=similarity.mean().item(),
                    psnr_min=similarity.min().item(),
                )
            torch.compiler.reset()
            gc.collect()


def grids(scores: Sequence[Score]) -> list[Grid]:
    """Means over the samplers and guidance scales, then every cell."""
    names = list(dict.fromkeys(score.method for score in scores))
    columns = list(dict.fromkeys((score.nfc, score.steps) for score in scores))

    def mean(name: str, column: tuple[int, int]) -> str:
        found = [s for s in scores if s.method == name and (s.nfc, s.steps) == column]
        if not found:
            return "-"
        real = {score.real_nfc for score in found} - {column[0]}
        note = f" (NFC {min(real)} to {max(real)})" if real else ""
        return f"{statistics.mean(score.psnr for score in found):.2f}{note}"

    header = ["method", *(f"{nfc} of {steps}" for nfc, steps in columns)]
    rows = [[name, *(mean(name, column) for column in columns)] for name in names]
    return [Grid("Mean PSNR in dB by full steps", header, rows), _cells(scores, names)]


def _cells(scores: Sequence[Score], names: Sequence[str]) -> Grid:
    by = {
        (s.method, s.sampler, s.guidance, s.steps, s.nfc): f"{s.psnr:.2f}"
        for s in scores
    }
    places = list(dict.fromkeys(key[1:] for key in by))
    rows = [
        [str(Cell(sampler, guidance, steps, nfc))]
        + [by.get((name, sampler, guidance, steps, nfc), "-") for name in names]
        for sampler, guidance, steps, nfc in places
    ]
    return Grid("PSNR in dB of every cell", ["cell", *names], rows)


def verdicts(scores: Sequence[Score]) -> list[str]:
    """What is claimed of the defaults, and whether it holds."""
    by = {(s.method, s.sampler, s.guidance, s.steps, s.nfc): s.psnr for s in scores}
    lines = []
    for rival, wanted in ((TAYLORSEER, 2.0), ("paper", 3.0)):
        leads = [
            psnr - by[(rival, *key)]
            for (name, *key), psnr in by.items()
            if name == "ours" and (rival, *key) in by
        ]
        if leads:
            average, least = statistics.mean(leads), min(leads)
            met = "met" if average >= wanted and least >= -1 else "missed"
            lines.append(
                f"{met}: ahead of {rival} by {average:.2f} dB on average over "
                f"{len(leads)} cells (wanted: {wanted:g}), by {least:.2f} dB at least"
            )
    return lines


def run(*, quick: bool, images: int | None, only: str = "") -> None:
    """Measure, print and write `results/matrix.json` and `matrix.md`.

    With ``only``, look at the cells with this in their name (``ddim 4, 18 of 50``) and
    write nothing.
    """
    count = images or (2 if quick else 8)
    todo = [cell for cell in cells(quick=quick) if only in str(cell)]
    scores: list[Score] = []
    for score in measure(count, todo):
        scores.append(score)
        console.print(score, highlight=False, soft_wrap=True)
        if not only:
            _save(scores, count)
    for table in grids(scores):
        show(table)
    console.print("\n".join(verdicts(scores)))


def _save(scores: Sequence[Score], images: int) -> None:
    tables = [table.markdown() for table in grids(scores)]
    claims = "\n".join(f"- {line}" for line in verdicts(scores)) + "\n"
    save(
        "matrix",
        "The defaults over samplers, guidance and NFC",
        {"images": images, "scores": [asdict(score) for score in scores]},
        [f"{images} images per cell.\n", claims, *tables],
    )
