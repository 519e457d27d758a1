"""What a schedule could go by instead, each judged in closed loop.

    statistic       of every cached step, from the inputs that are known there
    full  <=>  its sum since the last full step > threshold, or 8 cached ones in a row

The threshold is sought for every cell such that a run has the wanted number of full
steps; whole images of the bundled model, predicted by `taylor` as the defaults are,
PSNR against the uncached ones. What differs between rows is where full steps lie.
`evenly` is a list made beforehand, as `rfc_compile.schedules.outlook` spreads it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.glyph_cells import Cell, cells, draw
from benchmarks.ideas import Moment, Stack, make_model, subspace, taylor
from benchmarks.ideas_of_modules import Score, grid
from benchmarks.presets import spread_evenly
from benchmarks.report import console, save
from rfc_compile.estimators.base import changes, inner_product, ratio
from rfc_compile.schedules.base import DEFAULT_CACHED_RUN
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

Statistic = Callable[[Moment, Sequence[Moment]], Tensor]
"""Of a step and the full steps before, (G,): how far off a prediction may be."""

DEFAULT: Final = "error of the stream (rcs)"
EVENLY: Final = "evenly"
_SEED: Final = 7000
_TRIALS: Final = 9


def error(name: str) -> Statistic:
    """Of Taylor's prediction of an input, relative to it."""
    return lambda now, kept: _missed(name, taylor(2)(now, kept), now, kept)


def residual(name: str) -> Statistic:
    """What no combination of an input's last changes explains, relative to it."""
    return lambda now, kept: _missed(name, subspace(name, 1e-6)(now, kept), now, kept)


def larger(*statistics: Statistic) -> Statistic:
    """The largest of several."""
    return lambda now, kept: torch.stack([s(now, kept) for s in statistics]).amax(0)


def _missed(
    name: str, weights: Sequence[Tensor], now: Moment, kept: Sequence[Moment]
) -> Tensor:
    current, last = now.inputs[name], kept[0].inputs[name]
    missed = current - last
    moves = changes([moment.inputs[name] for moment in kept], len(weights))
    for weight, move in zip(weights, moves, strict=True):
        missed = missed - weight.reshape(-1, *[1] * (move.ndim - 1)) * move
    return ratio(inner_product(missed, missed), inner_product(current, current)).sqrt()


IDEAS: Final[dict[str, Statistic]] = {
    DEFAULT: error("stream"),
    "error of the latent": error("latent"),
    "error of the first block": error("probe"),
    "residual of the stream": residual("stream"),
    "residual of the latent": residual("latent"),
    "residual of the first block": residual("probe"),
    "residual of the stream or the first block": larger(
        residual("stream"), residual("probe")
    ),
}


class Watched(Stack):
    """The blocks as one, computed where a statistic adds up, or at listed steps."""

    def begin(self, idea: str, full_steps: Sequence[int]) -> None:
        """The next call is the first of a run that goes by the list."""
        super().begin(idea, full_steps)
        self._statistic: Statistic | None = None

    def watch(self, statistic: Statistic, threshold: float) -> None:
        """The next call is the first of a run that goes by this."""
        self.begin("taylor", ())
        self.count = self._since_full = 0
        self._statistic, self._threshold, self._sum = statistic, threshold, 0.0

    def is_full(self, now: Moment) -> bool:
        """Whether the blocks are computed."""
        if self._statistic is None:
            return super().is_full(now)
        if self._kept:
            self._sum += float(self._statistic(now, self._kept).max())
        full = not self._kept or not self._sum <= self._threshold
        full = full or self._since_full >= DEFAULT_CACHED_RUN
        self._sum = 0.0 if full else self._sum
        self._since_full = 0 if full else self._since_full + 1
        self.count += full
        return full


class _Drawing:
    """Draws cells by every idea."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.uncached = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
        self.model, self.stack = make_model(Watched)

    def scores(self, cell: Cell) -> Iterator[Score]:
        """Of every idea."""
        reference = draw(self.uncached, cell, self.images, _SEED)
        self.stack.begin("taylor", spread_evenly(cell.steps, cell.nfc))
        drawn = draw(self.model, cell, self.images, _SEED)
        yield Score(EVENLY, cell, psnr(drawn, reference).mean().item())
        for idea, statistic in IDEAS.items():
            drawn = self._with(statistic, cell)
            yield Score(idea, cell, psnr(drawn, reference).mean().item())

    def _with(self, statistic: Statistic, cell: Cell) -> Tensor:
        """Images of the run that has the wanted full steps, or just fewer."""
        low, high, threshold = 0.0, math.inf, 0.3
        found: dict[int, Tensor] = {}
        for _ in range(_TRIALS):
            self.stack.watch(statistic, threshold)
            drawn = draw(self.model, cell, self.images, _SEED)
            if self.stack.count <= cell.nfc:
                high = threshold
                found[self.stack.count] = drawn
            else:
                low = threshold
            if self.stack.count == cell.nfc:
                break
            threshold = 2 * threshold if high == math.inf else (low + high) / 2
        return found[max(found)]


def run(*, quick: bool, images: int | None) -> None:
    """Measure, print and write `results/ideas_of_schedules.json` and `.md`."""
    count = images or (2 if quick else 4)
    drawing, scores = _Drawing(count), list[Score]()
    for cell in cells(quick=quick):
        scores += drawing.scores(cell)
        console.print(cell, highlight=False)
    names: dict[str, Any] = {EVENLY: None, **IDEAS}
    table = grid(scores, names, DEFAULT)
    table.show()
    save(
        "ideas_of_schedules",
        "What a schedule could go by instead",
        {"images": count, "scores": [asdict(score) for score in scores]},
        [f"{count} images per cell.\n", table.markdown()],
    )
