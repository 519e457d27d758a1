"""Which input of a graph is the sampler's latent, and which output its answer.

    latent (B, 4, H, W)  ->  output (B, 4, H, W)     images or packed tokens
    latent (B, 9, H, W)  ->  output (B, 4, H, W)     masks and conditions joined to it
    latent (B, 4, H, W)  ->  output (B, 8, H, W)     learned sigma

Found from the shapes of a call; the residual of the fit confirms it (``sampler_fit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import Array

LARGEST_ERROR = 0.15
"""Relative size of a prediction's error above which less of it is repaid: then the
steps between lie on no simple curve (`python -m benchmarks corrector`)."""


@dataclass(frozen=True)
class LatentPair:
    """A latent and its output; R rows of N values are what both have in common.

    Attributes:
        index: of the latent among those of the graph.
        output: position of its output among the results.
        dim: the dimension whose sizes may differ.
        size: what both have of it.

    """

    index: int
    output: int
    dim: int
    size: int

    def latent(self, latents: Sequence[Any]) -> Tensor:
        """The latent of a call, (R, N); ``latents`` are all of the graph."""
        value: Tensor = latents[self.index]
        if value.shape[self.dim] != self.size:
            value = value.narrow(self.dim, 0, self.size)
        return value.flatten(1)

    def returned(self, outputs: Sequence[Any]) -> Tensor:
        """What is returned for it, (R, N)."""
        value: Tensor = outputs[self.output]
        if value.shape[self.dim] != self.size:
            value = value.narrow(self.dim, 0, self.size)
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
    """The first latent with an output of its shape but for one size at most."""
    for most in (0, 1):
        for index, latent in enumerate(latents):
            for output, value in enumerate(outputs):
                dims = _differing(latent, value)
                if dims is not None and len(dims) <= most:
                    dim = dims[0] if dims else 1
                    sizes = latent.shape[dim], value.shape[dim]
                    return LatentPair(index, output, dim, min(sizes))
    return None


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


def _differing(latent: Any, output: Any) -> list[int] | None:
    """The dimensions whose sizes differ; None for values that cannot be compared."""
    if not isinstance(latent, Tensor) or not isinstance(output, Tensor):
        return None
    if latent.ndim != output.ndim or latent.ndim < 2 or not output.is_floating_point():
        return None
    sizes = list(zip(latent.shape, output.shape, strict=True))
    if sizes[0][0] != sizes[0][1]:
        return None
    return [dim for dim, (a, b) in enumerate(sizes) if a != b]
