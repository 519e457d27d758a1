"""How close cached images are to uncached ones, at equal numbers of full steps (NFC).

The bundled model over samplers x guidance scales (batched), 50 steps, fixed seeds. A
score is the mean over the images of their PSNR against the uncached images. Everything
runs through `torch.compile(backend="rfc")` with the graphs run eagerly, so that a
setting starts fast; the passes and the runtime are the real ones.

Schedules: TaylorSeer's fixed intervals; `rcs` with the threshold that gives the same
NFC in that cell, without a cap; for the default estimator, `rcs` with shipped guards.
"""

import gc
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

import rfc_compile
from benchmarks.report import Grid, console, save
from rfc_compile import Options, glyph
from rfc_compile.metrics import psnr
from rfc_compile.observe import dispatchers_of

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
INTERVALS: Final = {14: 4, 11: 5, 8: 7}
"""TaylorSeer's interval for each NFC, with two full steps first."""

DEFAULT: Final = "subspace 2"

_SHIPPED: Final = Options()
_SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "interval": {"schedule": "interval", "warmup": 2, "max_cached_run": None},
    "rcs": {"schedule": "rcs", "warmup": 3, "max_cached_run": None},
    "rcs, guards": {"schedule": "rcs"},
}
_LOWEST, _HIGHEST, _TRIALS = 0.01, 20.0, 6
"""Range of thresholds and how many are tried."""


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
    """One setting in one cell.

    Attributes:
        estimator: with its order.
        schedule: a name in `_SCHEDULES`.
        cell: sampler and guidance.
        wanted: the NFC that was asked for; `nfc` was reached.
        psnr: mean over the images, in dB.
        threshold: of `rcs`.
        full_steps: their indices.

    """

    estimator: str
    schedule: str
    cell: str
    wanted: int
    nfc: int
    psnr: float
    threshold: float | None
    full_steps: tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """What to draw: the cells, and their uncached images."""

    cells: tuple[Cell, ...]
    labels: Tensor
    references: Mapping[Cell, Tensor]

    def draw(self, model: nn.Module, cell: Cell) -> Tensor:
        """The images of a cell."""
        return glyph.sample(
            model,
            labels=self.labels,
            seed=1000,
            scheduler=cell.sampler,
            steps=STEPS,
            guidance=cell.guidance,
        )


def make_sampling(cells: Sequence[Cell], count: int) -> Sampling:
    """Draw the uncached images of the cells."""
    device = glyph.default_device()
    labels = torch.arange(count, device=device) % glyph.NUM_CLASSES
    sampling = Sampling(tuple(cells), labels, {})
    model = glyph.load_glyph_dit().to(device)
    references = {cell: sampling.draw(model, cell) for cell in cells}
    return replace(sampling, references=references)


@contextmanager
def compiled(sampling: Sampling, options: Mapping[str, Any]) -> Iterator[nn.Module]:
    """The bundled model with the backend; forgotten afterwards.

    It is called once for each batch size, so that `tune` reaches every graph.
    """
    model = glyph.load_glyph_dit().to(sampling.labels.device)
    settings = {"inner": "eager", **options}
    model = torch.compile(model, backend="rfc", dynamic=False, options=settings)
    first = {cell.guidance != 1.0: cell for cell in sampling.cells}
    try:
        for guided in first:
            labels = torch.cat([sampling.labels] * (1 + guided))
            x_BCHW = torch.randn(len(labels), *glyph.IMAGE_SHAPE, device=labels.device)
            t = torch.tensor(999, device=labels.device).expand(len(labels))
            with torch.no_grad():
                model(x_BCHW, timestep=t, class_labels=labels)
        yield model
    finally:
        del model
        torch._dynamo.reset()
        gc.collect()


def tune(model: nn.Module, **changes: Any) -> None:
    """Change options that only the runtime reads, without compiling again."""
    for dispatcher in dispatchers_of(model):
        dispatcher._options = replace(dispatcher._options, **changes)
        dispatcher._schedule = dispatcher._options.make_schedule()
        dispatcher.reset()


def score(
    model: nn.Module,
    sampling: Sampling,
    cell: Cell,
    label: tuple[str, str],
    wanted: int,
) -> Score:
    """Draw the images of a cell as the model is set now."""
    images = sampling.draw(model, cell)
    stats = rfc_compile.stats(model)
    threshold = dispatchers_of(model)[0]._options.threshold
    return Score(
        estimator=label[0],
        schedule=label[1],
        cell=str(cell),
        wanted=wanted,
        nfc=stats.nfc,
        psnr=psnr(images, sampling.references[cell]).mean().item(),
        threshold=None if label[1] == "interval" else threshold,
        full_steps=tuple(d.step for d in stats.decisions if d.full),
    )


def search(
    model: nn.Module,
    sampling: Sampling,
    cell: Cell,
    label: tuple[str, str],
    wanted: int,
    guess: float,
) -> Score:
    """Bisect the threshold for the wanted NFC, else the nearest below; above it only
    if the guards force that.
    """
    low, high, threshold = _LOWEST, _HIGHEST, guess
    best = None
    for _ in range(_TRIALS):
        tune(model, threshold=threshold)
        found = score(model, sampling, cell, label, wanted)
        best = found if best is None else max(best, found, key=_rank)
        low, high = (threshold, high) if found.nfc > wanted else (low, threshold)
        if found.nfc == wanted or high < 1.02 * low:
            break
        near = threshold * (found.nfc / wanted) ** 1.3
        threshold = near if low < near < high else math.sqrt(low * high)
    assert best is not None
    return best


def _rank(found: Score) -> tuple[bool, int]:
    """Larger is better: not above the wanted NFC, then as near as can be."""
    return found.nfc <= found.wanted, -abs(found.nfc - found.wanted)


def measure(
    sampling: Sampling, wanted: Sequence[int], *, quick: bool
) -> Iterator[list[Score]]:
    """All estimators under all schedules; yields the scores of each pair."""
    guesses: dict[tuple[Cell, int], float] = {}
    for schedule, options in _SCHEDULES.items():
        for estimator, order in ESTIMATORS[: 3 if quick else None]:
            name = f"{estimator} {order}" if order else estimator
            if schedule == "rcs, guards" and name != DEFAULT:
                continue
            settings = {"estimator": estimator, "order": order, **options}
            label = (name, schedule)
            scores = []
            with compiled(sampling, settings) as model:
                for cell, nfc in itertools.product(sampling.cells, wanted):
                    if schedule == "interval":
                        tune(model, interval=INTERVALS[nfc])
                        found = score(model, sampling, cell, label, nfc)
                    else:
                        guess = guesses.get((cell, nfc), 7.0 / nfc)
                        found = search(model, sampling, cell, label, nfc, guess)
                        guesses[cell, nfc] = found.threshold or guess
                    scores.append(found)
            yield scores


def _show_progress(own: Sequence[Score]) -> None:
    parts = [f"NFC {n}: {_mean(own, n):.2f} dB" for n in _wanted(own)]
    label = f"{own[0].schedule}, {own[0].estimator}"
    console.print(f"{label}: {', '.join(parts)}", highlight=False)


def _wanted(scores: Sequence[Score]) -> list[int]:
    return sorted({s.wanted for s in scores}, reverse=True)


def _mean(scores: Sequence[Score], wanted: int) -> float:
    return statistics.mean(s.psnr for s in scores if s.wanted == wanted)


def _names(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(s.estimator for s in scores))


def grids(scores: Sequence[Score]) -> list[Grid]:
    """Averages over the cells, then one table of all cells per schedule and NFC."""
    schedules = list(dict.fromkeys(s.schedule for s in scores))
    columns = [
        (schedule, wanted)
        for schedule in schedules
        for wanted in _wanted([s for s in scores if s.schedule == schedule])
    ]
    result = [_averages(scores, columns)]
    for schedule, wanted in columns:
        chosen = [s for s in scores if (s.schedule, s.wanted) == (schedule, wanted)]
        cells = list(dict.fromkeys(s.cell for s in chosen))
        by = {(s.estimator, s.cell): s for s in chosen}
        names = _names(chosen)
        rows = [
            [name, *(_cell_text(by[name, cell]) for cell in cells)] for name in names
        ]
        title = f"PSNR in dB, {schedule}, NFC {wanted} of {STEPS}"
        result.append(Grid(title, ["estimator", *cells], rows))
    return result


def _cell_text(found: Score) -> str:
    other = "" if found.nfc == found.wanted else f" ({found.nfc})"
    return f"{found.psnr:.2f}{other}"


def _averages(scores: Sequence[Score], columns: Sequence[tuple[str, int]]) -> Grid:
    rows = []
    for name in _names(scores):
        row = [name]
        for schedule, wanted in columns:
            key = (name, schedule, wanted)
            own = [s for s in scores if (s.estimator, s.schedule, s.wanted) == key]
            if not own:
                row.append("-")
                continue
            nfc = statistics.mean(s.nfc for s in own)
            other = "" if nfc == wanted else f" ({nfc:.1f})"
            row.append(f"{_mean(own, wanted):.2f}{other}")
        rows.append(row)
    header = ["estimator", *(f"{schedule} {wanted}" for schedule, wanted in columns)]
    return Grid("Mean PSNR in dB by schedule and NFC (real NFC)", header, rows)


def verdicts(scores: Sequence[Score]) -> list[str]:
    """The lead of the default estimator over each other, per schedule and NFC."""
    lines = []
    for schedule in dict.fromkeys(s.schedule for s in scores):
        own = [s for s in scores if s.schedule == schedule]
        first, *others = _names(own)
        for wanted in _wanted(own):
            means = {
                name: _mean([s for s in own if s.estimator == name], wanted)
                for name in (first, *others)
            }
            lines += [
                f"{schedule}: {first} - {name}: {means[first] - means[name]:+.1f} dB "
                f"at NFC {wanted}"
                for name in others
            ]
    return lines


def run(*, quick: bool, images: int | None) -> None:
    """Measure, print and write `results/quality.json` and `quality.md`."""
    samplers, guidances = ("ddim", "dpmpp_2m"), (2.0,) if quick else (1.0, 2.0, 4.0)
    cells = [Cell(s, g) for s in samplers for g in guidances]
    wanted = (14,) if quick else tuple(INTERVALS)
    count = images or (4 if quick else 16)
    sampling = make_sampling(cells, count)
    scores: list[Score] = []
    for own in measure(sampling, wanted, quick=quick):
        _show_progress(own)
        scores += own
        _save(scores, count)
    for table in grids(scores):
        table.show()
    console.print("\n".join(verdicts(scores)), highlight=False)


def _save(scores: Sequence[Score], count: int) -> None:
    """Write what there is, so that a run that is stopped leaves whole tables."""
    notes = (
        f"{count} images per cell; in brackets the real NFC where it is not the wanted "
        f"one. `rcs, guards`: warmup={_SHIPPED.warmup}, "
        f"max_cached_run={_SHIPPED.max_cached_run}.\n"
    )
    save(
        "quality",
        "Quality at equal numbers of full steps",
        {"images": count, "steps": STEPS, "scores": [asdict(s) for s in scores]},
        [
            notes,
            *(table.markdown() for table in grids(scores)),
            *(f"- {line}" for line in verdicts(scores)),
        ],
    )
