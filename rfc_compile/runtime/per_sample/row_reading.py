"""What identifies the rows of a call, read before its graphs run.

Two copies to the host in a step: the timesteps and fingerprints of the rows, then how
far their latents are from those of the samples that they may continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rfc_compile.estimators.step_signal import Signal, row_sizes
from rfc_compile.passes.analysis.batch_dimension import Batch
from rfc_compile.runtime.per_sample.rows import count_of
from rfc_compile.runtime.readback import read_all, read_time

_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Row:
    """What one row of a call shows.

    Attributes:
        timestep: its timestep; the mean where it has several.
        conditioning: fingerprints of its conditioning inputs.
        finite: whether its latent holds ordinary numbers: no NaN, no Inf, not all 0.
    """

    timestep: float
    conditioning: tuple[float, ...]
    finite: bool

    @property
    def signal(self) -> Signal:
        """That of a step, before the probe."""
        return Signal((), 0.0, self.conditioning, self.finite)


def look_at(batch: Batch, timestep: int, arguments: Sequence[Any]) -> list[Row]:
    """The rows of a call; ``timestep`` is the position of that input."""
    count = count_of(batch, arguments)

    def by_row(position: int) -> Tensor:
        """The values of an input, one row for all where they share it."""
        value = arguments[position]
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=torch.float64)
        return value.reshape(count if position in batch.rows else 1, -1)

    latents = [arguments[i] for i in batch.latents]
    times, finite, *prints = read_all(
        [
            by_row(timestep).double().mean(1),
            ordinary(latents),
            *(fingerprints(by_row(i)) for i in batch.conditioning),
        ]
    )
    return [
        Row(
            timestep=read_time(_at(times, row))[0],
            conditioning=tuple([_at(values, row) for values in prints]),
            finite=bool(finite[row]),
        )
        for row in range(count)
    ]


def _at(values: Sequence[Any], row: int) -> Any:
    return values[row if len(values) > 1 else 0]


def ordinary(latents: Sequence[Tensor]) -> Tensor:
    """Whether each row is finite, and not zero in all latents (n, ...), shape (n,)."""
    sizes = torch.stack([row_sizes(latent) for latent in latents]).amax(0)
    return sizes.isfinite() & (sizes > 0)


def fingerprints(values: Tensor) -> Tensor:
    """A whole number for each row (n, L) that tells it from others, shape (n,).

    Sums of whole numbers are exact in any order, so that a row has the same one in
    every batch; the weights make it sensitive to order.
    """
    if values.is_floating_point():
        bits = values.contiguous().view(_WHOLE_NUMBERS[values.element_size()])
    else:
        bits = values
    index = torch.arange(1, values.shape[1] + 1, device=values.device)
    weights = index * 0x1E3779B97F4A7C15
    weights = (weights ^ (weights >> 29)) * 0x3F58476D1CE4E5B9 | 1
    return (bits.long() * weights).sum(1)
