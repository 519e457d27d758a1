"""Which input of a graph is the sampler's latent, and which output its answer.

    latent (B, 4, H, W)  ->  output (B, 4, H, W)     images or packed tokens
    latent (B, 9, H, W)  ->  output (B, 4, H, W)     masks and conditions joined to it
    latent (B, 4, H, W)  ->  output (B, 8, H, W)     learned sigma
    latent (B, 9, D)     ->  output (B, 9, D)        reference tokens joined to it
    latent (B, 4, H, W)  ->  output (2 B, 4, H, W)   guidance, which the caller mixes
    latent (B, 4, H, W)  ->  two outputs of its shape    the same

Guessed from the shapes of the first call; what the sampler moves between two calls
confirms it (``latent_search``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfc_compile.dynamo_frames import is_passed
from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import Array

LARGEST_ERROR = 0.15
"""Relative size of a prediction's error above which less of it is repaid: then the
steps between lie on no simple curve."""


@dataclass(frozen=True)
class LatentPair:
    """A latent and its output; R rows of N values are what both have in common.

    Attributes:
        index: of the latent among those of the graph.
        output: position of its output among the results.
        dim: the dimension of which both may have more.
        size: what they have in common of it.
        start: where that begins in the latent.
        output_start: where it begins in the output.
        copies: rows of the output for each of the latent's, which is repeated so often.
        further: positions of outputs that answer the same latent.
        confirmed: whether a run has shown that it is the latent.
    """

    index: int
    output: int
    dim: int
    size: int
    start: int = 0
    output_start: int = 0
    copies: int = 1
    further: tuple[int, ...] = ()
    confirmed: bool = field(default=False, compare=False)

    def is_of_sampler(self, latents: Sequence[Any]) -> bool:
        """Whether it is known to be no stream within a broken forward."""
        return self.confirmed or is_passed(latents[self.index])

    def latent(self, latents: Sequence[Any]) -> Tensor:
        """The latent of a call, (R, N); ``latents`` are all of the graph."""
        value: Tensor = latents[self.index]
        if value.shape[self.dim] != self.size:
            value = value.narrow(self.dim, self.start, self.size)
        rows = value.flatten(1)
        copies = self.copies * (1 + len(self.further))
        return rows.repeat(copies, 1) if copies > 1 else rows

    def returned(self, outputs: Sequence[Any]) -> Tensor:
        """What is returned for it, (R, N)."""
        if self.further:
            every = self.output, *self.further
            return torch.cat([self._part(outputs[i]).flatten(1) for i in every])
        value: Tensor = outputs[self.output]
        if value.shape[self.dim] != self.size:
            value = value.narrow(self.dim, self.output_start, self.size)
        return value.flatten(1)

    def _part(self, output: Tensor) -> Tensor:
        """Of an output, what answers the latent; a view."""
        if output.shape[self.dim] == self.size:
            return output
        return output.narrow(self.dim, self.output_start, self.size)

    def with_returned(self, outputs: Sequence[Any], values: Tensor) -> list[Any]:
        """The outputs with ``values`` (R, N) as what is returned for the latent."""
        results = list(outputs)
        parts = values.chunk(1 + len(self.further))
        for i, value in zip((self.output, *self.further), parts, strict=True):
            results[i] = outputs[i].clone()
            part = self._part(results[i])
            part.copy_(value.view(part.shape))
        return results

    @staticmethod
    def damping(error: Array) -> Array:
        """The share of a debt that is repaid, by the prediction's relative error."""
        return np.minimum(1.0, LARGEST_ERROR / np.where(error > 0, error, 1.0))


def sizes_of(latents: Sequence[Any]) -> tuple[torch.Size, ...]:
    """What a session knows a pair by."""
    return tuple([latent.shape for latent in latents])


def find_latent_pair(
    latents: Sequence[Any], outputs: Sequence[Any]
) -> LatentPair | None:
    """The first latent with an output of its shape but for one size at most.

    An output with several rows for each of the latent's comes after the others.
    """
    found = [
        (copies, len(dims), LatentPair(index, output, dim, min(sizes), copies=copies))
        for index, latent in enumerate(latents)
        for output, value in enumerate(outputs)
        if (copies := copies_of(latent, value))
        for dims in [_differing(latent, value)]
        if len(dims) <= 1
        for dim in [dims[0] if dims else 1]
        for sizes in [(latent.shape[dim], value.shape[dim])]
    ]
    return min(found, key=lambda one: one[:2])[2] if found else None


def copies_of_tensors(values: Sequence[Any]) -> list[Any]:
    """The values, tensors among them copied."""
    with torch.inference_mode(mode=False):
        return [x.clone() if isinstance(x, Tensor) else x for x in values]


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


def copies_of(latent: Any, output: Any) -> int:
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
