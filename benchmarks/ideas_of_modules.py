"""Estimators of single modules that are not the default, each judged in closed loop.

They take the place of the default's in the graphs, at granularity ``module``, steered
to the same number of full steps; whole images of the bundled model, PSNR against the
uncached ones. `ideas` does the same for the stack, in eager code.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor

from benchmarks.matrix import Cell, cells, draw, ours
from benchmarks.report import Grid, console, save
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.estimators.base import (
    TAYLOR,
    Estimator,
    changes,
    extrapolate,
    inner_product,
    ratio,
)
from rfc_compile.estimators.subspace import Subspace
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

_SEED: Final = 7000


class PulledByMiss(Subspace):
    """The ridge from data: what the fit misses of the input's change goes to Taylor."""

    name = "pulled_by_miss"

    def coefficients(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> list[Tensor]:
        """A mean of the fit's coefficients and Taylor's weights, per sample."""
        fit = super().coefficients(current, inputs, statistics, weights)
        moved = current.float() - inputs[0].float()
        guess = torch.zeros_like(moved)
        for c, change in zip(fit, changes(inputs, self.order), strict=True):
            guess = guess + c.reshape(-1, *[1] * (change.ndim - 1)) * change
        missed = moved - guess
        share = ratio(inner_product(missed, missed), inner_product(moved, moved))
        share = share.clamp(0, 1).sqrt()
        return [(1 - share) * c + share * weights[TAYLOR, j] for j, c in enumerate(fit)]


class OfTokens(Subspace):
    """Coefficients of their own for every fourth of the tokens."""

    name = "subspace_of_tokens"
    dim = 1

    def predict(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> Tensor:
        """What `subspace` gives for each part, side by side."""
        values = [current, *inputs, *outputs]
        predicted = []
        for part in zip(*(v.chunk(_PARTS, self.dim) for v in values), strict=True):
            now, history = part[0], part[1 : len(inputs) + 1]
            gram = self.observe(history, ())
            c = self.coefficients(now, history, gram, weights)
            predicted.append(extrapolate(part[len(inputs) + 1 :], c))
        return torch.cat(predicted, self.dim)


class OfChannels(OfTokens):
    """Coefficients of their own for every fourth of the channels, as for heads."""

    name = "subspace_of_channels"
    dim = -1


_PARTS: Final = 4
NEW: Final[tuple[type[Estimator], ...]] = (PulledByMiss, OfTokens, OfChannels)

DEFAULT: Final = "subspace"
IDEAS: Final[dict[str, dict[str, Any]]] = {
    DEFAULT: {},
    "subspace, ridge 0.2": {"ridge": 0.2},
    "subspace, ridge 1": {"ridge": 1.0},
    "subspace, ridge 0.1, pulled by its miss": {
        "estimator": PulledByMiss.name,
        "ridge": 0.1,
    },
    "subspace, ridge 0.5, pulled by its miss": {"estimator": PulledByMiss.name},
    "subspace, by token group": {"estimator": OfTokens.name},
    "subspace, by channel group": {"estimator": OfChannels.name},
    "subspace, by token group, ridge 1": {"estimator": OfTokens.name, "ridge": 1.0},
    "subspace, by channel group, ridge 1": {
        "estimator": OfChannels.name,
        "ridge": 1.0,
    },
    "taylor": {"estimator": "taylor"},
    "rfe": {"estimator": "rfe"},
}


@contextmanager
def registered() -> Iterator[None]:
    """The new estimators may be named by options."""
    with mock.patch.dict(ESTIMATORS, {kind.name: kind for kind in NEW}):
        yield


@dataclass(frozen=True)
class Score:
    """One idea in one cell: PSNR in dB, the mean over the images."""

    idea: str
    cell: Cell
    psnr: float


def measure(images: int, todo: Sequence[Cell]) -> Iterator[Score]:
    """Every idea in every cell."""
    uncached = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
    references = {
        (cell.sampler, cell.guidance, cell.steps): draw(uncached, cell, images, _SEED)
        for cell in todo
    }
    for idea, options in IDEAS.items():
        for nfc in dict.fromkeys(cell.nfc for cell in todo):
            run = ours({"granularity": "module", **options}, images)(nfc)
            for cell in (cell for cell in todo if cell.nfc == nfc):
                drawn, _ = run(cell)
                reference = references[cell.sampler, cell.guidance, cell.steps]
                yield Score(idea, cell, psnr(drawn, reference).mean().item())
            torch.compiler.reset()


def grid(scores: Sequence[Score], ideas: Mapping[str, Any], default: str) -> Grid:
    """Means by full steps, and how often each idea leads the default."""
    columns = list(dict.fromkeys((s.cell.steps, s.cell.nfc) for s in scores))
    base = {s.cell: s.psnr for s in scores if s.idea == default}
    rows = []
    for idea in ideas:
        own = [score for score in scores if score.idea == idea]
        leads = [score.psnr - base[score.cell] for score in own]
        means = [
            statistics.mean(s.psnr for s in own if (s.cell.steps, s.cell.nfc) == column)
            for column in columns
        ]
        rows.append(
            [
                idea,
                *(f"{mean:.2f}" for mean in means),
                f"{statistics.mean(leads):+.2f}",
                f"{min(leads):+.2f}",
                f"{sum(lead > 0 for lead in leads)} of {len(leads)}",
            ]
        )
    header = ["estimate", *(f"{nfc} of {steps}" for steps, nfc in columns)]
    header += ["lead", "least", "better in"]
    return Grid(f"Mean PSNR in dB, and the lead over {default}", header, rows)


def run(*, quick: bool, images: int | None) -> None:
    """Measure, print and write `results/ideas_of_modules.json` and `.md`."""
    count = images or (2 if quick else 4)
    todo = cells(quick=quick)
    scores = []
    with registered():
        for score in measure(count, todo):
            scores.append(score)
            console.print(score, highlight=False, soft_wrap=True)
    table = grid(scores, IDEAS, DEFAULT)
    table.show()
    save(
        "ideas_of_modules",
        "Estimators of modules that are not the default",
        {"images": count, "scores": [asdict(score) for score in scores]},
        [f"{count} images per cell.\n", table.markdown()],
    )
