"""The cells of the matrix: which model is sampled in which way, how much is full.

Of the whole product of a model's samplers, guidance, steps and share of full steps, a
fraction is drawn that holds every pair of levels of any two factors: row by row, the
one that adds most pairs that are not held yet; of equals the one whose levels were used
least, then the first. Nothing is drawn at random.
"""

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from torch import nn

from benchmarks.unseen import UNSEEN
from rfc_compile.tools.bench.workloads import Workload, trained_workload
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.glyph_dit import default_device
from rfc_compile.tools.measure.trained_model import TrainedModel

MEASURED: Final[dict[str, TrainedModel]] = {**MODELS, **UNSEEN}

DIFFUSION: Final = ("ddim", "dpmpp_2m", "unipc", "heun", "ddpm")
FLOW: Final = (
    *("euler", "euler_shift3", "euler_shift7", "euler_dynamic"),
    *("unipc", "dpmpp_2m"),
)
INT8: Final = " int8"
"""Ends the name of a sampler whose model has weights and activations of 8 bits."""
GUIDANCE: Final = ((1.0, False), (2.0, False), (2.0, True), (4.0, False), (4.0, True))
"""Scale, and whether in separate calls."""
STEPS: Final = (20, 28, 50)
SHARES: Final = (16, 22, 28, 36)
"""Full steps in per cent of all."""


@dataclass(frozen=True)
class Cell:
    """One way to sample one model, and how many steps may be full.

    Attributes:
        sampler: name of a scheduler, perhaps with `INT8`.
        separate: whether guidance takes two calls a step.
        share: full steps in per cent.
    """

    model: str
    sampler: str
    guidance: float
    separate: bool
    steps: int
    share: int

    def __str__(self) -> str:
        """As tables show it, and as `--only` finds it."""
        separate = " separate" if self.separate else ""
        return (
            f"{self.model}, {self.sampler}, guidance {self.guidance:g}{separate}, "
            f"{self.steps} steps, {self.share} %"
        )

    @property
    def scheduler(self) -> str:
        """The sampler's name without `INT8`."""
        return self.sampler.removesuffix(INT8)

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations have 8 bits."""
        return self.sampler.endswith(INT8)

    @property
    def calls(self) -> int:
        """Steps at which the model is called; `heun` has nearly two for each."""
        return MEASURED[self.model].count_calls(self.scheduler, self.steps)

    @property
    def full(self) -> int:
        """The full ones among them."""
        return round(self.share * self.calls / 100)


@cache
def workload(cell: Cell, scheduler: str, steps: int) -> Workload:
    """The cell's model and guidance under a scheduler."""
    model = MEASURED[cell.model]
    return trained_workload(
        model,
        scheduler,
        cell.guidance,
        steps=steps,
        separate=cell.separate,
        make=(lambda: int8(cell.model)) if cell.is_int8 else None,
    )


def int8(name: str) -> nn.Module:
    """A model with weights and activations of 8 bits in its linear layers."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = MEASURED[name].load().to(default_device())
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def fraction(levels: Sequence[Sequence[Hashable]]) -> list[tuple[Hashable, ...]]:
    """Rows that hold every pair of levels of any two factors."""
    rows = list(itertools.product(*levels))
    left = {pair for row in rows for pair in _pairs(row)}
    used: Counter[tuple[int, Hashable]] = Counter()
    drawn = []
    while left:
        best = max(
            rows,
            key=lambda row: (
                sum(pair in left for pair in _pairs(row)),
                -sum(used[item] for item in enumerate(row)),
            ),
        )
        drawn.append(best)
        left.difference_update(_pairs(best))
        used.update(enumerate(best))
    return drawn


def _pairs(row: Sequence[Hashable]) -> Iterator[tuple[Hashable, ...]]:
    return itertools.combinations(enumerate(row), 2)


def cells_of(model: str) -> list[Cell]:
    """The model's part of the matrix."""
    known = MEASURED[model].schedulers
    flow = "euler_shift3" in known
    samplers = tuple(name for name in (FLOW if flow else DIFFUSION) if name in known)
    if model not in UNSEEN:
        samplers = (*samplers, samplers[0] + INT8)
    return [
        Cell(model, sampler, *guidance, steps, share)
        for sampler, guidance, steps, share in fraction(
            (samplers, GUIDANCE, STEPS, SHARES)
        )
    ]


def all_cells() -> list[Cell]:
    """The matrix, one cell of every model in turn."""
    parts = [cells_of(model) for model in MEASURED]
    rounds = itertools.zip_longest(*parts)
    return [cell for found in rounds for cell in found if cell is not None]
