"""Which input of a graph is the sampler's latent, and which output its answer.

    latent (B, 4, H, W)  ->  output (B, 4, H, W)     images or packed tokens
    latent (B, 9, H, W)  ->  output (B, 4, H, W)     masks and conditions joined to it
    latent (B, 4, H, W)  ->  output (B, 8, H, W)     learned sigma
    latent (B, 4, H, W)  ->  output (2 B, 4, H, W)   guidance, which the caller mixes

Guidance in one batch may be for the first three channels of an image alone, as in DiT's
``forward_with_cfg``: where rows have the same latent, only these are compared.

Found from the shapes of a call; the residual of the fit confirms it (``sampler_fit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import Array

LARGEST_ERROR = 0.15
"""Relative size of a prediction's error above which less of it is repaid: then the
steps between lie on no simple curve (`python -m benchmarks corrector`)."""

GUIDED = 3
"""Channels that guidance in one batch is for, at least (``eps[:, :3]``)."""


@dataclass(frozen=True)
class LatentPair:
    """A latent and its output; R rows of N values are what both have in common.

    Attributes:
        index: of the latent among those of the graph.
        output: position of its output among the results.
        dim: the dimension whose sizes may differ.
        size: what both have of it.
        copies: rows of the output for each of the latent's, which is repeated so often.
        channels: how many of an image's are compared, None for all.

    """

    index: int
    output: int
    dim: int
    size: int
    copies: int = 1
    channels: int | None = None

    def latent(self, latents: Sequence[Any]) -> Tensor:
        """The latent of a call, (R, N); ``latents`` are all of the graph."""
        rows = self._rows(latents[self.index])
        return rows.repeat(self.copies, 1) if self.copies > 1 else rows

    def returned(self, outputs: Sequence[Any]) -> Tensor:
        """What is returned for it, (R, N)."""
        return self._rows(outputs[self.output])

    def _rows(self, value: Tensor) -> Tensor:
        if value.shape[self.dim] != self.size:
            value = value.narrow(self.dim, 0, self.size)
        if self.channels is not None:
            value = value.narrow(1, 0, self.channels)
        return value.flatten(1)

    @staticmethod
    def damping(error: Array) -> Array:
        """The share of a debt that is repaid, by the prediction's relative error."""
        return np.minimum(1.0, LARGEST_ERROR / np.where(error > 0, error, 1.0))

    def corrected(
        self, outputs: Sequence[Any], predicted: Sequence[Any], amount: Tensor
    ) -> list[Any]:
        """The outputs of a full step with ``amount`` (R,) of its prediction's error.

        ``predicted`` are the outputs as a cached step gives them.
        """
        results = list(outputs)
        result: Tensor = results[self.output].clone()
        part = result.narrow(self.dim, 0, self.size)
        guess = predicted[self.output].narrow(self.dim, 0, self.size)
        error = part.float() - guess.float()
        part.copy_(part.float() + amount.view(-1, *[1] * (error.ndim - 1)) * error)
        results[self.output] = result
        return results


def find_latent_pair(
    latents: Sequence[Any], outputs: Sequence[Any]
) -> LatentPair | None:
    """The first latent with an output of its shape but for one size at most.

    An output with several rows for each of the latent's comes after the others.
    """
    found = [
        (copies, len(dims), LatentPair(index, output, dim, min(sizes), copies))
        for index, latent in enumerate(latents)
        for output, value in enumerate(outputs)
        if (copies := _copies(latent, value))
        for dims in [_differing(latent, value)]
        if len(dims) <= 1
        for dim in [dims[0] if dims else 1]
        for sizes in [(latent.shape[dim], value.shape[dim])]
    ]
    if not found:
        return None
    *_, pair = min(found, key=lambda one: one[:2])
    image = latents[pair.index]
    channels = pair.size if pair.dim == 1 else image.shape[1]
    more = image.ndim > 3 and channels > GUIDED
    guided = more and partners(pair.latent(latents))
    return replace(pair, channels=GUIDED) if guided else pair


def partners(latent: Tensor) -> tuple[tuple[int, ...], ...]:
    """For every further row with the same latent (R, N), the rows' indices.

    Guidance in one batch gives the sampler a mixture of such rows' outputs.
    """
    others = alike(latent)
    least = min(map(len, others))
    return tuple(tuple(own[i] for own in others) for i in range(least))


def alike(latent: Tensor) -> list[list[int]]:
    """For every row, the other rows with the same latent (R, N)."""
    flat = latent.float()
    weights = torch.arange(flat.shape[1], device=flat.device).float().cos() + 1.5
    (prints,) = read_all([(flat * weights).sum(1)])
    groups: dict[float, list[int]] = {}
    for row, value in enumerate(prints):
        groups.setdefault(value, []).append(row)
    return [[x for x in groups[value] if x != row] for row, value in enumerate(prints)]


def _copies(latent: Any, output: Any) -> int:
    """Rows of an output for each of the latent's; 0 if they cannot be compared."""
    if not isinstance(latent, Tensor) or not isinstance(output, Tensor):
        return 0
    if latent.ndim != output.ndim or latent.ndim < 2 or not output.is_floating_point():
        return 0
    copies, rest = divmod(len(output), max(1, len(latent)))
    return 0 if rest else copies


def _differing(latent: Tensor, output: Tensor) -> list[int]:
    """The dimensions, but for the rows, whose sizes differ."""
    sizes = enumerate(zip(latent.shape, output.shape, strict=True))
    return [dim for dim, (a, b) in sizes if dim > 0 and a != b]
